"""Mapping tables: the shipped ones are whole, an edited one is obeyed, a wrong one is refused with its line."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from radlite_batch.cli import main
from radlite_batch.errors import UsageError
from radlite_batch.export import fhir, naaccr, omop
from radlite_batch.export.mapping import Table, Target, shipped
from radlite_batch.export.source import Answer
from radlite_batch.report import answer_columns
from radlite_batch.tasks.registry import TASKS

TARGETS = (omop.TARGET, fhir.TARGET, naaccr.TARGET)
HEADER = "task,column,label,naaccr_id,naaccr_number,value\n"


def answers() -> list[Answer]:
    """One of each label that a task with a closed vocabulary can give."""
    return [
        Answer(task.name, column.name, label, 1.0, "m")
        for task in TASKS.values()
        for column in answer_columns(task)
        for label in column.vocabulary or ("LI-RADS M", "none")
    ]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_the_shipped_table_is_whole_and_printed_as_it_is(target: Target) -> None:
    Table(target)
    printed = CliRunner().invoke(main, ["export", "--show-mapping", target.name])
    assert printed.exit_code == 0 and printed.output == shipped(target.name).read_text(encoding="utf-8")


def test_omop_and_fhir_take_every_finding_and_no_absence_of_one() -> None:
    for target in TARGETS[:2]:
        table = Table(target)
        left_out = {(a.task, a.label) for a in answers() if table.row(a) is None}
        assert left_out - {("radiology_ner", "anatomy")} == {
            ("rads_assignment", "none"),
            ("abnormality_detection", "absent"),
            ("abnormality_detection", "negative"),  # of "no finding", which is positive or absent
            ("abnormality_detection", "uncertain"),
            *(("radiology_nli", label) for label in TASKS["radiology_nli"].columns[0].vocabulary),
        }
        flags = {(a.column, a.label) for a in answers() if a.task == "abnormality_detection" and table.row(a)}
        assert len(flags) == 13 * 3 + 1


def test_naaccr_takes_the_stages_that_say_something() -> None:
    table = Table(naaccr.TARGET)
    taken = {a.label: row["value"] for a in answers() if (row := table.row(a))}
    assert taken == {"N0": "cN0", "N1": "cN1", "N2": "cN2", "N3": "cN3", "M0": "cM0", "M1": "cM1"}


def test_an_edited_table_is_obeyed(tmp_path: Path) -> None:
    path = tmp_path / "my.csv"
    rows = "# mine\n\nn_staging,stage,*,ajccTnmPathN,1012,pN\nn_staging,stage,NX,,,\n"
    path.write_text("\ufeff" + HEADER + rows, encoding="utf-8")
    table = Table(naaccr.TARGET, path)
    taken = {a.label: row["naaccr_id"] for a in answers() if (row := table.row(a))}
    assert taken == dict.fromkeys(("N0", "N1", "N2", "N3"), "ajccTnmPathN")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", ": no header line; its columns are task, column, label, naaccr_id, naaccr_number, value"),
        (HEADER.replace("value", "values"), " line 1: unknown column 'values'; did you mean 'value'?"),
        (HEADER.replace(",value", ""), " line 1: column 'value' must be there once"),
        (HEADER + "n_staging,stage,N1\n", " line 2: 3 fields where the header has 6"),
        (HEADER + "n_stage,stage,N1,x,1,c\n", " line 2: unknown task 'n_stage'; did you mean 'n_staging'?"),
        (HEADER + "n_staging,stages,N1,x,1,c\n", " line 2: n_staging has no labels in a column 'stages'; did you"),
        (HEADER + "radiology_qa,answer,*,x,1,c\n", " line 2: radiology_qa has no labels in a column 'answer'"),
        (HEADER + "n_staging,stage,N4,x,1,c\n", " line 2: stage is never 'N4'"),
        (HEADER + "n_staging,stage,N1,x,1,c\n" * 2, " line 3: a second row for n_staging stage N1"),
        (HEADER + "n_staging,stage,N1,x,one,c\n", " line 2: naaccr_number is no whole number"),
        (HEADER + "n_staging,stage,N1,x,1,\n", " line 2: value is empty"),
        (HEADER + 'n_staging,stage,"N1\n', ": unexpected end of data"),
        ("caf\xe9", ": not UTF-8"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_refused(text: str, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "my.csv"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UsageError) as refused:
        Table(naaccr.TARGET, path)
    assert str(refused.value).startswith(f"{path}{fault}")
    assert "\n" not in str(refused.value)


def test_other_faults_are_named_too(tmp_path: Path) -> None:
    path = tmp_path / "my.csv"
    with pytest.raises(UsageError, match=r"my.csv: No such file"):
        Table(omop.TARGET, path)
    path.write_text(shipped("fhir").read_text().replace("(qualifier value),,", "(qualifier value),9,"))
    with pytest.raises(UsageError, match=r"my.csv line \d+: no edition '9'"):
        Table(fhir.TARGET, path)
    path.write_text(shipped("omop").read_text().replace("1634145", "N0"))
    with pytest.raises(UsageError, match=r"my.csv line \d+: note_nlp_concept_id is no whole number"):
        Table(omop.TARGET, path)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--format", "csv", "--mapping", "x.csv"], "--mapping does not go with --format csv"),
        (["--format", "omop", "--patients"], "--patients does not go with --format omop"),
        (["--format", "naaccr", "--with-text"], "--with-text does not go with --format naaccr"),
        ([], "OUT and --format must be given, or --show-mapping; see `radlite export --help`"),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments: list[str], fault: str, tmp_path: Path) -> None:
    refused = CliRunner().invoke(main, ["export", str(tmp_path), *arguments])
    assert (refused.exit_code, refused.output) == (2, f"radlite: {fault}\n")
