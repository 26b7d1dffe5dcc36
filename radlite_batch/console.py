"""What the two commands have in common: an error is one line, and quotes no report."""

import sys
import traceback
from typing import Any

import click

from radlite_batch.errors import RadliteError


class ErrorGroup(click.Group):
    """Prints our errors as one line and exits with their code."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except RadliteError as error:
            click.echo(f"{self.name}: {error}", err=True)
            sys.exit(error.exit_code)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):  # click's own to say
            raise
        except Exception as error:
            # The message of a stranger's exception may quote a report: say where it happened, not what it says.
            places = "".join(traceback.format_tb(error.__traceback__))
            click.echo(f"{places}{self.name}: unexpected {type(error).__name__}", err=True)
            sys.exit(1)
