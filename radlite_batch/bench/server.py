"""llama-server as a peer: processes on the loopback address, and a client thread for every slot."""

import ctypes
import http.client
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radlite_batch.bench.peers import Measure, Turn, Work
from radlite_batch.errors import EngineError

_HOST = "127.0.0.1"
SLOTS = 16  # of each process
_START_SECONDS = 120
_ANSWER_SECONDS = 600
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """slots: of each process. core_sets: the logical CPUs of each process; it runs a thread on each of them.

    pinned: a client thread names its slot, so that what it computed stays there; else the server chooses."""

    slots: int
    core_sets: tuple[tuple[int, ...], ...]
    pinned: bool = True
    # No copies of slots, which cost more than they save, and the weights as they are mapped: repacked ones are slower
    # here in the k-quants.
    flags: tuple[str, ...] = ("--cache-ram", "0", "--no-repack")


def measure(program: Path, model: Path, work: Work, settings: ServerSettings, folder: Path) -> Measure:
    """Starts servers, has them answer everything, stops them. Raises EngineError."""
    begin = time.perf_counter()
    with ExitStack() as stack:
        ports = [
            stack.enter_context(started(program, model, work.cells, settings, cores, folder))
            for cores in settings.core_sets
        ]
        ready = time.perf_counter()
        computed, written = drive(ports, work.turns, settings)
        end = time.perf_counter()
    return Measure(work.reports, end - ready, ready - begin, computed, written)


@contextmanager
def started(
    program: Path, model: Path, cells: int, settings: ServerSettings, cores: Sequence[int], folder: Path
) -> Iterator[int]:
    """A running server's port. It is killed at the end, and dies with this process. cells: tokens a slot keeps."""
    port = _free_port()
    context = settings.slots * -(-cells // 64) * 64
    command = [
        str(program), "-m", str(model), "--host", _HOST, "--port", str(port), "-t", str(len(cores)),
        "-np", str(settings.slots), "-c", str(context), "--no-webui", "--offline", *settings.flags,
    ]  # fmt: skip
    log = folder / f"server-{port}.log"

    def prepare() -> None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.sched_setaffinity(0, cores)

    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, preexec_fn=prepare)
    try:
        _wait_until_ready(process, port, program)
        yield port
    finally:
        process.kill()
        process.wait()


def drive(ports: Sequence[int], turns: Sequence[Turn], settings: ServerSettings) -> tuple[int, int]:
    """Has the servers answer all turns, a thread per slot: (prompt tokens computed, tokens written)."""
    n_workers = settings.slots * len(ports)
    waiting, totals, errors = Waiting(turns, n_workers), [0, 0], list[Exception]()
    lock = threading.Lock()

    def work(number: int) -> None:
        slot = number // len(ports) if settings.pinned else None
        connection = http.client.HTTPConnection(_HOST, ports[number % len(ports)], timeout=_ANSWER_SECONDS)
        try:
            while not errors and (turn := waiting.next(number)):
                for request in turn:
                    body = completion_body(request.prompts, request.n_predict, request.stop, slot)
                    timings = _ask(connection, body)
                    with lock:
                        totals[0] += sum(t["prompt_n"] for t in timings)
                        totals[1] += sum(t["predicted_n"] for t in timings)
        except Exception as error:  # a thread's error would be lost otherwise
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(n_workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise EngineError(f"llama-server: {type(errors[0]).__name__}: {errors[0]}")
    return totals[0], totals[1]


class Waiting:
    """Turns that nobody took yet. Each worker has a stretch of its own, so that its slot's cache sees neighbours; who
    is done helps where most is left."""

    def __init__(self, turns: Sequence[Turn], workers: int):
        n = len(turns)
        self._stretches = [deque(turns[i * n // workers : (i + 1) * n // workers]) for i in range(workers)]
        self._lock = threading.Lock()

    def next(self, worker: int) -> Turn | None:
        with self._lock:
            if self._stretches[worker]:
                return self._stretches[worker].popleft()
            fullest = max(self._stretches, key=len)
            return fullest.pop() if fullest else None


def completion_body(
    prompts: Sequence[Sequence[int]], n_predict: int, stop: Sequence[str], slot: int | None
) -> dict[str, Any]:
    """The body of a /completion request; several prompts in one are answered one after another in the slot."""
    body: dict[str, Any] = {
        "prompt": prompts[0] if len(prompts) == 1 else prompts,
        "n_predict": n_predict,
        "stop": stop,
        "temperature": 0,
        "samplers": ["top_k"],  # the likeliest token without a look at the others
        "top_k": 1,
        "cache_prompt": True,
        "response_fields": ["content", "timings"],
    }
    return body if slot is None else body | {"id_slot": slot}


def _ask(connection: http.client.HTTPConnection, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The timings of each answer of a request."""
    connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200:
        raise EngineError(f"a request was answered with {response.status}")
    document = json.loads(answer)
    return [each["timings"] for each in (document if isinstance(document, list) else [document])]


def _wait_until_ready(process: "subprocess.Popen[bytes]", port: int, program: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise EngineError(f"{program}: ended with {process.returncode} before it was ready")
        connection = http.client.HTTPConnection(_HOST, port, timeout=5)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.05)
    raise EngineError(f"{program}: not ready after {_START_SECONDS} s")


def version_of(program: Path) -> str:
    """What the program says of itself. Raises EngineError."""
    try:
        said = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=_START_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EngineError(f"{program}: does not tell its version ({type(error).__name__})") from None
    return " ".join((said.stdout + said.stderr).split())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])
