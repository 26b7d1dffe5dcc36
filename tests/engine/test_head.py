"""Which files' logits the head of few tokens gives."""

import pytest

from radlite_batch.engine.gguf_header import Header, Tensor
from radlite_batch.engine.head import fits

HEAD = Tensor((8, 64), 0, 0, 2048)


@pytest.mark.parametrize(
    ("architecture", "tensors", "fit"),
    [
        ("llama", ("token_embd.weight",), True),
        ("qwen2", ("token_embd.weight", "output.weight"), True),
        ("qwen2", ("token_embd.weight", "output.weight", "output.bias"), False),
        ("gemma2", ("token_embd.weight",), False),
    ],
)
def test_a_head_is_a_matrix_and_nothing_else(architecture: str, tensors: tuple[str, ...], fit: bool) -> None:
    assert fits(Header(architecture, dict.fromkeys(tensors, HEAD))) is fit
