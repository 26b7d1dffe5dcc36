"""Progress: a bar with rate and remaining time on a terminal, a quiet line now and then elsewhere."""

import sys
import time
from typing import TextIO

from tqdm import tqdm

_HEARTBEAT = 60.0  # seconds between two lines where nobody watches


class Progress:
    """Counts rows towards a total. Writes to `stream` only; None stays silent."""

    def __init__(self, stream: TextIO | None = sys.stderr, heartbeat: float = _HEARTBEAT):
        self._stream, self._heartbeat = stream, heartbeat
        self._bar: tqdm | None = None
        self._total = self._done = self._before = 0
        self._begin = self._last = time.monotonic()

    @classmethod
    def quiet(cls) -> "Progress":
        return cls(None)

    def say(self, line: str) -> None:
        if self._stream is not None:
            print(line, file=self._stream, flush=True)

    def open(self, total: int, done: int) -> None:
        self._total, self._done, self._before = total, done, done
        self._begin = self._last = time.monotonic()
        if self._stream is not None and self._stream.isatty():
            self._bar = tqdm(total=total, initial=done, unit="report", file=self._stream, smoothing=0.1)

    def advance(self, rows: int) -> None:
        self._done += rows
        if self._bar is not None:
            self._bar.update(rows)

    def beat(self) -> None:
        now = time.monotonic()
        if self._bar is not None:
            self._bar.refresh()
        elif now - self._last >= self._heartbeat:
            self._last = now
            rate = (self._done - self._before) / (now - self._begin)
            pace = (
                f"{rate * 3600:,.0f}/hour, {(self._total - self._done) / rate / 60:.0f} min left"
                if rate
                else "no part yet"
            )
            self.say(f"{self._done}/{self._total} reports, {pace}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
