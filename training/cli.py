"""The `radlite-train` command: click declarations and printing, no logic of its own."""

import dataclasses
import json
import sys
import traceback
from pathlib import Path
from typing import Any

import click

from radlite_batch.errors import RadliteError
from training.evaluate import evaluate, score_lines


class _Group(click.Group):
    """Prints our errors as one line and exits with their code."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except RadliteError as error:
            click.echo(f"radlite-train: {error}", err=True)
            sys.exit(error.exit_code)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            # The message of a stranger's exception may quote a report: say where it happened, not what it says.
            places = "".join(traceback.format_tb(error.__traceback__))
            click.echo(f"{places}radlite-train: unexpected {type(error).__name__}", err=True)
            sys.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
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
