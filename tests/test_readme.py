"""The README's examples do what they print, and its file tree and commands exist."""

import dataclasses
import doctest
import re
from pathlib import Path

import pytest

from radlite_batch.cli import main
from radlite_batch.job import load_job
from radlite_batch.run import run

ROOT = Path(__file__).parents[1]
PACKAGES = ("radlite_batch", "training")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_queries_print_what_the_readme_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The figures shown depend on the archive alone, so that the fake model gives them too, in seconds.
    job = load_job(ROOT / "jobs" / "demo.toml")
    run(dataclasses.replace(job, pack="fake", output=dataclasses.replace(job.output, path=tmp_path / "demo")))
    monkeypatch.chdir(ROOT)
    block = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert block is not None
    code = block.group(1).replace("out/demo", str(tmp_path / "demo"))
    example = doctest.DocTestParser().get_doctest(code, {}, "README", None, None)
    assert len(example.examples) > 8
    output: list[str] = []
    failed = doctest.DocTestRunner(verbose=False).run(example, out=output.append).failed
    assert failed == 0, "".join(output)


def test_every_file_of_the_tree_exists() -> None:
    tree = README.split("## The house")[1].split("```")[1]
    for name in re.findall(r"\b[a-z_]+\.py\b", tree):
        assert any(list((ROOT / package).rglob(name)) for package in PACKAGES), name
    for name in re.findall(r"^ *([a-z_]+)/", tree, re.MULTILINE):
        assert any((ROOT / package / name).is_dir() for package in ("", *PACKAGES)), name


def test_every_command_named_exists() -> None:
    named = set(re.findall(r"^radlite ([a-z]+)", README, re.MULTILINE)) | set(re.findall(r"`radlite ([a-z]+)", README))
    assert named and named <= set(main.commands)
    assert set(main.commands) <= set(re.search(r"cli\.py  console\.py +([a-z ]+);", README).group(1).split())  # type: ignore[union-attr]


def test_every_key_of_a_job_is_documented() -> None:
    text = README.split("Keys:")[1].split("Paths count")[0]
    source = (ROOT / "radlite_batch" / "job.py").read_text(encoding="utf-8")
    for keys in re.findall(r'_table\([^)]*?\((".*?")\)\)', source):
        for key in re.findall(r'"(\w+)"', keys):
            assert key in text or key == "backend", key
