"""Every source of training data: its reader, its terms, and the files its folder must hold."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from training.datasets import (
    chexpert,
    composed,
    corpus,
    ct_rate,
    llava_med,
    medqa,
    merlin,
    mimic_cxr,
    ms_cxr_t,
    negex,
    openi,
    radgraph,
    radialog,
    radnli,
    radrestruct,
    radset,
    tcga,
    zhang2018,
)
from training.datasets.base import Sample


@dataclass(frozen=True, slots=True)
class Source:
    """read: every sample of a folder; raises ArchiveError naming file and field. files: under their own names, plain
    or gzipped; a part in brackets may be missing."""

    read: Callable[[Path], Iterator[Sample]]
    terms: str
    files: str


_PHYSIONET = "PhysioNet credentialed health data licence 1.5.0"
_AIMI = "Stanford AIMI research use agreement, non-commercial"

SOURCES: dict[str, Source] = {
    "corpus": Source(corpus.read, "Apache-2.0", "train/*.jsonl, heldout/*.jsonl, test/*.jsonl"),
    "composed": Source(composed.read, "Apache-2.0", "phrases/*.toml"),
    "openi": Source(openi.read, "labels US public domain; text commonly stated as CC BY-NC-ND 4.0", "openi_train.csv"),
    "radrestruct": Source(radrestruct.read, "MIT; text as Open-i", "radrestruct_train.jsonl, openi_train.csv"),
    "tcga": Source(tcga.read, "MIT", "tcga_path_tnm_dev.csv"),
    "negex": Source(negex.read, "Apache-2.0", "negex_assertion.tsv"),
    "medqa": Source(medqa.read, "MIT", "[train.jsonl, dev.jsonl, test.jsonl, medqa_dev.jsonl]"),
    "ct_rate_dev": Source(ct_rate.read_dev, "CC BY-NC-SA 4.0; evaluation only", "ct_rate_dev.csv"),
    "ct_rate": Source(
        ct_rate.read,
        "CC BY-NC-SA 4.0, after accepting them on Hugging Face",
        f"{ct_rate.REPORTS}/{{train,validation}}_reports.csv, {ct_rate.PREDICTED}/{{train,valid}}_predicted_labels.csv",
    ),
    "radset": Source(radset.read, "CC BY-NC-SA 4.0, on request", "metadata.csv, <Report_Number>.txt or .pdf"),
    "radset_printed": Source(
        radset.read_printed, "CC BY-NC-SA 4.0, on request", "metadata.csv, <Report_Number>.txt or .pdf"
    ),
    "mimic_cxr": Source(mimic_cxr.read, _PHYSIONET, f"{mimic_cxr.SECTIONS}, {mimic_cxr.LABELLED}, {mimic_cxr.SPLIT}"),
    "chexpert": Source(chexpert.read, _AIMI, chexpert.LABELLED),
    "chexpert_plus": Source(chexpert.read_plus, _AIMI, f"{chexpert.PLUS}, {chexpert.PLUS_LABELS}"),
    "radgraph": Source(radgraph.read, _PHYSIONET, "[train.json, dev.json, test.json]"),
    "radgraph2": Source(radgraph.read_radgraph2, _PHYSIONET, "*.json"),
    "radgraph_xl": Source(radgraph.read_radgraph_xl, f"{_PHYSIONET}; {_AIMI}", "*.json, *.jsonl"),
    "radnli": Source(radnli.read, _PHYSIONET, ", ".join(radnli.FILES)),
    "ms_cxr_t": Source(ms_cxr_t.read, _PHYSIONET, f"{ms_cxr_t.IMAGES}, {ms_cxr_t.SENTENCES}, {mimic_cxr.SECTIONS}"),
    "merlin": Source(merlin.read, _AIMI, "reports_final.xlsx or .csv"),
    "radialog": Source(radialog.read, _PHYSIONET, f"[{', '.join(radialog.FILES)}], {mimic_cxr.SPLIT}"),
    "llava_med": Source(llava_med.read, "CC BY-NC 4.0", f"{llava_med.CAPTIONS}, [{', '.join(llava_med.FILES)}]"),
    "zhang2018": Source(zhang2018.read, "those of the reports", "[train.jsonl, dev.jsonl, test.jsonl]"),
}

# Nothing of a pack may be fitted on these, its temperatures neither.
EVALUATION_ONLY = frozenset(name for name, source in SOURCES.items() if "evaluation only" in source.terms)
