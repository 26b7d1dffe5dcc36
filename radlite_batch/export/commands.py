"""The command `radlite export`."""

from pathlib import Path

import click

from radlite_batch.console import OutputFolder
from radlite_batch.errors import UsageError
from radlite_batch.export.fhir import write_fhir
from radlite_batch.export.mapping import shipped
from radlite_batch.export.naaccr import write_naaccr
from radlite_batch.export.omop import write_omop
from radlite_batch.export.source import Source
from radlite_batch.export.wide import write_wide
from radlite_batch.results.manifest import run_folder
from radlite_batch.storage import shown, url_of

FORMATS = ("csv", "omop", "fhir", "naaccr")
# What each format knows of; another option with it is an error.
_OPTIONS = {
    "csv": {"with_text"}, "omop": {"mapping"}, "fhir": {"mapping", "patients", "with_text"},
    "naaccr": {"mapping", "patients"},
}  # fmt: skip
_PATH = click.Path(path_type=Path)


@click.command("export")
@click.argument("out", required=False, type=OutputFolder())
@click.option("--format", "name", type=click.Choice(FORMATS), help="What to write.")
@click.option("--output", type=_PATH, help="Folder of the result [OUT/_run/export/FORMAT].")
@click.option("--mapping", type=_PATH, help="Your own mapping table [the package's].")
@click.option("--show-mapping", type=click.Choice(FORMATS[1:]), help="Print a format's mapping table, to be edited.")
@click.option(
    "--min-confidence",
    type=click.FloatRange(0, 1),
    help="Leave out answers that are less sure than this, or do not say.",
)
@click.option("--partial", is_flag=True, help="Export what is committed of a run that is not finished.")
@click.option("--patients", is_flag=True, help="fhir, naaccr: add patient ids and study dates from the archive.")
@click.option("--with-text", is_flag=True, help="csv, fhir: add the text of spans to their offsets.")
def export_command(
    out: Path | None, name: str | None, output: Path | None, mapping: Path | None, show_mapping: str | None,
    min_confidence: float | None, partial: bool, patients: bool, with_text: bool,
) -> None:  # fmt: skip
    """Write a run's answers in a form that other systems read.

    \b
    csv     wide.csv: a line per report, each task's answer and confidence
    omop    note_nlp.csv: NOTE_NLP of OMOP CDM 5.4; note_ids.csv
    fhir    bundles.ndjson: HL7 FHIR R4, a bundle per report, preliminary
    naaccr  suggestions.csv and .xml: N and M by NAACCR XML id

    Files are readable by their owner only, and stay on this machine: for an OUT that is a URL --output must be given.
    What an answer becomes stands in a CSV table: print it, edit it, pass it.

    \b
    Example: radlite export OUT --format csv
    Example: radlite export --show-mapping fhir > my.csv
    Example: radlite export OUT --format fhir --mapping my.csv --patients --output bundles
    """  # fmt: skip
    if show_mapping is not None:
        click.echo(shipped(show_mapping).read_text(encoding="utf-8"), nl=False)
        return
    if out is None or name is None:
        raise UsageError("OUT and --format must be given, or --show-mapping; see `radlite export --help`")
    given = {"mapping": mapping is not None, "patients": patients, "with_text": with_text}
    for option, is_given in given.items():
        if is_given and option not in _OPTIONS[name]:
            raise UsageError(f"--{option.replace('_', '-')} does not go with --format {name}")
    folder = output or run_folder(out) / "export" / name
    if url_of(folder) is not None:
        raise UsageError(f"{shown(out)}: an export stays on this machine; name a folder of it with --output")
    source = Source(out, partial, min_confidence)
    if name == "csv":
        lines = write_wide(source, folder, with_text)
    elif name == "omop":
        lines = write_omop(source, folder, mapping)
    elif name == "fhir":
        lines = write_fhir(source, folder, mapping, patients, with_text)
    else:
        lines = write_naaccr(source, folder, mapping, patients)
    click.echo("\n".join(lines))
