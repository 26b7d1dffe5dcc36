"""How much of a trained adapter a smaller rank would keep: development scores of its best approximations.

usage: python tests/benchmarks/rank_trial.py MIX --adapter radlite_batch/packs/smol.gguf [--ranks 32,16,8,4]

Each product of an adapter's two matrices is replaced by the nearest one of a smaller rank (truncated singular values),
which is what an adapter of that rank could do at best where the large one is right. MIX is what `radlite-train prepare
smol` wrote. The scores are those that `fit` prints: the share of questions with the right answer first.
"""

from pathlib import Path

import click
import torch
from torch import Tensor

from radlite_batch.engine.merge import read_adapter
from training.begin import parameters_of
from training.encode import open_encoder
from training.fit import development_scores, held_out
from training.model import Learner, load_base
from training.recipe import load_recipe


def truncated(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(r, in) and (out, r) of the nearest product of this rank: rows of the first beyond it are zero."""
    qa, ra = torch.linalg.qr(a.T)
    qb, rb = torch.linalg.qr(b)
    u, s, v = torch.linalg.svd(rb @ ra.T)
    s[rank:] = 0
    return v @ qa.T, qb @ (u * s)


def of_rank(parameters: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    found = dict(parameters)
    for name in parameters:
        if ".lora_A." in name:
            other = name.replace(".lora_A.", ".lora_B.")
            found[name], found[other] = truncated(parameters[name], parameters[other], rank)
    return found


@click.command()
@click.argument("mix", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--adapter", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--ranks", default="32,16,8,4", show_default=True)
@click.option("--recipe", "name", default="smol", show_default=True)
def main(mix: Path, adapter: Path, ranks: str, name: str) -> None:
    recipe = load_recipe(name)
    base, _ = recipe.base_file()
    encoder = open_encoder(base)
    held = held_out(mix, encoder, recipe, print)
    learner = Learner(load_base(base, getattr(torch, recipe.dtype)), recipe.lora, encoder.cue_words())
    whole = parameters_of(read_adapter(adapter), learner, recipe.lora)
    print(f"{len(held)} samples")
    for rank in map(int, ranks.split(",")):
        learner.load(of_rank(whole, rank))
        scores = development_scores(learner, held, recipe.batch.row_tokens)
        print(f"rank {rank}: " + ", ".join(f"{task} {score:.3f}" for task, score in scores.items()), flush=True)


if __name__ == "__main__":
    main()
