"""Help, the manual and completion know every command and option."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from test_readme import PROGRAMS, leaves, parse

from radlite_batch.cli import main

ROOT = Path(__file__).parents[1]
COMMANDS = [(path, command) for name, program in PROGRAMS.items() for path, command in leaves(program, name)]
NAMES = [path for path, _ in COMMANDS]
EXAMPLES = [
    example
    for _, command in COMMANDS
    for example in re.findall(r"Example: ((?:.*\\\n)*.*)", command.help or "")
]  # fmt: skip


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=NAMES)
def test_every_command_and_option_has_help_and_an_example(path: str, command: click.Command) -> None:
    assert command.get_short_help_str()
    assert re.search(rf"Example: .*{' '.join(path.split()[:2])}\b", command.help or ""), "no example"
    for option in command.params:
        assert not isinstance(option, click.Option) or option.help, option.name


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_is_a_command_line(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("out/mix", "out/fit"):
        (tmp_path / folder).mkdir(parents=True)
    line = re.sub(r"\\\n\s*", "", example).removeprefix('eval "$(').removesuffix(')"')
    parsed = parse(line, monkeypatch)
    assert parsed.exit_code == 0, parsed.output


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_manual_names_every_command_and_option(program: str) -> None:
    manual = CliRunner().invoke(PROGRAMS[program], ["reference"]).output
    assert manual.startswith(f"# {program}(1)\n") and "Example:" not in manual and "\b" not in manual
    for path, command in leaves(PROGRAMS[program], program):
        section = re.split(r"^##", manual.split(f"\n### {path}\n")[1], flags=re.MULTILINE)[0]
        assert f"\n    {path} " in section and command.get_short_help_str(1000).rstrip(".") in section
        for parameter in command.params:
            metavar = parameter.make_metavar(click.Context(command))
            for name in parameter.opts if isinstance(parameter, click.Option) else [metavar]:
                assert name in section, f"{path}: {name}"


def test_the_manual_holds_exit_codes_files_and_what_the_environment_may_say() -> None:
    manual = CliRunner().invoke(main, ["reference"]).output
    for title in ("Exit codes", "Files", "Environment"):
        assert re.search(rf"\n## {title}\n\n- \w", manual)
    for code in ("0 every row", "2 bad usage", "75 another run"):
        assert f"\n- {code}" in manual
    for name in ("report.html", "diff/", "review/", "export/"):
        assert f"OUT/_run/{name}" in manual
    assert "\n- AWS_ENDPOINT_URL: " in manual
    sources = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("radlite_batch/**/*.py"))
    read = set(re.findall(r"""environ(?:\.get\(|\[)"(\w+)"(?!\] =)""", sources))
    assert read - {"RADLITE_FAKE_FAULTS"} <= set(re.findall(r"\w+", manual))  # that one is for tests


# Completion


def test_bash_takes_the_completion_and_completes_a_command() -> None:
    script = CliRunner().invoke(main, ["completion", "bash"]).stdout
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    ask = f"{script}\nCOMP_WORDS=(radlite comp); COMP_CWORD=1; _radlite_completion radlite; echo ${{COMPREPLY[@]}}"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash"], input=ask, capture_output=True, text=True, env=os.environ | {"PATH": path})
    assert done.stdout.split() == ["completion"], done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_each_shell_has_a_script_that_names_the_program(program: str, shell: str) -> None:
    script = CliRunner().invoke(PROGRAMS[program], ["completion", shell]).stdout
    variable = f"_{program.upper().replace('-', '_')}_COMPLETE={shell}_complete"
    assert variable in script and program in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("predict --task n_", ["n_staging"]),
        ("run --tasks n_staging,m_", ["n_staging,m_staging"]),
        ("tasks radiology_", ["radiology_ner", "radiology_qa", "radiology_nli"]),
        ("run --pack smol", ["smol", "smol-zero"]),
        ("doctor --p", ["--pack"]),
    ],
)
def test_tasks_packs_and_options_complete(words: str, completed: list[str]) -> None:
    typed = f"radlite {words}"
    environment = {
        "_RADLITE_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)
    }  # fmt: skip
    done = CliRunner().invoke(main, prog_name="radlite", env=environment)
    assert [line.partition(",")[2] for line in done.stdout.splitlines()] == completed
