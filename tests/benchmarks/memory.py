"""Measures what a pack's models take of a machine: memory with one and with two workers, tokens per second.

usage: python tests/benchmarks/memory.py PACK

PACK is a built-in pack or a pack file. The workers of a run share one copy of the weights: the proportional set size of
all its processes together, read ten times a second, must stay within

    the models' files + workers x (keys, values and buffers) + what the same run takes with the fake pack, + 10 %

and the exit code is 1 where it does not. Speeds are those of one thread, each model alone and without an adapter.
"""

import argparse
import csv
import json
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from radlite_batch import machine
from radlite_batch.engine.base import Limits, Run
from radlite_batch.engine.context import Weights
from radlite_batch.engine.llama import LlamaModel
from radlite_batch.engine.open import N_BATCH
from radlite_batch.engine.speed import prompt_speed
from radlite_batch.errors import RadliteError
from radlite_batch.pack import load_pack

# A decision, tags and a written text: whatever a worker may need buffers for.
TASKS = ("rads_assignment", "n_staging", "m_staging", "abnormality_detection", "radiology_ner", "impression_generation")
REPORTS, SHARD_ROWS = 8, 4
SENTENCES = (
    "Spiculated mass in the right upper lobe, {} mm, abutting the pleura over a short segment.",
    "The heart is normal in size; no pericardial effusion.",
    "Enlarged ipsilateral hilar lymph nodes of up to {} mm in short axis.",
    "Small left pleural effusion, patchy opacity at the left base, no pneumothorax.",
)
JOB = """\
[archive]
paths = ["{folder}/archive.csv"]
[tasks]
run = {tasks}
[pack]
name = "{pack}"
[workers]
processes = {workers}
threads = 1
[output]
path = "{out}"
shard_rows = {shard_rows}
"""
PROMPT = 64  # tokens that the sequences of a decode measurement share
BLOCK = 256  # cells that a stream takes at least
REPEATS, STEPS = 4, 8  # it is the best of so many stretches of so many steps


@dataclass(frozen=True, slots=True)
class Taken:
    """pss: bytes over a run's processes at their peak; context: the largest worker's kv, compute and output."""

    pss: int
    context: dict[str, int]


def write_archive(path: Path) -> None:
    texts = (" ".join(SENTENCES).format(i + 10, i + 11) for i in range(REPORTS))
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("report_id", "text"), *enumerate(texts)])


def measure_run(folder: Path, pack: str, workers: int) -> Taken:
    """Runs TASKS over the folder's archive in processes of its own. Raises RadliteError if the run fails."""
    out = folder / f"{Path(pack).stem}-{workers}"
    job = out.with_suffix(".job.toml")
    job.write_text(
        JOB.format(folder=folder, tasks=json.dumps(TASKS), pack=pack, workers=workers, out=out, shard_rows=SHARD_ROWS)
    )
    process = subprocess.Popen([sys.executable, "-m", "radlite_batch.cli", "run", str(job)], stdout=subprocess.DEVNULL)
    pss = 0
    while process.poll() is None:
        pss = max(pss, machine.tree_memory(process.pid)["pss"])
        time.sleep(0.1)
    receipts = [json.loads(path.read_text()) for path in (out / "_run" / "receipts").glob("*.json")]
    if process.returncode not in (0, 3) or not receipts:
        raise RadliteError(f"the run with {workers} worker(s) of pack {pack} ended with {process.returncode}")
    contexts = [{key: receipt["memory"][key] for key in ("kv", "compute", "output")} for receipt in receipts]
    return Taken(pss, max(contexts, key=lambda context: sum(context.values())))


def decode_speed(path: Path, n_seqs: int) -> float:
    """Tokens per second that n_seqs sequences write together after a prompt they share, on one thread."""
    weights = Weights(path)
    size = PROMPT + REPEATS * STEPS
    model = LlamaModel(weights, Limits(PROMPT, n_seqs * BLOCK, 2, n_seqs), threads=1)
    prompt = np.arange(1000, 1000 + PROMPT, dtype=np.int32)
    model.decode([Run(prompt, 0, (0,))])
    state, last, seconds = model.take(0), [1000] * n_seqs, math.inf
    streams = model.streams(size)
    for stream in range(n_seqs):
        streams.put(stream, state)
    for start in range(PROMPT, size, STEPS):
        begin = time.perf_counter()
        for position in range(start, start + STEPS):
            rows = streams.step(np.array(last, dtype=np.int32)[:, None], [position] * n_seqs)
            last = [row.best() for (row,) in rows]
        seconds = min(seconds, time.perf_counter() - begin)
    model.close()
    weights.close()
    return n_seqs * STEPS / seconds


def report(pack_name: str, folder: Path) -> bool:
    """Prints everything; whether the memory stayed within what is allowed."""
    pack = load_pack(pack_name)
    paths = [pack.prepare(model)[0].path for model in pack.routes_of(TASKS)]
    files = [path for path in paths if path is not None]
    if not files:
        raise RadliteError(f"pack {pack.name} has no weights to share")
    for path in files:
        print(f"{path.name}: {path.stat().st_size >> 20:,} MiB")
    write_archive(folder / "archive.csv")
    within = [report_memory(pack_name, folder, files, workers) for workers in (1, 2)]
    for path in files:
        speeds = (
            prompt_speed(path, [(machine.cores()[0],)], N_BATCH, 2.0),
            decode_speed(path, 1),
            decode_speed(path, 16),
        )
        print("{}, tokens/s: prompt {:.1f}, written by 1 sequence {:.1f}, by 16 {:.1f}".format(path.name, *speeds))
    return all(within)


def report_memory(pack: str, folder: Path, files: list[Path], workers: int) -> bool:
    taken, fake = measure_run(folder, pack, workers), measure_run(folder, "fake", workers)
    weights, context = sum(path.stat().st_size for path in files), sum(taken.context.values())
    allowed = int((weights + workers * context + fake.pss) * 1.1)
    parts = ", ".join(f"{key} {size >> 20:,}" for key, size in taken.context.items())
    print(f"{workers} worker(s): PSS {taken.pss >> 20:,} MiB, allowed {allowed >> 20:,}: weights {weights >> 20:,} + "
          f"{workers} x {context >> 20:,} ({parts}) + fake run {fake.pss >> 20:,}, + 10 %")  # fmt: skip
    return taken.pss <= allowed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pack", help="name of a built-in pack, or path of a pack file")
    pack = parser.parse_args().pack
    try:
        with tempfile.TemporaryDirectory() as temporary:
            within = report(str(Path(pack).resolve()) if pack.endswith(".toml") else pack, Path(temporary))
    except RadliteError as error:
        sys.exit(f"error: {error}")
    sys.exit(0 if within else 1)


if __name__ == "__main__":
    main()
