"""The commands `radlite report`, `radlite diff` and `radlite review`."""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from radlite_batch.console import OutputFolder
from radlite_batch.diff import compare, diff_lines, same_files, write_csv
from radlite_batch.drift import Thresholds, drifts
from radlite_batch.errors import UsageError
from radlite_batch.pages.diff_page import diff_page, diff_section
from radlite_batch.pages.html import Html
from radlite_batch.pages.review import review_page
from radlite_batch.pages.run_page import run_page
from radlite_batch.report import RunFigures, gather, pooled
from radlite_batch.results.commit import commit
from radlite_batch.results.manifest import run_folder
from radlite_batch.results.parts import readable
from radlite_batch.review.answers import review_folder
from radlite_batch.review.apply import apply
from radlite_batch.review.cases import Wanted, select
from radlite_batch.review.cases import write_csv as write_review_csv
from radlite_batch.review.decisions import WORDS
from radlite_batch.storage import shown, title, url_of

EXIT_DRIFT = 4

_OUT = OutputFolder()
_PATH = click.Path(path_type=Path)
_SHARE = click.FloatRange(0, 1)


@click.command("report")
@click.argument("out", type=_OUT)
@click.option("--previous", multiple=True, type=_OUT, help="An earlier run to compare with; may be repeated.")
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
@click.argument("before", metavar="A", type=_OUT)
@click.argument("after", metavar="B", type=_OUT)
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


class _WithDefault(click.Group):
    """`review OUT` is `review make OUT`; a folder named like a command is written ./apply."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *self.get_help_option_names(context)}:
            args = ["make", *args]
        return super().parse_args(context, args)


@click.group("review", cls=_WithDefault)
def review_command() -> None:
    """Let a person check answers, and merge what they decide.

    `radlite review OUT` is `radlite review make OUT`.

    \b
    Example: radlite review OUT --below 0.9
    Example: radlite review apply OUT decisions-AB.csv
    """


@review_command.command("make")
@click.argument("out", type=_OUT)
@click.option("--below", type=_SHARE, help="Answers of less confidence than this.")
@click.option("--task", "tasks", multiple=True, help="Of this task; may be repeated.")
@click.option("--label", "labels", multiple=True, help="With this answer; may be repeated.")
@click.option("--against", type=_OUT, help="Answers that this other run does not give.")
@click.option("--limit", type=click.IntRange(1), default=500, show_default=True, help="At most so many.")
@click.option("--to", type=_PATH, help="Folder of the result [OUT/_run/review].")
def review_make_command(
    out: Path, below: float | None, tasks: tuple[str, ...], labels: tuple[str, ...], against: Path | None, limit: int,
    to: Path | None,
) -> None:  # fmt: skip
    """Write the page and the CSV on which a person decides: review.html and review.csv.

    Answers are chosen by what the options say together, and the least sure of them come first. The page shows each with
    its report, marked, and takes accept, correct and reject by key; it saves decisions as a file. In the CSV the
    columns decision (accept, correct, reject) and correction are filled in by hand. BOTH FILES HOLD REPORT TEXT, read
    from the archive just then; only their owner may read them, and they are never uploaded.

    \b
    Example: radlite review OUT --below 0.9 --task n_staging
    Example: radlite review OUT --label "BI-RADS 4A" --against OTHER
    """  # fmt: skip
    folder = to or review_folder(out)
    if url_of(folder) is not None:
        raise UsageError(f"{shown(out)}: report text stays on this machine; name a folder of it with --to")
    selection = select(out, Wanted(tasks, labels, below, against, limit))
    if selection.unknown:
        click.echo(f"left out  {selection.unknown:,} answers whose confidence is not known")
    if not selection.cases:
        click.echo("nothing to review: no answer is like that")
        return
    click.echo(f"chosen    {len(selection.cases):,} of {selection.found:,} answers, the least sure")
    os.umask(0o077)  # texts stand in them, however open the run's own files are
    page = review_page(f"Review of {title(out)}", selection)
    commit(folder / "review.html", folder, page)
    write_review_csv(selection, folder / "review.csv")
    click.echo(f"page      {shown(folder / 'review.html')}")
    click.echo(f"csv       {shown(folder / 'review.csv')}")


@review_command.command("apply")
@click.argument("out", type=_OUT)
@click.argument("files", metavar="DECISIONS...", nargs=-1, required=True, type=_PATH)
def review_apply_command(out: Path, files: tuple[Path, ...]) -> None:
    """Merge decisions, from the page or filled in by hand, into OUT/_run/review; the model's output stays as it is.

    decisions.parquet holds every decision; reviewed/TASK/ the task's tables with reviewed_* columns behind their own. A
    later decision of a reviewer replaces the earlier one; where two reviewers decide otherwise, nothing is written.

    \b
    Example: radlite review apply OUT decisions-AB.csv decisions-CD.csv
    """
    os.umask(0o077)
    counts: dict[str, Counter[str]] = {}
    with readable(out):
        held = apply(out, files)
    for decision in held:
        counts.setdefault(decision.task, Counter())[decision.decision] += 1
    for task, of_task in counts.items():
        click.echo(f"{task:<24}" + ", ".join(f"{of_task[word]:,} {word}" for word in WORDS))
    if not counts:
        click.echo("nothing reviewed: no line holds a decision")
        return
    click.echo(f"reviewed  {shown(review_folder(out) / 'reviewed')}")


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
    click.echo(f"page      {shown(path)}")
