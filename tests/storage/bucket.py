"""An S3 on loopback, in the process of the tests, which see every change and can make any request fail."""

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import BaseWSGIServer, make_server

BUCKET = "reports"
ACCOUNT = "123456789012"  # moto's own
SECRET = "Qwertzuiop-not-for-logs"

logging.getLogger("werkzeug").setLevel(logging.ERROR)


class Bucket:
    """One bucket behind moto's server. Requests are answered one at a time, for moto's own checks of conditions and
    the writes after them are two steps.

    changes: (method, key) of every one that was answered well, in order. reads: keys of objects that were fetched.
    broken: what a reader must never see, looked for after every change. refuse: of (method, key), whether it fails.
    careless: takes no notice of conditions, like an S3 that does not know them."""

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._one_at_a_time = threading.Lock()
        self._server: BaseWSGIServer | None = None
        self._port = 0
        self.reset()

    def reset(self) -> None:
        self._backend.reset()
        self._backend.create_bucket(BUCKET, "us-east-1")
        self.changes: list[tuple[str, str]] = []
        self.reads: list[str] = []
        self.broken: list[str] = []
        self.refuse: Callable[[str, str], bool] = lambda method, key: False
        self.careless = False

    def start(self) -> None:
        """Answers at `endpoint`, from the second time on at the same one."""
        self._server = make_server("127.0.0.1", self._port, self, True, request_handler=MotoRequestHandler)
        self._port = self._server.port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, key = environ["REQUEST_METHOD"], unquote(environ["PATH_INFO"]).removeprefix(f"/{BUCKET}/")
        if self.careless:
            environ = {name: value for name, value in environ.items() if not name.startswith("HTTP_IF_")}
        status = ""

        def begin(line: str, *rest: Any) -> Any:
            nonlocal status
            status = line
            return start_response(line, *rest)

        with self._one_at_a_time:
            if self.refuse(method, key):
                start_response("503 Service Unavailable", [("Content-Length", "0")])
                return []
            answer = list(self._app(environ, begin))
            if method in ("PUT", "DELETE") and status.startswith("2"):
                self.changes.append((method, key))
                self.broken += self._wrong()
            elif method == "GET" and environ["PATH_INFO"].rstrip("/") != f"/{BUCKET}":
                self.reads.append(key)
            return answer

    @property
    def _backend(self) -> Any:
        return s3_backends[ACCOUNT]["aws"]

    @property
    def _keys(self) -> Any:
        return self._backend.buckets[BUCKET].keys

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Content by key."""
        return {key: found.value for key, found in sorted(self._keys.items()) if key.startswith(prefix)}

    def write(self, key: str, data: bytes) -> None:
        self._backend.put_object(BUCKET, key, data)

    def age(self, key: str, seconds: float) -> None:
        """As if it had been written so much earlier."""
        import datetime

        self._keys[key].last_modified -= datetime.timedelta(seconds=seconds)

    def save(self, prefix: str, folder: Path) -> Path:
        """Writes the objects of an output into a folder, as any reader would."""
        for key, data in self.objects(prefix).items():
            path = folder / key.removeprefix(prefix).lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return folder

    def _wrong(self) -> list[str]:
        """Proofs whose parts are not there, byte for byte, and successes without their summary."""
        objects, found = self.objects(), []
        for key, data in objects.items():
            out, _, name = key.partition("/_run/")
            if name.startswith(("receipts/", "finished/")):
                proof = json.loads(data)
                for part in proof["tasks"].values() if "tasks" in proof else proof["parts"]:
                    there = objects.get(f"{out}/{part['path']}", b"")
                    if hashlib.sha256(there).hexdigest() != part["sha256"]:
                        found.append(f"{key} without {part['path']}")
            if key.endswith("/_SUCCESS"):
                summary = objects.get(f"{key.removesuffix('/_SUCCESS')}/_run/summary.json", b'{"state": ""}')
                if json.loads(summary)["state"] != "complete":
                    found.append(f"{key} without its summary")
        return found
