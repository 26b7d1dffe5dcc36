"""The commands `radlite report` and `radlite diff`."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from radlite_batch.diff import compare, diff_lines, same_files, write_csv
from radlite_batch.drift import Thresholds, drifts
from radlite_batch.errors import UsageError
from radlite_batch.pages.diff_page import diff_page, diff_section
from radlite_batch.pages.html import Html
from radlite_batch.pages.run_page import run_page
from radlite_batch.report import RunFigures, gather, pooled
from radlite_batch.results.commit import commit
from radlite_batch.results.manifest import run_folder

EXIT_DRIFT = 4

_PATH = click.Path(path_type=Path)
_SHARE = click.FloatRange(0, 1)


@click.command("report")
@click.argument("out", type=_PATH)
@click.option("--previous", multiple=True, type=_PATH, help="An earlier run to compare with; may be repeated.")
@click.option("--to", type=_PATH, help="The page's file [OUT/_run/report.html].")
@click.option("--drift-labels", type=_SHARE, default=0.10, show_default=True, help="Share of a task's labels.")
@click.option("--drift-status", type=_SHARE, default=0.02, show_default=True, help="Share of rows, by status.")
@click.option("--drift-length", type=_SHARE, default=0.20, show_default=True, help="Share of texts, by length.")
@click.option("--drift-confidence", type=_SHARE, default=0.20, show_default=True, help="Share of answers.")
@click.option("--fail-on-drift", is_flag=True, help=f"Exit with {EXIT_DRIFT} where there is a drift warning.")
def report_command(
    out: Path, previous: tuple[Path, ...], to: Path | None, drift_labels: float, drift_status: float,
    drift_length: float, drift_confidence: float, fail_on_drift: bool,
) -> None:  # fmt: skip
    """Write a run's page: one HTML file that needs nothing else, not even a network.

    It shows what ran, rows by status, labels, confidence, text lengths, speed, memory and failures. With --previous the
    earlier runs stand beside it, taken together, and a drift warning is given for whatever moved: a larger share than
    the threshold is distributed otherwise than before, and chance does not explain it.

    \b
    Exit codes: 0 the page is written; 2 no run there; 4 drift, with --fail-on-drift.

    \b
    Example: radlite report out/today --previous out/yesterday --fail-on-drift
    """  # fmt: skip
    if fail_on_drift and not previous:
        raise UsageError("--fail-on-drift needs --previous")
    run, earlier = gather(out), [gather(each) for each in previous]
    thresholds = Thresholds(drift_labels, drift_status, drift_length, drift_confidence)
    found = drifts(run.sample, pooled(each.sample for each in earlier), thresholds)
    _write(to or run_folder(out) / "report.html", run_page(run, earlier, found, *_changes(run, earlier)), out)
    for drift in found:
        click.echo(f"drift     {drift.sentence}")
    if found and fail_on_drift:
        sys.exit(EXIT_DRIFT)


@click.command("diff")
@click.argument("before", metavar="A", type=_PATH)
@click.argument("after", metavar="B", type=_PATH)
@click.option("--to", type=_PATH, help="Folder of the result [B/_run/diff].")
def diff_command(before: Path, after: Path, to: Path | None) -> None:
    """Compare two runs over the same reports: which answers changed, from what to what, and how sure they are.

    Writes diff.html, changes.csv (a line per task and changed row) and flows.csv (from label to label, counted). Rows
    are matched by source_row where both runs are of the same files, else by report_id where it is unique.

    \b
    Example: radlite diff out/release out/candidate
    """
    found = compare(before, after)
    folder = to or run_folder(after) / "diff"
    _write(folder / "diff.html", diff_page(found), after)
    write_csv(found, folder)
    for line in diff_lines(found):
        click.echo(line)


def _changes(run: RunFigures, earlier: Sequence[RunFigures]) -> list[Html]:
    """Answers that changed since the last of the earlier runs, if that was over the same files."""
    if not earlier or not same_files(earlier[-1].manifest, run.manifest):
        return []
    try:
        return [diff_section(compare(earlier[-1].out, run.out))]
    except UsageError:  # the two have no row or no task in common
        return []


def _write(path: Path, page: bytes, out: Path) -> None:
    """Writes a page as private as the run's own files are."""
    private = not (run_folder(out) / "manifest.json").stat().st_mode & 0o077
    os.umask(0o077 if private else 0o022)
    commit(path, path.parent, page)
    click.echo(f"page      {path}")
