"""The plain loop as a peer: llama_cpp.Llama and one prompt after another, as in a notebook."""

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from radlite_batch.bench.peers import Measure, Work


def measure(model: Path, work: Work, cores: Sequence[int]) -> Measure:
    """Answers all prompts in a process of its own, with a thread for each of these cores."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_answer, model, work, len(cores)).result()


def _answer(model: Path, work: Work, threads: int) -> Measure:
    import llama_cpp  # here, so that only this process loads it

    begin = time.perf_counter()
    llama = llama_cpp.Llama(
        str(model), n_ctx=-(-work.cells // 256) * 256, n_threads=threads, n_threads_batch=threads, n_batch=512,
        verbose=False,
    )  # fmt: skip
    ready = time.perf_counter()
    computed = written = 0
    for turn in work.turns:
        for request in turn:
            for prompt in request.prompts:
                # Llama keeps what the last prompt has in common with this one.
                kept = llama_cpp.Llama.longest_token_prefix(llama.input_ids[: llama.n_tokens].tolist(), prompt[:-1])
                answer = llama.create_completion(
                    list(prompt), max_tokens=request.n_predict, temperature=0.0, stop=list(request.stop)
                )
                computed += len(prompt) - kept
                written += answer["usage"]["completion_tokens"]  # type: ignore[index]
    return Measure(work.reports, time.perf_counter() - ready, ready - begin, computed, written)
