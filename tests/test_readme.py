"""The README does what it says: its commands run or parse, what it prints is printed, and what it names exists."""

import csv
import dataclasses
import doctest
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import polars as pl
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from distributed.cli import dask_scheduler, dask_worker

from radlite_batch.cli import main
from radlite_batch.console import OutputFolder
from radlite_batch.job import load_job
from radlite_batch.run import run
from radlite_batch.tasks.registry import TASKS
from training.cli import main as train

ROOT = Path(__file__).parents[1]
PACKAGES = ("radlite_batch", "training")
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS: dict[str, click.Group] = {"radlite": main, "radlite-train": train}
BLOCKS: list[tuple[str, str]] = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
TREE = README.split("## The house")[1].split("```")[1]

# These run here, in seconds; the others need weights, hours or data that not everybody has, and are parsed.
RUN = {
    "run", "plan", "status", "verify", "retry", "report", "diff", "review", "export", "metrics", "tasks", "doctor",
    "predict",
}  # fmt: skip
WITH_PACK = {"run", "plan", "doctor", "predict"}  # with the fake one: no figure shown depends on the model
STORAGE = "s3://"  # a line that names one is parsed


@dataclass(frozen=True)
class Command:
    """A line of the README's code blocks; wanted: the output printed below it, None where none is."""

    line: str
    wanted: str | None

    def words(self) -> tuple[str, list[str], str]:
        """(what is piped into it, arguments, file that its output goes to)"""
        before, pipe, line = self.line.rpartition(" | ")
        words = shlex.split(line.replace("$?", "0"), comments=True)
        cut = words.index(">") if ">" in words else len(words)
        return (shlex.split(before)[1] + "\n" if pipe else ""), words[1:cut], "".join(words[cut + 1 :])


def commands() -> Iterator[Command]:
    for language, block in BLOCKS:
        if language in ("python", "toml") or block == TREE.lstrip("\n"):
            continue
        lines = re.sub(r"\\\n\s*", "", block)
        if language != "console":
            yield from (Command(line, None) for line in lines.splitlines() if line)
            continue
        for part in re.split(r"^\$ ", lines, flags=re.MULTILINE)[1:]:
            line, _, wanted = part.partition("\n")
            yield Command(line, wanted)


def ours(line: str) -> bool:
    return re.match(r"(echo .* \| )?radlite(-train)? ", line) is not None


def leaves(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    """(its words, command) of every command that is no group."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def parse(line: str, monkeypatch: pytest.MonkeyPatch) -> Result:
    """What the real command line says to this one, with nothing behind it."""
    _, words, _ = Command(line, None).words()
    program = PROGRAMS[line.rpartition(" | ")[2].split()[0]]
    with monkeypatch.context() as patch:
        patch.setattr(OutputFolder, "convert", lambda self, value, parameter, context: Path(value))  # fetches nothing
        for _, command in leaves(program, ""):
            patch.setattr(command, "callback", lambda *given, **options: None)
        return CliRunner().invoke(program, words)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's output, by the fake model."""
    job = load_job(ROOT / "jobs" / "demo.toml")
    out = tmp_path_factory.mktemp("readme") / "demo"
    run(dataclasses.replace(job, pack="fake", output=dataclasses.replace(job.output, path=out)))
    return out


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds what the README's commands name."""
    for folder in ("jobs", "sample_data"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for folder in ("archive", "out/mix", "out/first", "out/fit-1", "out/pack-1", "out/fit-2", "out/pack"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "out" / "pack-1" / "smol.gguf").touch()
    reports = pl.read_csv(ROOT / "sample_data" / "reports.csv", infer_schema=False)
    reports.select("report_id", text="findings").write_csv(tmp_path / "reports.csv")
    reports.rename({"report_id": "accession"}).write_parquet(tmp_path / "archive" / "2024.parquet")
    monkeypatch.setenv("RADLITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def decide(review: Path, decisions: Path) -> None:
    """A reviewer accepts the first two answers, in place of the page."""
    with open(review, encoding="utf-8-sig", newline="") as file:
        cases = list(csv.DictReader(file))[:2]
    with open(decisions, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(cases[0]))
        writer.writeheader()
        writer.writerows(case | {"decision": "accept", "reviewer": "AB"} for case in cases)


def test_every_command_runs_or_parses_and_prints_what_is_shown(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same = doctest.OutputChecker().check_output
    ran = set()
    for command in filter(lambda command: ours(command.line), commands()):
        piped, words, target = command.words()
        if "radlite-train " in command.line or words[0] not in RUN or STORAGE in command.line:
            parsed = parse(command.line, monkeypatch)
            assert parsed.exit_code == 0, f"{command.line}\n{parsed.output}"
            continue
        if words[:2] == ["review", "apply"]:
            decide(Path(words[2], "_run", "review", "review.csv"), Path(words[3]))
        pack = ["--pack", "fake"] if words[0] in WITH_PACK else []
        done = CliRunner().invoke(main, [*words, *pack], input=piped)
        refused = command.wanted is not None and command.wanted.startswith("radlite: ")
        assert done.exit_code == (2 if refused else 0), f"{command.line}\n{done.output}"
        if command.wanted:
            assert same(command.wanted, done.output, doctest.ELLIPSIS), f"{command.line}\n{done.output}"
        if target:
            Path(target).write_text(done.output, encoding="utf-8")
        ran.add(" ".join(words[:2]) if words[0] == "review" else words[0])
    assert ran == {*RUN - {"review"}, "review out/first", "review apply"}
    assert (machine / "radlite-first.prom").is_file()


def test_every_other_line_names_what_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    targets = re.findall(r"^([\w./$()]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    packages = {re.split(r"\W", requirement)[0] for requirement in extras["dev"]}
    for line in (command.line for command in commands() if not ours(command.line)):
        kind, *words = shlex.split(line, comments=True)
        if kind == "make":
            assert words[0] in targets, line
        elif kind == "python":
            assert (ROOT / words[0]).is_file(), line
        elif kind == "pip":
            named = words[-1].strip(".[]").split(",") if "-e" in words else words[1:]
            assert set(named) <= (set(extras) if "-e" in words else packages), line
        elif kind == "dask":
            program = {"scheduler": dask_scheduler, "worker": dask_worker}[words[0]].main
            program.make_context(words[0], words[1:])
        elif kind == "install":
            assert all(list(ROOT.glob(word)) for word in words if word.startswith("jobs/")), line
        elif kind == "systemctl":
            assert Path("jobs", "systemd", re.sub("@.*[.]", "@.", words[-1])).is_file(), line
            assert Path("jobs", re.sub(".*@(.*)[.].*", r"\1.toml", words[-1])).is_file(), line
        elif kind == "export":
            assert all(word.startswith("AWS_") for word in words), line
        else:
            assert line == ". .venv/bin/activate", line


def test_every_command_in_the_text_parses(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    lines = [" ".join(line.split()) for line in re.findall(r"`(?:eval \"\$\()?(radlite(?:-train)? [^`)]+)", text)]
    assert len(lines) > 10
    for line in lines:
        # A name alone stands for the command, whatever it needs.
        parsed = parse(line if len(line.split()) > 2 else f"{line} --help", monkeypatch)
        assert parsed.exit_code == 0, f"{line}\n{parsed.output}"


def test_the_queries_print_what_the_readme_says(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The figures shown depend on the archive alone, so that the fake model gives them too, in seconds.
    monkeypatch.chdir(ROOT)
    code = "".join(block for language, block in BLOCKS if language == "python").replace("out/demo", str(demo))
    example = doctest.DocTestParser().get_doctest(code, {}, "README", None, None)
    assert len(example.examples) > 20 and all(name in code for name in ("duckdb", "polars", "pandas"))
    output: list[str] = []
    failed = doctest.DocTestRunner(verbose=False).run(example, out=output.append).failed
    assert failed == 0, "".join(output)


def test_every_column_is_described_in_parquet_and_in_the_dictionary(demo: Path) -> None:
    dictionary = CliRunner().invoke(main, ["tasks", "--dictionary"]).output
    for path in sorted(demo.glob("*/part-00000.parquet")):
        section = dictionary.split(f"## {path.parent.name}\n")[1].split("\n## ")[0]
        for field in pq.read_schema(path):
            about = field.metadata[b"description"].decode()
            assert re.search(rf"^\| {field.name} \| .* \| {re.escape(about)} \| ", section, re.MULTILINE), field.name
    assert len(list(demo.glob("*/part-00000.parquet"))) == len(TASKS) + 1  # and wide; nothing failed


def test_the_job_for_a_cluster_is_one(tmp_path: Path) -> None:
    [table] = [block for language, block in BLOCKS if language == "toml"]
    (tmp_path / "job.toml").write_text(
        f'archive.paths = "a.csv"\ntasks.run = "n_staging"\noutput.path = "out"\n{table}', encoding="utf-8"
    )
    assert load_job(tmp_path / "job.toml").workers.scheduler.startswith("tcp://")


def test_every_module_of_the_engine_stands_in_the_tree() -> None:
    words = set(re.findall(r"\w+", TREE))
    for folder in ("", "engine", "results", "pages", "export"):
        for path in (ROOT / "radlite_batch" / folder).glob("[a-z]*.py"):
            assert path.stem in words, f"{folder}/{path.name}"


def test_every_file_of_the_tree_exists() -> None:
    for name in re.findall(r"\b[a-z_]+\.py\b", TREE):
        assert any(list((ROOT / package).rglob(name)) for package in PACKAGES), name
    for name in re.findall(r"^ *([a-z_]+)/", TREE, re.MULTILINE):
        assert any((ROOT / package / name).is_dir() for package in ("", *PACKAGES)), name


def test_every_command_stands_in_the_tree() -> None:
    named = re.search(r"cli\.py  console\.py +([a-z \n]+);", README)
    assert named is not None and set(named[1].split()) == set(main.commands)


def test_every_key_of_a_job_is_documented() -> None:
    text = README.split("Keys:")[1].split("Paths count")[0]
    source = (ROOT / "radlite_batch" / "job.py").read_text(encoding="utf-8")
    for keys in re.findall(r'_table\([^)]*?\((".*?")\)\)', source):
        for key in re.findall(r'"(\w+)"', keys):
            assert key in text or key == "backend", key
