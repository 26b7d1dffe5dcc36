"""Reading what `fit` saved, on a machine of any kind."""

import pickle
import struct
from pathlib import Path
from typing import Any

from radlite_batch.errors import UsageError


def read_saved(path: Path, mmap: bool = False) -> dict[str, Any]:
    """A checkpoint, or the best parameters, with what they were trained under. mmap: values are read when used.

    Raises UsageError for a damaged file."""
    import torch  # merging runs where torch is not installed

    try:
        # The fit may have run on a GPU that this machine has not.
        saved: dict[str, Any] = torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)
    except (RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError, struct.error) as error:
        raise UsageError(f"{path}: damaged, or nothing that `fit` saved ({type(error).__name__})") from None
    return saved
