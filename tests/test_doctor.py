"""What `doctor` says of a machine that lacks something."""

import importlib.metadata
import importlib.util
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from radlite_batch import doctor
from radlite_batch.cli import main

ROOT = Path(__file__).parents[1]
PACK = (ROOT / "radlite_batch" / "packs" / "smol-zero.toml").read_text(encoding="utf-8")


def said(monkeypatch: pytest.MonkeyPatch, missing: set[str], pack: str = "fake") -> tuple[int, str]:
    """What doctor says, and its exit code, where these packages are not installed."""

    def version(name: str) -> str:
        if name in missing:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(doctor, "version", version)
    done = CliRunner().invoke(main, ["doctor", "--pack", pack])
    return done.exit_code, done.output


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RADLITE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_doctor_names_the_command_for_every_missing_package(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = importlib.metadata.requires("radlite-batch") or []
    for line in requirements:
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        name = re.split(r"[^\w.-]", requirement)[0]
        code, output = said(monkeypatch, {name})
        if not marker:
            assert code == 2 and f"MISS  package     not installed; pip install '{requirement}'" in output
        elif "dev" not in marker:
            extra = re.findall(r"""["']([\w-]+)["']""", marker)[-1]
            assert code == 0 and "MISS" not in output
            assert re.search(rf"^-     extra       {extra}: not installed; pip install .*'{re.escape(requirement)}'",
                             output, re.MULTILINE)  # fmt: skip


def test_doctor_asks_for_a_compiler_only_where_it_is_needed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "compiler" not in said(monkeypatch, set())[1]
    code, output = said(monkeypatch, {"llama-cpp-python"})
    assert code == 2 and re.search(r"MISS  compiler .*apt install g\+\+", output)


def test_doctor_says_what_to_do_where_llama_cpp_does_not_load(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        raise RuntimeError("libgomp.so.1: cannot open shared object file")

    monkeypatch.setattr(doctor.importlib, "import_module", load)
    code, output = said(monkeypatch, set())
    assert code == 2 and re.search(r"MISS  llama\.cpp .*libgomp\.so\.1.*apt install libgomp1", output)


def test_doctor_checks_the_cache_and_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RADLITE_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(doctor.machine, "memory_available", lambda: 1 << 30)
    code, output = said(monkeypatch, set())
    assert code == 2 and re.search(r"MISS  cache .*file/cache: Not a directory; set RADLITE_CACHE", output)
    assert "MISS  memory      1024 MiB available" in output


def test_doctor_checks_the_packs_checksums(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "base.gguf").write_bytes(b"GGUF and more")
    (tmp_path / "own.toml").write_text(re.sub('base = ".*"', 'base = "base.gguf"', PACK), encoding="utf-8")
    code, output = said(monkeypatch, set(), str(tmp_path / "own.toml"))
    assert code == 2 and re.search(r"MISS  pack .*base\.gguf has sha256 \w{64}, the pack says \w{64}; get", output)
