"""RXL-RADSet: labels as its metadata spell them, and reports that no longer print them."""

import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from written import table

from radlite_batch.errors import ArchiveError
from radlite_batch.tasks.rads_systems import SYSTEMS, system_named
from training.datasets import radset
from training.datasets.files import Record, rows

LABELS_CSV = Path(__file__).resolve().parents[3] / "../shared/data/radset_labels.csv"


def metadata(folder: Path, *labels: tuple[str, str]) -> None:
    named = [{"Report_Number": n, "Modality": "US", "Profile": "3", "RADS_score": score} for n, score in labels]
    table(folder / "metadata.csv", named)


def test_reports_are_read_with_or_without_their_score(tmp_path: Path) -> None:
    metadata(tmp_path, ("R021_T_US", "4"), ("R001_NI_CT", "2a // 1"), ("R003_LRTR_MR", "Nonviable"))
    texts = {"R021_T_US": "Findings: A nodule.\nImpression: ACR TI-RADS 4.", "R001_NI_CT": "x", "R003_LRTR_MR": "y"}
    for name, text in texts.items():
        (tmp_path / "TI-RADS").mkdir(exist_ok=True)
        (tmp_path / "TI-RADS" / f"{name}.txt").write_text(text)
    stripped, kept = list(radset.read(tmp_path)), list(radset.read_printed(tmp_path))
    assert stripped[0].text == "Findings: A nodule.\nImpression:" and kept[0].text == texts["R021_T_US"]
    assert [dict(s.targets["rads_assignment"]) for s in stripped] == [
        {"system": "TI-RADS", "category": "4"},
        {"system": "NI-RADS", "category": "2a", "neck": "1"},
        {"system": "LI-RADS", "category": "TR Nonviable"},
    ]
    assert stripped[0].group == kept[0].group and stripped[0].source != kept[0].source


@pytest.mark.parametrize(
    ("system", "printed", "left"),
    [
        (
            "BI-RADS",
            "IMPRESSION: BI-RADS category 4A: suspicious. A 5 mm mass.",
            "IMPRESSION: suspicious. A 5 mm mass.",
        ),
        ("BI-RADS", "Overall assessment: BI\u2011RADS® 4 (suspicious)", "Overall assessment: (suspicious)"),
        ("BI-RADS", "BIRADS 4, 5 mm lesion; Category IV.", "5 mm lesion;"),
        ("LI-RADS", "LR-TR Viable tumour. LI-RADS LR-5 next to it.", "tumour. next to it."),
        ("LI-RADS", "US-3 observation", "observation"),
        ("NI-RADS", "NI-RADS: Primary 2a, Neck 1. Stable.", "Stable."),
        ("NI-RADS", "Stable (NI-RADS 1 // 1).", "Stable."),
        ("GB-RADS", "Thick wall, GB-RADS (4).", "Thick wall,"),
        ("NI-RADS", "NI-RADS primary 1 / neck 2, stable.", "stable."),
        ("NI-RADS", "NI-RADS 2a // neck 1. Stable.", "Stable."),
        ("NI-RADS", "NI-RADS primary 2a, nodes 1", ""),
        ("NI-RADS", "NI-RADS P1 N2", ""),
        ("Lung-RADS", "Lung-RADS 4AS nodule", "nodule"),
        ("BI-RADS", "Mass, BI-RADS category 4 (subcategory 4C).", "Mass,"),
        ("BI-RADS", "Mass (BI-RADS 4 (4B)), 9 mm", "Mass, 9 mm"),
        ("CAD-RADS", "CAD-RADS 3/P2/HRP/I+ in the LAD", "in the LAD"),
        ("PI-RADS", "PI-RADS v2.1 score: 4/5, 9 mm", "9 mm"),
        ("TI-RADS", "TR4, 4 points", "4 points"),
        ("Lung-RADS", "Lung-RADS v2022 category 4B-S nodule", "nodule"),
        ("O-RADS", "O-RADS MRI score 5", ""),
        ("GB-RADS", "GB-RADS 4 wall, 12 mm", "wall, 12 mm"),
        ("VI-RADS", "VI-RADS was applied to 4 lesions.", "VI-RADS was applied to 4 lesions."),
        ("TI-RADS", "TI-RADS level 4", ""),
        ("TI-RADS", "TI-RADS grade 4.", ""),
        ("TI-RADS", "TI-RADS level of suspicion: 4, 9 mm", "9 mm"),
        ("O-RADS", "O-RADS MRI risk score 4", ""),
        ("O-RADS", "O-RADS risk stratification: 3", ""),
        ("BI-RADS", "BI-RADS right breast: 4A", ""),
        ("BI-RADS", "BI-RADS (right): 4A, BI-RADS (left): 2", ""),
        ("BI-RADS", "BI-RADS right breast 4A and left breast 2. Mass.", "Mass."),
        ("BI-RADS", "Mass (BI-RADS (right): 4A), BI-RADS 4A, left 2 cysts", "Mass, left 2 cysts"),
        ("BI-RADS", "Data System (BI-RADS): 4A.", "Data System."),
        ("CAD-RADS", "CAD-RADS™ 3", ""),
        ("PI-RADS", "PIRADS lesion 1: 4, lesion 2: 3", ""),
        ("PI-RADS", "PI-RADS for lesion 1: 4/5; lesion 2: 3/5. Apex.", "Apex."),
        ("PI-RADS", "PI-RADS (v2.1): 4", ""),
        ("NI-RADS", "NI-RADS 2a (primary) and 1 (neck)", ""),
        ("NI-RADS", "NI-RADS 2a (primary). Level 2 node 14 mm", "(primary). Level 2 node 14 mm"),
        ("NI-RADS", "NI-RADS, neck: level 2 node 14 mm", "NI-RADS, neck: level 2 node 14 mm"),
        ("TI-RADS", "TI-RADS 4. Level 2 node 14 mm", "Level 2 node 14 mm"),
        ("TI-RADS", "TI-RADS\nRight lobe: 5 x 4 mm nodule", "TI-RADS\nRight lobe: 5 x 4 mm nodule"),
        ("PI-RADS", "PI-RADS lesion 1: 14 mm", "PI-RADS lesion 1: 14 mm"),
        (
            "BI-RADS",
            "BI-RADS is not applicable to the right breast with 2 cysts",
            "BI-RADS is not applicable to the right breast with 2 cysts",
        ),
    ],
)
def test_the_printed_category_goes_and_the_findings_stay(system: str, printed: str, left: str) -> None:
    assert radset.without_score(printed, system) == left


@pytest.mark.parametrize("system", [s.name for s in SYSTEMS])
def test_every_spelling_of_every_category_goes(system: str) -> None:
    rads = system_named(system)
    categories = [text for c in rads.categories for text in (c.name, *c.spellings)]
    printed = [f"{name} {category}" for name in rads.spellings for category in categories]
    assert [text for text in printed if radset.without_score(f"{text}.", system)] == []


def test_a_label_that_is_none_is_named(tmp_path: Path) -> None:
    metadata(tmp_path, ("R021_T_US", "9"))
    (tmp_path / "R021_T_US.txt").write_text("Findings: none.")
    with pytest.raises(ArchiveError, match=r"metadata\.csv: row 1: field 'RADS_score' is no category of TI-RADS"):
        list(radset.read(tmp_path))


def test_a_report_without_a_file_or_a_system_is_named(tmp_path: Path) -> None:
    metadata(tmp_path, ("R021_T_US", "4"))
    with pytest.raises(ArchiveError, match=r"row 1: field 'Report_Number' names no \.txt or \.pdf"):
        list(radset.read(tmp_path))
    with pytest.raises(ArchiveError, match="m: field 'Report_Number' names no RADS system"):
        radset.label_of(Record("m", {"Report_Number": "R021_US", "RADS_score": "4"}))


@pytest.mark.skipif(find_spec("pypdf") is not None, reason="pypdf is installed, PDFs are read")
def test_a_pdf_that_cannot_be_read_asks_for_its_text(tmp_path: Path) -> None:
    metadata(tmp_path, ("R021_T_US", "4"))
    (tmp_path / "R021_T_US.pdf").write_bytes(b"%PDF-1.4")
    with pytest.raises(ArchiveError, match=r"needs pypdf; or lay R021_T_US\.txt beside it"):
        list(radset.read(tmp_path))


def test_a_pdf_that_is_damaged_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class PdfReadError(Exception):
        """As pypdf has it."""

    def damaged(path: Path) -> None:
        raise PdfReadError("EOF marker not found")

    monkeypatch.setitem(sys.modules, "pypdf", SimpleNamespace(PdfReader=damaged))
    metadata(tmp_path, ("R021_T_US", "4"))
    (tmp_path / "R021_T_US.pdf").write_bytes(b"%PDF-1.4")
    with pytest.raises(ArchiveError, match=r"R021_T_US\.pdf: not readable \(PdfReadError\)"):
        list(radset.read(tmp_path))


@pytest.mark.skipif(not LABELS_CSV.exists(), reason=f"{LABELS_CSV.name} is not beside the project")
def test_every_label_in_real_use_is_read() -> None:
    labels = [radset.label_of(row) for row in rows(LABELS_CSV, ("Report_Number", "RADS_score"))]
    assert len(labels) == 1600
    assert {system for system, _, _ in labels} == {s.name for s in SYSTEMS}
    assert all((neck is not None) == (system == "NI-RADS") for system, _, neck in labels)
