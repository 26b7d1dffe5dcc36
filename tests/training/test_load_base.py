"""A base is read dense, or in 4 bits by way of its dense weights; bitsandbytes itself is not needed to see that."""

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; the training extra brings it")
for library in ("transformers", "peft"):
    pytest.importorskip(library, reason=f"{library} is not installed; the training extra brings it")

import tiny  # noqa: E402
from test_export import random_base  # noqa: E402
from transformers import AutoModelForCausalLM, BitsAndBytesConfig  # noqa: E402

from radlite_batch.errors import UsageError  # noqa: E402
from training import model  # noqa: E402
from training.model import load_base  # noqa: E402


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return random_base(tiny.Shape("qwen2", True), tmp_path / "base.gguf")


def test_four_bits_need_a_package_that_is_named(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="four_bit needs the Python package bitsandbytes"):
        load_base(base, torch.float32, four_bit=True)


def test_four_bits_are_made_of_the_dense_weights(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, asked = AutoModelForCausalLM.from_pretrained, []

    def dense_only(folder: str, **options: Any) -> Any:
        asked.append((folder, dict(options)))
        if len(asked) == 2:
            del options["quantization_config"]  # bitsandbytes may be missing here
        return read(folder, **options)

    dense = load_base(base, torch.float32).state_dict()
    monkeypatch.setattr(model, "find_spec", lambda name: name)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", dense_only)
    again = load_base(base, torch.float32, four_bit=True).state_dict()
    (_, first), (folder, second) = asked
    assert first["gguf_file"] == base.name and "gguf_file" not in second
    config = second["quantization_config"]
    assert isinstance(config, BitsAndBytesConfig) and config.load_in_4bit
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_compute_dtype) == ("nf4", torch.float32)
    assert not Path(folder).exists()
    assert again.keys() == dense.keys() and all(torch.equal(again[name], dense[name]) for name in dense)
