"""The `radlite-train` command: click declarations and printing, no logic of its own."""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from radlite_batch.completion import completion_command
from radlite_batch.console import ErrorGroup
from radlite_batch.errors import UsageError
from radlite_batch.reference import reference_command


@click.group("radlite-train", cls=ErrorGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="radlite-batch")
def main() -> None:
    """Trains adapters for packs, and scores what `radlite run` wrote.

    \b
    Exit codes: 0 done; 1 fatal; 2 bad usage or input.
    """


@main.command("evaluate")
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("reference", type=click.Path(path_type=Path))
@click.option("--archive", type=click.Path(path_type=Path), help="The reports in Parquet, for the baselines by rule.")
@click.option(
    "--distinct-from", type=click.Path(path_type=Path), help="What `prepare` wrote: score unseen texts apart."
)
@click.option("--against", type=click.Path(path_type=Path), help="Another run's output: score the difference instead.")
@click.option("--details", is_flag=True, help="Print scores of single labels, systems, classes and shares too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with details and confusion tables.")
def evaluate_command(
    out: Path, reference: Path, archive: Path | None, distinct_from: Path | None, against: Path | None, details: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Score the output OUT of a run against the labels in the Parquet file REFERENCE.

    Each score has its number of labelled reports, its 95 % interval (bootstrap over patients, or over reports where no
    patient_id is given), and where it makes sense what always giving the reference's most frequent answer would score,
    and what rules would. Rows without an answer are wrong.

    \b
    Example: radlite-train evaluate out/demo sample_data/labelled.parquet --archive sample_data/reports.parquet
    """
    from training.evaluate import compare, confusion, difference_lines, evaluate, score_lines

    document: dict[str, Any] = {}
    if against and (archive or distinct_from):
        raise UsageError("--against gives differences alone, without baselines or unseen texts: leave the others out")
    if against:
        document["differences"] = differences = compare(out, against, reference)
        lines = difference_lines(differences, details)
    else:
        document["scores"] = scores = evaluate(out, reference, archive)
        lines = score_lines(scores, details)
        if distinct_from:
            from training.prepare import read_prepared
            from training.reference import text_sha

            known = {text_sha(sample) for sample in read_prepared(distinct_from, "train")}
            document["distinct"] = distinct = evaluate(out, reference, archive, known)
            lines += ["", "Texts that are not in training, each once:", *score_lines(distinct, details)]
        document["confusion"] = confusion(out, reference)
    click.echo(json.dumps(document, indent=1, default=dataclasses.asdict) if as_json else "\n".join(lines))


@main.command("calibrate")
@click.argument("pack")
@click.argument("prepared", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), required=True, help="JSON file of temperatures and errors.")
@click.option("--limit", type=click.IntRange(1), help="Most held-out samples of a task [all].")
@click.option("--write", is_flag=True, help="Write the temperatures into the pack's file.")
def calibrate_command(pack: str, prepared: Path, output: Path, limit: int | None, write: bool) -> None:
    """Fit a temperature for each closed task of PACK on the held-out samples (dev) of PREPARED.

    The errors after calibration are of samples that the temperature was not fitted on. Where matplotlib is installed, a
    picture of them is written beside the output.

    \b
    Example: radlite-train calibrate out/pack/smol.toml out/mix --output out/calibration.json --write
    """
    from radlite_batch.pack import load_pack
    from training.calibrate import calibrate, calibration_lines, draw_reliability, write_temperatures
    from training.datasets.picture import can_draw
    from training.prepare import read_prepared

    loaded = load_pack(pack)
    output.parent.mkdir(parents=True, exist_ok=True)
    found = calibrate(loaded, read_prepared(prepared, "dev"), limit, click.echo)
    output.write_text(json.dumps([dataclasses.asdict(one) for one in found], indent=1) + "\n", encoding="utf-8")
    if can_draw():
        draw_reliability(found, output.with_suffix(".png"))
    if write:
        write_temperatures(loaded.path, {one.task: one.temperature for one in found})
    for line in calibration_lines(found):
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

    _keep_private()
    for line in summary_lines(prepare(mix_of(load_recipe(recipe), data), output)):
        click.echo(line)


@main.command("fit")
@click.argument("recipe")
@click.option(
    "--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True, help="What `prepare` wrote."
)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder of checkpoints and curves.")
@click.option(
    "--processes",
    type=click.IntRange(1),
    default=os.cpu_count(),
    show_default="one for each core",
    help="Processes of one thread each that share a step.",
)
@click.option(
    "--begin-with",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="An exported adapter to train on.",
)
def fit_command(recipe: str, data: Path, output: Path, processes: int, begin_with: Path | None) -> None:
    """Train the adapter and cues of RECIPE; the same command goes on after a kill.

    \b
    Example: radlite-train fit smol --data out/mix --output out/fit
    """
    from training.fit import fit
    from training.recipe import load_recipe

    fit(load_recipe(recipe), data, output, processes, click.echo, begin_with)


@main.command("export")
@click.argument("recipe")
@click.option(
    "--fit",
    "fitted",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    multiple=True,
    help="What `fit` wrote; of several fits the mean of their parameters.",
)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder of the adapter and its pack.")
@click.option("--merged", type=click.Choice(["bf16", "q8_0", "q4_0", "q4_k_m"]), help="Write the merged base too.")
def export_command(recipe: str, fitted: tuple[Path, ...], output: Path, merged: str | None) -> None:
    """Write the adapter of RECIPE as GGUF, with a pack that `radlite run --pack` takes.

    \b
    Example: radlite-train export smol --fit out/fit --output out/pack
    """
    from training.export import export
    from training.recipe import load_recipe

    for path in export(load_recipe(recipe), fitted, output, merged):
        click.echo(path)


@main.command("reproduce")
@click.argument("packs", metavar="PACK_A PACK_B", nargs=2)
@click.option("--data", type=click.Path(path_type=Path), required=True, help="What `prepare` wrote.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder of runs, tables and the page.")
@click.option("--limit", type=click.IntRange(1), default=500, show_default=True, help="Held-out samples of each task.")
@click.option("--zero-shot", multiple=True, metavar="PACK", help="What the packs were tuned from: one, or one each.")
@click.option(
    "--mix", type=click.Path(path_type=Path), help="The prepared training mix, where it is not that of --data."
)
def reproduce_command(packs: tuple[str, str], data: Path, output: Path, **options: Any) -> None:
    """Run two packs over held-out samples and write the published tables and figures, OUTPUT/index.html.

    Running again goes on where it ended.

    \b
    Example: radlite-train reproduce smol-zero out/pack/smol.toml --data out/mix --output out/reproduce
    """
    from training.reproduce import reproduce

    _keep_private()
    sys.exit(reproduce(packs, data, output, **options, say=click.echo))


@main.command("score")
@click.argument("pack")
@click.argument("prepared", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder of archives, runs and scores.")
@click.option("--limit", type=click.IntRange(1), help="Most reports of a source, drawn once and for all [all].")
def score_command(pack: str, prepared: Path, output: Path, limit: int | None) -> None:
    """Run PACK over the reports that PREPARED holds out, and score each source apart.

    \b
    Example: radlite-train score smol out/mix --output out/scores
    """
    from training.score import score_pack

    _keep_private()
    sys.exit(score_pack(pack, prepared, output, click.echo, limit))


def _keep_private() -> None:
    """For commands that write report text; an adapter or a pack holds none, and other users run it."""
    os.umask(0o077)


main.add_command(completion_command("radlite-train"))
main.add_command(reference_command("radlite-train"))
