"""The `radlite-train` command: click declarations and printing, no logic of its own."""

import dataclasses
import json
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
