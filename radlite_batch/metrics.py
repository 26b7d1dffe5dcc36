"""`radlite metrics`: a run's figures in the Prometheus text format, as node_exporter's textfile collector reads it.

Counts, sizes and times, and no name but the output's own, so that the file may be read by everybody: it must be,
because the exporter is another user.
"""

import datetime
import math
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from radlite_batch.console import OutputFolder
from radlite_batch.errors import RadliteError
from radlite_batch.records import STATUSES
from radlite_batch.results.commit import commit
from radlite_batch.results.mirror import refresh
from radlite_batch.results.summary import read_summary
from radlite_batch.status import read_status
from radlite_batch.storage import url_of

_STATES = ("complete", "running", "stopped")
_TOKENS = ("asked", "computed", "written", "drafted", "accepted")


@dataclass(slots=True)
class Gauge:
    """A metric's name, HELP text and samples: values by their labels, `output` left out."""

    name: str
    about: str
    samples: dict[tuple[tuple[str, str], ...], float] = field(default_factory=dict)

    def add(self, value: float, **labels: str) -> "Gauge":
        self.samples[tuple(labels.items())] = value
        return self

    def lines(self, output: str) -> Iterator[str]:
        yield f"# HELP {self.name} {self.about}"
        yield f"# TYPE {self.name} gauge"
        for labels, value in self.samples.items():
            named = ",".join(f'{key}="{_escaped(text)}"' for key, text in (("output", output), *labels))
            yield f"{self.name}{{{named}}} {'NaN' if math.isnan(value) else value}"


def metrics(out: Path, exit_code: int | None = None) -> str:
    """The figures of the run in `out`. exit_code: that of the process which just ended, where the caller knows it.

    A run that could not begin leaves no trace in its output, and one that damage ended a trace that cannot be read, so
    that its exit code is all there is to say. Without one it raises UsageError where no run was planned, OutputError
    where the output is damaged or cannot be reached, OSError where it may not be read."""
    try:
        refresh(out, tables=False)
        gauges = _gauges(out, read_status(out), exit_code)
    except (RadliteError, OSError):
        if exit_code is None:
            raise
        gauges = [_exit_code(exit_code)]
    return "".join(f"{line}\n" for gauge in gauges for line in gauge.lines(url_of(out) or os.path.abspath(out)))


def _gauges(out: Path, status: Mapping[str, Any], exit_code: int | None) -> list[Gauge]:
    state = Gauge("radlite_state", "1 for the state that the output is in, 0 for the others.")
    for name in _STATES:
        state.add(int(name == status["state"]), state=name)
    rows = Gauge("radlite_rows", "Rows of the task tables that are committed, by task and status.")
    for task, counts in status["tasks"].items():
        for name in STATUSES:
            rows.add(counts.get(name, 0), task=task, status=name)
    return [
        _exit_code(status["exit_code"] if exit_code is None else exit_code),
        state,
        Gauge("radlite_rows_planned", "Rows of the archive that the output is to answer.").add(status["rows"]),
        Gauge("radlite_rows_done", "Rows of the archive that have their outcome.").add(status["rows_done"]),
        rows,
        *_last_execution(read_summary(out)),
    ]


def _exit_code(code: int | None) -> Gauge:
    about = "Exit code of the last run, 128 and the signal for one that was killed; NaN where it is not known."
    return Gauge("radlite_exit_code", about).add(math.nan if code is None else code)


def _last_execution(last: Mapping[str, Any] | None) -> list[Gauge]:
    """What only the run's own summary knows; a run that was killed has not written one."""
    if last is None:
        return []
    tokens = Gauge("radlite_tokens", "Tokens of all committed work: asked without sharing, computed with it, ...")
    for kind in _TOKENS:
        tokens.add(last["tokens"].get(kind, 0), kind=kind)
    memory = Gauge("radlite_memory_peak_bytes", "Peak memory of the last summed-up run, over all its processes.")
    for kind, size in last["memory"].items():
        memory.add(size, kind=kind)
    begin, end = (datetime.datetime.fromisoformat(last[key]).timestamp() for key in ("begin", "end"))
    speed = last["reports_per_hour"]
    return [
        Gauge("radlite_begin_timestamp_seconds", "When the last summed-up run began.").add(begin),
        Gauge("radlite_end_timestamp_seconds", "When the last summed-up run ended.").add(end),
        Gauge("radlite_duration_seconds", "How long the last summed-up run took.").add(last["seconds"]),
        Gauge("radlite_reports_per_hour", "Reports per hour of the last summed-up run.").add(speed),
        Gauge("radlite_worker_seconds", "Seconds of all workers over all committed work.").add(last["busy_seconds"]),
        memory,
        tokens,
    ]


def _escaped(text: str) -> str:
    """A label's value. What is not UTF-8 in a path becomes a question mark."""
    text = text.encode("utf-8", "replace").decode()
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _parse_exit(context: click.Context, option: click.Parameter, text: str | None) -> int | None:
    """A number, the name of a signal, or nothing: $? of a shell, or what systemd says in EXIT_STATUS."""
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return 128 + signal.Signals[f"SIG{text.removeprefix('SIG')}"]
    except KeyError:
        raise click.BadParameter(f"{text!r} is neither a number nor the name of a signal") from None


@click.command("metrics")
@click.argument("out", type=OutputFolder(lambda out: None))
@click.option(
    "--output", "target", type=click.Path(path_type=Path), help="File to write, ending in .prom [standard output]."
)
@click.option("--exit-code", callback=_parse_exit, help="How the run just ended: a number, or a signal's name.")
def metrics_command(out: Path, target: Path | None, exit_code: int | None) -> None:
    """Say a run's figures in the Prometheus text format, for node_exporter's textfile collector.

    The file is replaced as a whole and may be read by everybody; it holds counts, sizes and times. With --exit-code it
    is written for a run that could not begin, or whose output cannot be read, too.

    \b
    Exit codes: 0 the figures are written; 2 no run there, and no exit code given.

    \b
    Example: radlite metrics OUT --output /var/lib/prometheus/node-exporter/radlite-nightly.prom --exit-code $?
    """
    text = metrics(out, exit_code)
    if target is None:
        click.echo(text, nl=False)
        return
    os.umask(0o022)
    commit(target, target.parent, text.encode())
