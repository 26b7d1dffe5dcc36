"""The `radlite-train` command: click declarations and printing, no logic of its own."""

import dataclasses
import json
import os
from pathlib import Path

import click

from radlite_batch.console import ErrorGroup
from training.evaluate import evaluate, score_lines


@click.group("radlite-train", cls=ErrorGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="radlite-batch")
def main() -> None:
    """Scores what `radlite run` wrote.

    \b
    Exit codes: 0 done; 1 fatal; 2 bad usage or input.
    """


@main.command("evaluate")
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("reference", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def evaluate_command(out: Path, reference: Path, as_json: bool) -> None:
    """Score the output OUT of a run against the labels in the Parquet file REFERENCE.

    Each score has its number of labelled reports, its 95 % interval (bootstrap over reports), and where it makes
    sense what always giving the reference's most frequent answer would score. Rows without an answer are wrong.

    \b
    Example: radlite-train evaluate out/demo sample_data/labelled.parquet
    """
    scores = evaluate(out, reference)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(score) for score in scores], indent=1))
        return
    for line in score_lines(scores):
        click.echo(line)


@main.command("prepare")
@click.argument("recipe")
@click.option("--data", metavar="[SOURCE=]FOLDER", multiple=True, help="Where a source's files are, or all of them.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder of the prepared mix.")
def prepare_command(recipe: str, data: tuple[str, ...], output: Path) -> None:
    """Read the sources of RECIPE, split them, and write the mix that `fit` reads.

    \b
    Example: radlite-train prepare smol --data ../data --output out/mix
    """
    from training.prepare import prepare, summary_lines
    from training.recipe import load_recipe, mix_of

    for line in summary_lines(prepare(mix_of(load_recipe(recipe), data), output)):
        click.echo(line)


@main.command("fit")
@click.argument("recipe")
@click.option(
    "--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True, help="What `prepare` wrote."
)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder of checkpoints and curves.")
@click.option("--threads", type=click.IntRange(1), default=os.cpu_count(), show_default="all cores")
def fit_command(recipe: str, data: Path, output: Path, threads: int) -> None:
    """Train the adapter and cues of RECIPE; the same command goes on after a kill.

    \b
    Example: radlite-train fit smol --data out/mix --output out/fit
    """
    from training.fit import fit
    from training.recipe import load_recipe

    fit(load_recipe(recipe), data, output, threads, click.echo)


@main.command("export")
@click.argument("recipe")
@click.option(
    "--fit",
    "fitted",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="What `fit` wrote.",
)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder of the adapter and its pack.")
@click.option("--merged", type=click.Choice(["bf16", "q8_0", "q4_0", "q4_k_m"]), help="Write the merged base too.")
def export_command(recipe: str, fitted: Path, output: Path, merged: str | None) -> None:
    """Write the adapter of RECIPE as GGUF, with a pack that `radlite run --pack` takes.

    \b
    Example: radlite-train export smol --fit out/fit --output out/pack
    """
    from training.export import export
    from training.recipe import load_recipe

    for path in export(load_recipe(recipe), fitted, output, merged):
        click.echo(path)
