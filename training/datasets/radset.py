"""RXL-RADSet (2026): synthetic reports for ten RADS, checked by radiologists, with system and category.

Terms: CC BY-NC-SA 4.0, on request.

metadata.csv names the reports; their text is <Report_Number>.txt anywhere below it, or the PDF of that name where
pypdf is installed. The reports print their score. `radset` reads them without it, so that the category has to be
inferred; `radset_printed` reads them as they are.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from radlite_batch.errors import ArchiveError
from radlite_batch.tasks.rads_systems import parse_label, system_named
from training.datasets.base import Sample
from training.datasets.files import Record, find, rows

METADATA = "metadata.csv"
_SYSTEMS = {  # by the part of a report's number that names it
    "B": "BI-RADS", "Cor": "CAD-RADS", "GB": "GB-RADS", "L": "LI-RADS", "LRTR": "LI-RADS", "Lung": "Lung-RADS",
    "NI": "NI-RADS", "O": "O-RADS", "P": "PI-RADS", "T": "TI-RADS", "VI": "VI-RADS",
}  # fmt: skip


def read(folder: Path) -> Iterator[Sample]:
    """A sample for every report, its printed score removed. Raises ArchiveError naming file, row and column."""
    return _read("radset", folder, keep_score=False)


def read_printed(folder: Path) -> Iterator[Sample]:
    """A sample for every report as it is. Raises ArchiveError naming file, row and column."""
    return _read("radset_printed", folder, keep_score=True)


def _read(source: str, folder: Path, keep_score: bool) -> Iterator[Sample]:
    files = {path.stem: path for suffix in ("pdf", "txt") for path in folder.rglob(f"*.{suffix}")}
    for row in rows(find(folder, METADATA), ("Report_Number", "RADS_score")):
        name = row.text("Report_Number")
        if name not in files:
            raise ArchiveError(f"{row.where}: field 'Report_Number' names no .txt or .pdf below {folder}")
        system, category, neck = label_of(row)
        text = _text(files[name]).strip()
        targets = {"rads_assignment": {"system": system, "category": category}}
        if neck:
            targets["rads_assignment"]["neck"] = neck
        yield Sample(source, name, f"radset:{name}", text if keep_score else without_score(text, system), {}, targets)


def label_of(row: Record) -> tuple[str, str, str | None]:
    """System, category and NI-RADS category of the neck of a row of the metadata."""
    system = next((_SYSTEMS[part] for part in row.text("Report_Number").split("_") if part in _SYSTEMS), None)
    if system is None:
        raise ArchiveError(f"{row.where}: field 'Report_Number' names no RADS system")
    try:
        _, category, neck = parse_label(f"{system} {row.text('RADS_score')}")
    except ValueError:
        category = None
    if category is None:
        raise ArchiveError(f"{row.where}: field 'RADS_score' is no category of {system}")
    return system, category, neck


def without_score(text: str, system: str) -> str:
    """The report without the categories of this system that it prints, with the words that lead up to them."""
    # A bracket that was opened before the name keeps its partner.
    stripped = _printed(system).sub(lambda m: ")" * (m[0].count(")") - m[0].count("(")), text)
    for left_over in (r"[ \t]*\([ \t]*\)", r"(?<=[.:;,])[ \t]*[.:;,](?=\s|$)", r"^[ \t]*[.:;,](?=\s|$)"):
        stripped = re.sub(left_over, "", stripped, flags=re.MULTILINE)
    return re.sub(r"[ \t]+(?=[ \t.,;\n])", "", stripped).strip()


# What a category may be of, where a report prints several: a side, a numbered lesion, a site of NI-RADS.
_PLACE = (
    r"(?:(?:for\s+)?(?:the\s+)?(?:right|left)\b(?:[\s-]+(?:breast|lobe|ovary|adnexa|side|nodule|lesion|mass)\b)*"
    r"|(?:for\s+)?(?:lesion|nodule|mass|observation)\s*#?\d+(?=\s*[:=)])|(?:primary|neck)(?:\s+(?:site|nodes?))?\b)"
)
# What may stand between the name and the category, and after it.
_BETWEEN = (
    r"(?:[\s:=,(\[#*®\u2122\u2010-\u2015-]|v(?:er(?:sion)?)?\.?\s*\d[\d.]*(?![\d.])|\d\.\d(?!\d)|20\d\d"
    r"|(?:category|cat|score|assessment|final|overall|classification|risk|stratification|suspicion|site|nodes?"
    rf"|tr|ct|mri?|us|is|of)\b|{_PLACE}\)?|\)(?=\s*[:=]))*"
)
# Not a level of nodes of the neck.
_LEVEL = rf"(?:(?:level|grade)\b{_BETWEEN})?"
_AFTER = {
    "CAD-RADS": r"(?:[\s/,]+(?:p\d|hrp|i(?:\+/-|[+±-])|[esgvn])(?![a-z0-9]))*",
    "Lung-RADS": r"(?:[\s/,-]*s\b)?",
    "NI-RADS": r"(?:[\s,;]*(?:and\s+)?(?://?\s*)?(?:neck(?: nodes?)?|nodes?|n)?[\s:-]*{0})?",
}
_OF_FIVE = r"(?:\s*/\s*\d\b)?"
# The categories of further places. Without a colon nothing but a sign may follow: "left 2 cysts" are findings.
_FURTHER = (
    rf"(?:(?:\s*\({_PLACE}\))?(?:\s*[,;/]\s*(?:and\s+)?|\s+and\s+)(?:{{0}}\s*\({_PLACE}\)"
    rf"|\(?{_PLACE}\)?(?:\s*[:=]\s*{{0}}{_OF_FIVE}|\s+{{0}}(?=[^\S\n]*(?:[.,;)\n]|$)))))*"
)
# A number of these is a size and no category.
_UNIT = r"(?:\.\d+)?(?:\s*[x×]\s*\d+(?:\.\d+)?)*\s*(?:[cm]m\b|%)"


@cache
def _printed(system: str) -> re.Pattern[str]:
    """Any way to write a category after the system's name, or after the word `category`."""
    rads = system_named(system)
    name = _any_of(rads.spellings)
    if system == "LI-RADS":
        name = rf"(?:{name}(?:[\s-]*treatment response)?|us-(?=\d))"
    end = r"(?=s?(?![a-z0-9]))" if system == "Lung-RADS" else r"(?![a-z0-9])"
    category = _any_of(text for c in rads.categories for text in (c.name, *c.spellings)) + rf"{end}(?!{_UNIT})"
    before = r"(?:p(?=\d))?" if system == "NI-RADS" else _LEVEL
    after = rf"{_AFTER.get(system, _OF_FIVE)}(?:\s*\((?:(?:sub)?category)?[\s:]*{{0}}\))?{_FURTHER}"
    after = after.replace("{0}", category)
    led = rf"(?:(?:{name}{_BETWEEN})+{before}|category[\s:]*)"
    return re.compile(rf"(?<![a-z0-9]){led}{category}{after}\)?", re.IGNORECASE)


def _any_of(spellings: Iterable[str]) -> str:
    longest = sorted(set(spellings), key=len, reverse=True)
    parts = (r"[\s\u2010-\u2015-]?".join(map(re.escape, re.split(r"[\s-]+", spelling))) for spelling in longest)
    return f"(?:{'|'.join(parts)})"


def _text(path: Path) -> str:
    if path.suffix == ".txt":
        return path.read_text(encoding="utf-8-sig", errors="replace")
    try:
        from pypdf import PdfReader
    except ImportError:
        raise ArchiveError(f"{path}: reading it needs pypdf; or lay {path.stem}.txt beside it") from None
    try:
        return "\n".join(page.extract_text() for page in PdfReader(path).pages)
    except Exception as error:  # a damaged file has pypdf raise errors of its own and of Python
        raise ArchiveError(f"{path}: not readable ({type(error).__name__})") from None
