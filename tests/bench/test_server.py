"""The client of llama-server, against a stand-in on the loopback address."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from radlite_batch.bench.peers import Request, Work
from radlite_batch.bench.server import ServerSettings, Waiting, drive, measure
from radlite_batch.errors import EngineError


class StandIn(ThreadingHTTPServer):
    """Answers every prompt with one token; keeps what it was sent."""

    daemon_threads = True
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict[str, Any]] = []
        self.clients: set[int] = set()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandIn

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.clients.add(self.client_address[1])
        several = isinstance(body["prompt"][0], list)
        answers = [
            {"content": "x", "timings": {"prompt_n": len(prompt), "predicted_n": body["n_predict"]}}
            for prompt in (body["prompt"] if several else [body["prompt"]])
        ]
        payload = json.dumps(answers if several else answers[0]).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    server = StandIn()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def turns(n: int) -> list[list[Request]]:
    return [[Request(((n_, 1, 2), (n_, 1, 3)), 1), Request(((n_, 1, 4),), 16, ("\n",))] for n_ in range(n)]


def test_a_turn_stays_in_its_slot_and_everything_is_counted(stand_in: StandIn) -> None:
    counts = drive([stand_in.server_port], turns(20), ServerSettings(4, ((0, 1),)))
    assert counts == (20 * 9, 20 * (1 + 1 + 16))
    slots: dict[int, set[int]] = {}
    for body in stand_in.bodies:
        first = body["prompt"][0]
        slots.setdefault(first[0] if isinstance(first, list) else first, set()).add(body["id_slot"])
        assert body["cache_prompt"] is True and body["temperature"] == 0
    assert len(slots) == 20 and all(len(used) == 1 for used in slots.values())
    assert {slot for used in slots.values() for slot in used} <= set(range(4))
    assert {(body["n_predict"], tuple(body["stop"])) for body in stand_in.bodies} == {(1, ()), (16, ("\n",))}
    assert len(stand_in.clients) <= 4  # connections are kept


def test_the_server_may_choose_the_slot(stand_in: StandIn) -> None:
    drive([stand_in.server_port], turns(2), ServerSettings(2, ((0, 1),), pinned=False))
    assert [body for body in stand_in.bodies if "id_slot" in body] == []


def test_a_refused_request_ends_the_measurement_and_quotes_nothing(stand_in: StandIn) -> None:
    stand_in.status = 400
    with pytest.raises(EngineError, match=r"^llama-server: EngineError: a request was answered with 400$"):
        drive([stand_in.server_port], turns(3), ServerSettings(2, ((0, 1),)))


def test_a_program_that_ends_at_once_is_an_error(tmp_path: Path) -> None:
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\nexit 7\n", encoding="utf-8")
    program.chmod(0o700)
    with pytest.raises(EngineError, match="ended with 7 before it was ready"):
        measure(program, tmp_path / "model.gguf", Work(1, tuple(turns(1))), ServerSettings(1, ((0,),)), tmp_path)


def test_a_slot_takes_neighbours_and_then_helps_where_most_is_left() -> None:
    waiting = Waiting(turns(8), 2)
    taken = [waiting.next(worker) for worker in (0, 0, 0, 0, 1, 0, 0, 0, 1)]
    numbers = [turn[0].prompts[0][0] if turn else None for turn in taken]
    assert numbers == [0, 1, 2, 3, 4, 7, 6, 5, None]
