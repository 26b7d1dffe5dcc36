"""What the two commands have in common: an error is one line, and quotes no report; an output may be a URL."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from radlite_batch import machine, storage
from radlite_batch.errors import RadliteError
from radlite_batch.results.mirror import refresh


class ErrorGroup(click.Group):
    """Prints errors as one line, ours and those of a command line, and exits with their code."""

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        try:
            return super().parse_args(context, arguments)
        except click.UsageError as error:
            _refuse(error, context)

    def invoke(self, context: click.Context) -> Any:
        machine.forbid_dumps()  # whatever the command is, it may have reports in memory
        try:
            return super().invoke(context)
        except RadliteError as error:
            click.echo(f"{self.name}: {error}", err=True)
            sys.exit(error.exit_code)
        except click.UsageError as error:
            _refuse(error, context)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):  # click's own to say
            raise
        except ModuleNotFoundError as error:
            hint = "`radlite doctor` names the command that brings it"
            click.echo(f"{self.name}: the Python package {error.name!r} is not installed; {hint}", err=True)
            sys.exit(1)
        except Exception as error:
            if isinstance(error, OSError) and error.errno:  # without a name where it is a stream that is refused
                place = f"{error.filename}: " if error.filename else ""
                click.echo(f"{self.name}: {place}{os.strerror(error.errno)}", err=True)
                sys.exit(1)
            # The message of a stranger's exception may quote a report: say where it happened, not what it says.
            places = "".join(traceback.format_tb(error.__traceback__))
            click.echo(f"{places}{self.name}: unexpected {type(error).__name__}", err=True)
            sys.exit(1)


def _refuse(error: click.UsageError, context: click.Context) -> NoReturn:
    """Says in one line what is wrong with a command line, and where the right one is described."""
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # since click 8.2; its answer is the help
        raise error
    command = (error.ctx or context).command_path
    problem = " ".join(error.format_message().split()).removesuffix(".").replace(". Did you", "; did you")
    hint = "" if problem.endswith("?") else f"; see `{command} --help`"
    click.echo(f"{command}: {problem[:1].lower()}{problem[1:]}{hint}", err=True)
    sys.exit(error.exit_code)


class _Name(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic since click 8.5
    """Names, separated by commas, or one; not "", which an unset variable of a script leaves."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> str:
        if not str(value).strip(" ,"):
            self.fail("it names nothing", param, context)
        return str(value)


NAME = _Name()


class OutputFolder(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic since click 8.5
    """A run's output: its folder, or for a URL its mirror, after `bring` has made that equal as far as it is needed."""

    name = "path"

    def __init__(self, bring: Callable[[Path], None] = refresh):
        self._bring = bring

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Path:
        if isinstance(value, Path):
            return value
        if not storage.plain(value):
            self.fail("it names nothing", param, context)
        out = storage.folder(value) if storage.is_remote(value) else Path(storage.plain(value))
        self._bring(out)
        return out
