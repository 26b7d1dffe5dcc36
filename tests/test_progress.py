"""Progress: a bar for a person, a quiet line for a log."""

import io

from radlite_batch.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_now_and_then() -> None:
    stream = io.StringIO()
    progress = Progress(stream, heartbeat=0.0)
    progress.open(100, 20)
    progress.beat()
    progress.advance(30)
    progress.beat()
    progress.close()
    first, second = stream.getvalue().splitlines()
    assert first == "20/100 reports, no part yet"
    assert second.startswith("50/100 reports, ") and "/hour" in second and second.endswith("min left")


def test_between_heartbeats_it_is_silent() -> None:
    stream = io.StringIO()
    progress = Progress(stream, heartbeat=60.0)
    progress.open(100, 0)
    progress.advance(50)
    progress.beat()
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar_with_rate_and_remaining_time() -> None:
    stream = Terminal()
    progress = Progress(stream)
    progress.open(100, 0)
    progress.advance(50)
    progress.beat()
    progress.close()
    assert "50/100" in stream.getvalue() and "report" in stream.getvalue()


def test_quiet_says_nothing_and_counts_all_the_same() -> None:
    progress = Progress.quiet()
    progress.say("x")
    progress.open(10, 0)
    progress.advance(10)
    progress.beat()
    progress.close()
