"""The manual of a program in Markdown, made from what its commands say of themselves."""

import inspect
from collections.abc import Iterator

import click

SURROUNDINGS = """\b
Files:
JOB.toml: a job; its keys are in the README, and jobs/all-tasks.toml is a commented one.
OUT/TASK/part-NNNNN.parquet: the answers of a task.
OUT/wide/, OUT/failures/: one row per report; the failed and unparsed rows, with reasons.
OUT/_run/: manifest.json, receipts/, finished/, summary.json, log.jsonl: the plan, proofs and course of a run.
OUT/_run/report.html, OUT/_run/diff/: pages of `report` and `diff`.
OUT/_run/review/: review.html, review.csv (with report text), decisions.parquet, reviewed/.
OUT/_run/export/: a folder for each format of `export`.
OUT/_run/lock.json: of an output on S3: who holds it.
OUT/_SUCCESS: written last.

\b
Environment:
RADLITE_CACHE: folder of converted models and measurements [radlite in XDG_CACHE_HOME, else in ~/.cache].
AWS_ENDPOINT_URL: an S3 that is not Amazon's; credentials too are read from the environment, as AWS's libraries do.
RADLITE_QWEN: folder of the published models' files, which the pack radlite-qwen names.
"""
_HELP = """Print the manual of all commands as Markdown.

\b
Example: {program} reference > {program}.md
"""
_SECTIONS = ("Exit codes", "Files", "Environment")


def reference_command(program: str) -> click.Command:
    """The command `reference` of this program."""

    @click.command("reference", help=_HELP.format(program=program))
    @click.pass_context
    def command(context: click.Context) -> None:
        root = context.find_root().command
        assert isinstance(root, click.Group)
        for line in reference_lines(root, program):
            click.echo(line)

    return command


def reference_lines(root: click.Group, program: str) -> Iterator[str]:
    """Name, synopsis, description, options, commands, exit codes, files, environment."""
    context = click.Context(root, info_name=program, **root.context_settings)
    text, sections, _ = _parts(root.help or "", root.epilog or "")
    yield from (f"# {program}(1)", "", "## Name", "", f"{program}: {text[0]}", "")
    yield from ("## Synopsis", "", f"    {_usage(context)}", "", "## Options", "", *_options(context))
    yield from ("## Commands", "")
    for below in _below(context):
        yield from _command_lines(below)
    for title, lines in sections.items():
        yield from (f"## {title}", "", *(f"- {line}" for line in lines), "")


def _below(context: click.Context) -> Iterator[click.Context]:
    """The commands of a group, and theirs."""
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            below = click.Context(context.command.commands[name], context, info_name=name)
            yield below
            yield from _below(below)


def _command_lines(context: click.Context) -> Iterator[str]:
    text, sections, examples = _parts(context.command.help or "")
    yield from (f"### {context.command_path}", "", f"    {_usage(context)}", "")
    for paragraph in text:
        yield from (paragraph, "")
    yield from _options(context)
    for title, lines in sections.items():
        yield from (f"{title}:", "", *(f"- {line}" for line in lines), "")
    yield from ("Examples:", "", *(f"    {line}" for line in examples), "")


def _usage(context: click.Context) -> str:
    return " ".join((context.command_path, *context.command.collect_usage_pieces(context)))


def _options(context: click.Context) -> Iterator[str]:
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record:
            yield f"- `{record[0]}`: {record[1]}"
    yield ""


def _parts(*texts: str) -> tuple[list[str], dict[str, list[str]], list[str]]:
    """Paragraphs, titled sections with an item for each entry, and the lines of the examples of help texts."""
    paragraphs: list[str] = []
    sections: dict[str, list[str]] = {}
    examples: list[str] = []
    for block in "\n\n".join(map(inspect.cleandoc, texts)).split("\n\n"):
        lines = block.strip("\b\n").splitlines()
        title, colon, rest = lines[0].partition(":") if lines else ("", "", "")
        if title == "Example":
            examples += (line.removeprefix("Example: ") for line in lines)
        elif colon and title in _SECTIONS:
            # One line of codes, parted by semicolons, or a line for each entry.
            sections[title] = lines[1:] if not rest else " ".join((rest, *lines[1:])).strip(" .").split("; ")
        elif block.startswith("\b"):  # lines that stay as they are
            paragraphs.append("\n".join(f"    {line}" for line in lines))
        elif lines:
            paragraphs.append(" ".join(lines))
    return paragraphs, sections, examples
