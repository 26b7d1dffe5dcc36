"""The `radlite` command: click declarations and printing, no logic of its own."""

import dataclasses
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from radlite_batch import doctor as checks
from radlite_batch import predict as single
from radlite_batch.archive import ArchiveSpec
from radlite_batch.bench.compare import ENGINE, SYSTEMS, bench
from radlite_batch.bench.server import SLOTS
from radlite_batch.completion import complete_packs, complete_tasks, completion_command
from radlite_batch.console import NAME, ErrorGroup, OutputFolder
from radlite_batch.errors import RadliteError, UsageError
from radlite_batch.export.commands import export_command
from radlite_batch.job import Job, Output, load_job
from radlite_batch.metrics import metrics_command
from radlite_batch.pack import BUILT_IN, Pack, load_pack, pack_names
from radlite_batch.pages.commands import diff_command, report_command, review_command
from radlite_batch.plan import describe, estimate, make_plan
from radlite_batch.progress import Progress
from radlite_batch.reference import SURROUNDINGS, reference_command
from radlite_batch.rerun import rerun
from radlite_batch.results.mirror import refresh
from radlite_batch.results.schemas import dictionary_lines
from radlite_batch.results.summary import RunSummary, summary_lines
from radlite_batch.rows import KINDS
from radlite_batch.run import Stopped, retry, run
from radlite_batch.status import read_status, status_lines
from radlite_batch.storage import shown
from radlite_batch.tasks.registry import TASKS, tasks_named
from radlite_batch.verify import verify


@click.group("radlite", cls=ErrorGroup, epilog=SURROUNDINGS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="radlite-batch")
def main() -> None:
    """Turns archives of radiology reports into typed Parquet, on CPU and without network.

    \b
    Exit codes: 0 every row has its outcome, none failed or unparsed; 1 fatal; 2 bad usage, job or pack; 3 stopped
    early, or some rows failed or unparsed; 75 another run holds the output; 130, 143 ended by a signal.
    """


def _job_options(command: Callable[..., None]) -> Callable[..., None]:
    options = [
        click.argument("job_file", metavar="[JOB.toml]", required=False, type=click.Path(path_type=Path)),
        click.option("--input", "inputs", multiple=True, help="CSV or Parquet file, folder or glob; may be repeated."),
        click.option("--tasks", help="Tasks, separated by commas; see `radlite tasks`.", shell_complete=complete_tasks),
        click.option("--output", type=OutputFolder(lambda out: None), help="Output folder, or its URL."),
        click.option("--pack", help="Built-in pack or pack file; see `radlite packs`.", shell_complete=complete_packs),
        click.option("--id-column", type=NAME, help="Column of the report's id [report_id]."),
        click.option("--text-column", type=NAME, help="Column of the text, or several, separated by commas [text]."),
        click.option("--workers", type=click.IntRange(1), help="Worker processes [as many as cores and memory allow]."),
        click.option("--limit", type=click.IntRange(1), help="Only the first N rows."),
        click.option("--until", help="Local time, like 06:00, after which no work is begun."),
        click.option("--max-hours", type=click.FloatRange(min=0), help="Hours after which no work is begun."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _job(job_file: Path | None, **flags: Any) -> Job:
    """The job of a command line; flags override the file's keys."""
    inputs, tasks = tuple(flags["inputs"]), _split(flags["tasks"])
    if job_file is not None:
        if job_file.suffix.lower() in KINDS:  # a glob without quotes
            raise UsageError(f"{job_file}: not a job file; give each input its own --input, or a glob in quotes")
        job = load_job(job_file)
    else:
        missing = [
            flag
            for flag, value in (("--input", inputs), ("--tasks", tasks), ("--output", flags["output"]))
            if not value
        ]
        if missing:
            raise UsageError(f"without a job file {', '.join(missing)} must be given; see `radlite run --help`")
        job = Job(ArchiveSpec(inputs), tasks, Output(flags["output"]))
    archive = _override(job.archive, paths=inputs, report_id=flags["id_column"], text=_split(flags["text_column"]))
    limits = _override(job.limits, until=flags["until"], max_hours=flags["max_hours"], max_rows=flags["limit"])
    overridden: Job = _override(
        job, archive=archive, limits=limits, tasks=tasks, pack=flags["pack"],
        output=_override(job.output, path=flags["output"]), workers=_override(job.workers, processes=flags["workers"]),
    )  # fmt: skip
    return overridden


def _split(names: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip()) if names else ()


def _override(record: Any, **changes: Any) -> Any:
    return dataclasses.replace(record, **{key: value for key, value in changes.items() if value})


@main.command("run")
@_job_options
def run_command(**arguments: Any) -> None:
    """Run a job, or go on with it.

    Running again on the same output continues where it ended; a finished run is left as it is.

    \b
    Example: radlite run jobs/demo.toml
    Example: radlite run --input reports.csv --tasks n_staging,m_staging --output OUT
    """
    job = _job(**arguments)
    _end(run, job, job.output.path)


def _end(do: Callable[[Any, Progress], RunSummary], of: Any, out: Path) -> None:
    """Does a run, prints its summary, and exits with its code."""
    try:
        summary = do(of, Progress())
    except Stopped as stop:
        sys.exit(128 + stop.number)
    for line in summary_lines(summary.document(), out):
        click.echo(line)
    sys.exit(summary.exit_code)


@main.command("retry")
@click.argument("out", type=OutputFolder())
def retry_command(out: Path) -> None:
    """Answer a run's failed rows again, and whatever it left undone; make damaged parts again.

    All other rows stay as they are. Rows that fail for their input's sake, such as undecodable bytes, fail again.

    \b
    Example: radlite retry OUT
    """
    _end(retry, out, out)


@main.command("verify")
@click.argument("out", type=OutputFolder(partial(refresh, anew=True)))
@click.option("--rerun", "share", type=click.FloatRange(0, 1), default=0.0, help="Share of rows to answer again.")
def verify_command(out: Path, share: float) -> None:
    """Check an output: every byte, schemas, counts, vocabularies, and the archive it was made from.

    With --rerun a random share of the rows is answered again, and the labels are compared.

    \b
    Exit codes: 0 whole and complete; 1 something is wrong, named line by line; 3 whole, but the run is not complete.

    \b
    Example: radlite verify OUT --rerun 0.01
    """
    verdict = verify(out)
    click.echo(f"checked   {verdict.parts} parts, {verdict.bytes:,} bytes, {verdict.rows} rows")
    if share and not verdict.findings:
        again = rerun(out, share, Progress().say)
        verdict.findings += again.findings
        click.echo(f"rerun     {again.rows} rows, {again.labels} labels compared, {again.near_ties} near ties differ")
    for finding in verdict.findings:
        click.echo(f"wrong     {finding}".replace(str(out), shown(out)))
    click.echo(("damaged" if verdict.findings else "whole") + ("" if verdict.complete else ", and not complete"))
    sys.exit(verdict.exit_code)


@main.command("plan")
@_job_options
@click.option("--no-measure", is_flag=True, help="Do not answer a few reports to estimate the time.")
def plan_command(no_measure: bool, **arguments: Any) -> None:
    """Say what a run would do, and write nothing: rows, shards, workers, memory, time.

    \b
    Example: radlite plan jobs/demo.toml
    """
    plan = make_plan(_job(**arguments), Progress().say)
    for line in describe(plan):
        click.echo(line)
    if not no_measure and plan.manifest.rows:
        rate, seconds = estimate(plan)
        click.echo(f"time      about {seconds / 60:,.1f} min at {rate:,.0f} reports/hour, from the first reports")


@main.command("status")
@click.argument("out", type=OutputFolder(partial(refresh, tables=False)))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status_command(out: Path, as_json: bool) -> None:
    """Say how far a run is, while it runs or afterwards.

    \b
    Example: radlite status OUT --json
    """
    status = read_status(out)
    click.echo(json.dumps(status, indent=1) if as_json else "\n".join(status_lines(status)))


main.add_command(report_command)
main.add_command(diff_command)
main.add_command(metrics_command)
main.add_command(review_command)
main.add_command(export_command)
main.add_command(completion_command("radlite"))
main.add_command(reference_command("radlite"))


@main.command("tasks")
@click.argument("name", required=False, shell_complete=complete_tasks)
@click.option("--dictionary", is_flag=True, help="Print the data dictionary of the output, as Markdown.")
def tasks_command(name: str | None, dictionary: bool) -> None:
    """List the tasks, or one task's columns.

    \b
    Example: radlite tasks rads_assignment
    Example: radlite tasks --dictionary > dictionary.md
    """
    chosen = tasks_named(TASKS if name is None else (name,))
    if dictionary:
        click.echo("\n".join(dictionary_lines(chosen)))
        return
    if name is None:
        for task in chosen:
            click.echo(f"{task.name:<24}{task.about} (needs {task.needs})")
        return
    for column in TASKS[name].columns:
        click.echo(f"{column.name:<36}{column.type.partition(':')[0]:<14}{column.about}")
        if column.vocabulary:
            click.echo(f"{'':<36}{'':<14}{' | '.join(column.vocabulary)}")


@main.command("packs")
@click.argument("action", required=False, type=click.Choice(["verify"]))
@click.option("--pack", "name", help="Only this pack, by name or path.", shell_complete=complete_packs)
def packs_command(action: str | None, name: str | None) -> None:
    """List the built-in packs; `verify` loads and checks their files.

    \b
    Exit codes: 2 a pack that was named or verified is not usable; else 0.

    \b
    Example: radlite packs verify --pack smol
    """
    failed = False
    for each in [name] if name else pack_names():
        try:
            pack: Pack = load_pack(each)
            click.echo(f"{pack.name:<16}{pack.style.name:<10}{pack.licence:<14} {pack.about}")
            for model in pack.models if action else ():
                file, prepared = pack.prepare(model, Progress().say)
                form = f", runs as {prepared.form}" if prepared else ""
                click.echo(f"  {model}: {file.sha256[:12]}{form}")
        except RadliteError as error:
            failed = True
            click.echo(f"{Path(each).stem:<16}not usable: {str(error).removeprefix(f'{BUILT_IN}/')}")
    if failed and (action or name):
        sys.exit(2)


@main.command("predict")
@click.option("--task", "tasks", required=True, help="Tasks, separated by commas.", shell_complete=complete_tasks)
@click.option("--text", default="-", help="The report; - reads it from standard input.", show_default=True)
@click.option("--pack", default="smol", show_default=True, help="Pack name or file.", shell_complete=complete_packs)
@click.option("--field", "fields", multiple=True, metavar="NAME=TEXT", help="A further input: premise, question, ...")
def predict_command(tasks: str, text: str, pack: str, fields: tuple[str, ...]) -> None:
    """Answer tasks for one report, as JSON on standard output.

    \b
    Example: echo "No nodes. Liver metastases." | radlite predict --task m_staging
    """
    if not all("=" in field for field in fields):
        raise UsageError("--field must be NAME=TEXT, like --field question='Is there a mass?'")
    named = dict(field.partition("=")[::2] for field in fields)
    report = single.from_input() if text == "-" else text
    answers = single.predict(report, _split(tasks), pack, named, Progress().say)
    click.echo(json.dumps(answers, indent=1, ensure_ascii=False))


@main.command("doctor")
@click.option("--pack", default="smol", show_default=True, help="The pack to check.", shell_complete=complete_packs)
def doctor_command(pack: str) -> None:
    """Check what a run needs: packages, cores, memory, disk, the pack's files; and say how to get what is missing.

    \b
    Exit codes: 0 the pack can run here; 2 something it needs is missing.

    \b
    Example: radlite doctor
    """
    findings = checks.examine(pack, Progress().say)
    for finding in findings:
        click.echo(f"{finding.mark:<6}{finding.name:<12}{finding.what}")
    sys.exit(0 if all(finding.ok for finding in findings if finding.needed) else 2)


@main.command("bench")
@click.option("--input", "inputs", multiple=True, required=True, type=NAME, help="CSV or Parquet file, folder, glob.")
@click.option("--tasks", required=True, help="Tasks, separated by commas.", shell_complete=complete_tasks)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder of the result.")
@click.option("--pack", default="smol", show_default=True, help="Pack name or file.", shell_complete=complete_packs)
@click.option("--id-column", default="report_id", show_default=True, type=NAME, help="Column of the report's id.")
@click.option("--text-column", default="text", show_default=True, type=NAME, help="Column of the text, or several.")
@click.option("--reports", type=click.IntRange(1), default=256, show_default=True, help="Distinct reports to answer.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Times every system is measured.")
@click.option("--loop-reports", type=click.IntRange(1), default=16, show_default=True, help="Reports for plain loop.")
@click.option("--server", type=click.Path(path_type=Path), help="llama-server; without it, it is not compared with.")
@click.option("--servers", type=click.IntRange(1), help="Server processes that share the cores [one for each worker].")
@click.option("--slots", type=click.IntRange(1), default=SLOTS, show_default=True, help="Slots of each of them.")
@click.option("--systems", default=",".join(SYSTEMS), show_default=True, help="What is measured.")
def bench_command(inputs: tuple[str, ...], server: Path | None, **options: Any) -> None:
    """Compare this engine with its peers, in turn, on the same reports and model file.

    \b
    Example: radlite bench --input sample_data/reports.csv --text-column findings,impression \\
        --tasks n_staging,m_staging --reports 32 --output out/bench
    """
    spec = ArchiveSpec(inputs, options["id_column"], _split(options["text_column"]))
    result = bench(
        spec, _split(options["tasks"]), options["pack"], options["output"], reports=options["reports"],
        rounds=options["rounds"], loop_reports=options["loop_reports"], program=server,
        servers=options["servers"], slots=options["slots"], systems=_split(options["systems"]), say=Progress().say,
    )  # fmt: skip
    click.echo("\n".join(result.lines(ENGINE)))


if __name__ == "__main__":
    main()
