"""Shell completion: the command that prints it, and how tasks and packs complete."""

import click
from click.shell_completion import CompletionItem, get_completion_class

from radlite_batch.pack import pack_names
from radlite_batch.tasks.registry import TASKS

_SHELLS = ("bash", "zsh", "fish")
_HELP = """Print what a shell needs to complete commands, options, tasks and packs.

For bash or zsh put the first line below, with your shell's name, into ~/.bashrc or ~/.zshrc; fish wants the second.

\b
Example: eval "$({program} completion bash)"
Example: {program} completion fish > ~/.config/fish/completions/{program}.fish
"""


def complete_tasks(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """The tasks that may end a list with commas."""
    before, comma, last = typed.rpartition(",")
    return [f"{before}{comma}{name}" for name in TASKS if name.startswith(last) and name not in before.split(",")]


def complete_packs(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """The built-in packs, or else files."""
    names = [CompletionItem(name) for name in pack_names() if name.startswith(typed)]
    return names or [CompletionItem(typed, type="file")]


def completion_command(program: str) -> click.Command:
    """The command `completion` of this program."""

    @click.command("completion", help=_HELP.format(program=program))
    @click.argument("shell", type=click.Choice(_SHELLS))
    @click.pass_context
    def command(context: click.Context, shell: str) -> None:
        kind = get_completion_class(shell)
        assert kind is not None
        variable = f"_{program}_complete".replace("-", "_").upper()
        click.echo(kind(context.find_root().command, {}, program, variable).source())

    return command
