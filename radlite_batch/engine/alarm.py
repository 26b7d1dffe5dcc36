"""Ends a process that no longer gets anywhere: an alarm of the kernel's, which no stuck code can hold up.

A model puts it off with every step it takes, so that a large batch of records may take its time; what stands still does
not. No handler is set: SIGALRM ends the process, and whoever started it sees of what it died.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

_seconds = _end = 0.0


@contextmanager
def within(seconds: float, records: int) -> Iterator[None]:
    """Inside, the process ends `seconds` after its last step, and seconds x records after the begin. 0: never."""
    global _seconds, _end
    _seconds, _end = seconds, time.monotonic() + seconds * max(records, 1)
    try:
        step()
        yield
    finally:
        _seconds = 0.0
        signal.setitimer(signal.ITIMER_REAL, 0)


def step() -> None:
    """Puts the alarm off, if there is one."""
    if _seconds:
        signal.setitimer(signal.ITIMER_REAL, max(min(_seconds, _end - time.monotonic()), 1e-3))
