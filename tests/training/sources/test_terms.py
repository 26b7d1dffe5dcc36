"""Every source says under what terms it may be used, where it is read and where it is listed."""

import re
import sys
from pathlib import Path

import pytest

from training import datasets
from training.datasets.registry import SOURCES

HELPERS = {"__init__", "base", "chest", "files", "mix", "picture", "printed", "registry", "typos"}


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_states_its_terms(name: str) -> None:
    source = SOURCES[name]
    about = sys.modules[source.read.__module__].__doc__ or ""
    assert source.terms and re.search(r"^Terms: \S.+\.", about, re.MULTILINE | re.DOTALL)
    # What is listed begins as a licence or agreement that the reader's docstring names too.
    first = re.split(r"[;,]| \d", source.terms)[0].replace("-", " ").removeprefix("labels ")
    assert first in about.replace("-", " ")
    assert source.read.__doc__ and "Raises ArchiveError" in source.read.__doc__


def test_every_reader_is_listed() -> None:
    readers = {path.stem for path in Path(datasets.__path__[0]).glob("*.py")} - HELPERS
    assert readers == {source.read.__module__.rpartition(".")[2] for source in SOURCES.values()}
