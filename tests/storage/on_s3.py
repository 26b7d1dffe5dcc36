"""What the tests of runs on an S3 share."""

import os
import subprocess
import sys
import time
from pathlib import Path

from bucket import BUCKET, Bucket
from small import TASKS

OUT = f"s3://{BUCKET}/out"
LOCK = "out/_run/lock.json"


def start(archive: str, cache: Path, *more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "radlite_batch.cli", "run", "--input", archive, "--tasks", ",".join(TASKS)]
    command += ["--pack", "fake", "--output", OUT, "--workers", "1", *more]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"RADLITE_CACHE": str(cache)},
    )


def wait_for_receipts(bucket: Bucket, process: "subprocess.Popen[str]", wanted: int) -> None:
    end = time.monotonic() + 120
    while len([key for key in bucket.objects() if "/receipts/" in key]) < wanted:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
