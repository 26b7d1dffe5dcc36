"""The shape of the house: imports run one way, and files stay small."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module may import from its own floor (without circles) and from the floors above it in this list.
FLOORS = (
    ("errors", "records"),
    ("rows", "storage", "lease"),
    ("tasks", "machine"),
    ("archive",),
    ("results",),
    ("engine",),
    ("job", "pack", "probe", "progress", "console"),
    ("worker",),
    ("executor",),
    ("cluster", "node"),
    ("placement",),
    ("plan",),
    ("watch",),
    ("run", "predict", "status", "verify", "rerun", "doctor", "completion", "reference"),
    ("report", "diff", "drift", "metrics", "review"),
    ("pages", "export"),
    ("bench",),
    ("cli",),
)
TRAINING_MAY_USE = {
    "errors", "records", "tasks", "pack", "results", "run", "engine", "job", "archive", "console", "completion",
    "reference", "machine",
}  # fmt: skip


def modules(package: str) -> dict[str, set[str]]:
    """Project modules that each module of a package imports, all by dotted name."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        imported: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                # `from radlite_batch.engine import llama` names a module, `from ...base import X` a thing in one.
                below = {f"{node.module}.{alias.name}" for alias in node.names}
                files = {name for name in below if (ROOT / Path(*name.split("."))).with_suffix(".py").exists()}
                imported |= files or {node.module}
            elif isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
        found[name] = {m for m in imported if m.split(".")[0] in ("radlite_batch", "training")}
    return found


def floor(module: str) -> int:
    part = module.split(".")[1] if "." in module else ""
    return next((i for i, names in enumerate(FLOORS) if part in names), -1)


def test_every_module_has_a_floor() -> None:
    assert [m for m in modules("radlite_batch") if m != "radlite_batch" and floor(m) < 0] == []


def test_imports_run_one_way() -> None:
    wrong = [(m, used) for m, uses in modules("radlite_batch").items() for used in uses if floor(used) > floor(m)]
    assert wrong == []


def test_there_is_no_circle() -> None:
    graph = modules("radlite_batch") | modules("training")
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"circle: {' -> '.join((*above, module))}"
        if module not in done:
            for used in graph.get(module, ()):
                visit(used, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_training_stands_on_top() -> None:
    assert not [m for m, uses in modules("radlite_batch").items() if any(u.startswith("training") for u in uses)]
    used = {u.split(".")[1] for uses in modules("training").values() for u in uses if u.startswith("radlite_batch.")}
    assert used <= TRAINING_MAY_USE


@pytest.mark.parametrize("module", ["radlite_batch.cli", "radlite_batch.worker"])
def test_the_engine_needs_no_training_library(module: str) -> None:
    code = f"import sys, {module}; print(*{{'torch', 'transformers', 'peft', 'datasets'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_tasks_need_the_standard_library_only() -> None:
    code = "import sys, radlite_batch.tasks.registry, radlite_batch.tasks.render; print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_two_files_know_llama_cpp() -> None:
    """And the benchmark's plain loop, which is what the engine is compared with."""
    knows = [path.name for path in ROOT.glob("radlite_batch/**/*.py") if "import llama_cpp" in path.read_text()]
    assert sorted(knows) == ["context.py", "llama.py", "loop.py"]


def test_files_stay_small_and_packages_empty() -> None:
    files = [*ROOT.glob("radlite_batch/**/*.py"), *ROOT.glob("training/**/*.py")]
    assert [path.name for path in files if len(path.read_text().splitlines()) > 330] == []
    assert [path for path in files if path.name == "__init__.py" and path.read_text()] == []
