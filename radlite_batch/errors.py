"""Every error this package raises on purpose.

    RadliteError                1   fatal
    |- UsageError               2   a command or flag that makes no sense
    |- JobError                 2   a job file, naming the key
    |- PackError                2   a pack, a model file or an adapter, naming file or key
    |- ArchiveError             2   an input file, naming file and row
    |- RunChanged               2   the output holds a run of something else, naming the difference
    |- OutputLocked            75   another run holds the output
    |- OutputError              1   the output cannot be written, or a file of it is damaged or gone
    `- EngineError              1   the inference library failed
    Unparsed                        a raw answer that says nothing; becomes a row's status, never ends a run

The number is the exit code. Messages name a file, a row or a key, and never hold a report's text.
"""

import difflib
from collections.abc import Iterable


class RadliteError(Exception):
    exit_code = 1


class UsageError(RadliteError):
    exit_code = 2


class JobError(RadliteError):
    exit_code = 2


class PackError(RadliteError):
    exit_code = 2


class ArchiveError(RadliteError):
    exit_code = 2


class RunChanged(RadliteError):
    exit_code = 2


class OutputLocked(RadliteError):
    exit_code = 75


class OutputError(RadliteError):
    pass


class EngineError(RadliteError):
    pass


class Unparsed(Exception):
    """The reason names the task's expectation only; the answer may quote the report."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" for a near miss, else the known words."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
