"""An S3 of its own for every test, and a cache folder that is this host's."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "faults"))  # small.py: runs in one process, and what is seen of them

from bucket import SECRET, Bucket


@pytest.fixture(scope="session")
def _server() -> Iterator[Bucket]:
    server = Bucket()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def bucket(_server: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    _server.reset()
    for name, value in {
        "AWS_ENDPOINT_URL": _server.endpoint, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1", "AWS_EC2_METADATA_DISABLED": "true",
        "RADLITE_CACHE": str(tmp_path / "cache"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return _server
