"""Recipes: a training run's TOML, fully checked before anything starts."""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from radlite_batch.engine.formats import file_sha256
from radlite_batch.errors import PackError, UsageError, did_you_mean
from radlite_batch.pack import FILE_NAME, find_file
from radlite_batch.tasks.registry import TASKS
from radlite_batch.tasks.render import Markup, PromptStyle
from training.datasets.mix import Mix
from training.datasets.registry import SOURCES

BUILT_IN = Path(__file__).parent / "recipes"


@dataclass(frozen=True, slots=True)
class Lora:
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """AdamW with linear warm-up and a cosine down to 0. clip: largest norm of a step's gradient.

    cue_factor: how many times faster the cue rows learn than the adapter."""

    steps: int
    learning_rate: float = 4e-4
    cue_factor: float = 1.0
    warmup: int = 20
    clip: float = 1.0
    save_every: int = 20


@dataclass(frozen=True, slots=True)
class Batch:
    """samples: drawn for a step. row_tokens: they are packed into rows of at most so many tokens. most_tokens: longer
    samples are left out."""

    samples: int = 12
    row_tokens: int = 256
    most_tokens: int = 2048


@dataclass(frozen=True, slots=True)
class Development:
    """every: steps between evaluations. samples: as many times the number of sources in all, drawn by turns of each
    source and task. patience: evaluations without a better score before the end."""

    every: int = 250
    samples: int = 100
    patience: int = 10


@dataclass(frozen=True, slots=True)
class Recipe:
    """base: a GGUF as a path or "package:file". sha256: of it, unchecked where empty. start: the markup that opens
    every prompt. context: tokens a run keeps. sources, tasks: how often a sample is drawn. caps: most training samples
    by task, drawn by the weights of the sources. dtype: bfloat16 or float32. four_bit: load the base in 4 bits."""

    name: str
    base: str
    licence: str
    schedule: Schedule
    sources: Mapping[str, float]
    sha256: str = ""
    start: str = ""
    context: int = 8192
    lora: Lora = Lora()
    batch: Batch = Batch()
    development: Development = Development()
    caps: Mapping[str, int] = field(default_factory=dict)
    tasks: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    dtype: str = "bfloat16"
    four_bit: bool = False

    def base_file(self) -> tuple[Path, str]:
        """The base and its sha256. Raises PackError where it is not there or another than the recipe's."""
        path = find_file(self.base, Path.cwd())
        if not path.is_file():
            raise PackError(f"recipe {self.name}: the base {path} is not there")
        actual = file_sha256(path)
        if self.sha256 not in ("", actual):
            raise PackError(f"recipe {self.name}: {path} has sha256 {actual}, the recipe says {self.sha256}")
        return path, actual

    @property
    def style(self) -> PromptStyle:
        return PromptStyle("native", Markup(start=self.start))


_FROM_0 = ("warmup", "seed")  # of the whole numbers
_TABLES: dict[str, Any] = {"lora": Lora, "schedule": Schedule, "batch": Batch, "development": Development}


def load_recipe(name: str) -> Recipe:
    """A built-in recipe by name, or a recipe file by path. Raises UsageError naming file and key."""
    path = Path(name) if name.endswith(".toml") else BUILT_IN / f"{name}.toml"
    if not path.is_file():
        known = sorted(p.stem for p in BUILT_IN.glob("*.toml"))
        raise UsageError(f"no recipe {name!r}{did_you_mean(name, known)}, or the path of a .toml file")
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        for key, kind in _TABLES.items():
            document[key] = _table(kind, document.get(key, {}), f"{key}.")
        recipe: Recipe = _table(Recipe, document, "")
        _numbers(recipe.sources, SOURCES, "sources")
        _numbers(recipe.tasks, TASKS, "tasks")
        _numbers(recipe.caps, TASKS, "caps", int)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a TOML file ({error})") from None
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    for wrong, message in (
        (recipe.dtype not in ("bfloat16", "float32"), "dtype must be bfloat16 or float32"),
        (recipe.lora.dropout >= 1, "lora.dropout must be less than 1"),
        (recipe.schedule.clip == 0, "schedule.clip must be more than 0"),
        (not FILE_NAME.fullmatch(recipe.name), "name must be of letters, digits and . _ -, for files bear it"),
    ):
        if wrong:
            raise UsageError(f"{path}: {message}")
    return recipe


def _table(kind: Any, table: Mapping[str, Any], prefix: str) -> Any:
    known = {known.name: known for known in fields(kind)}
    if not isinstance(table, Mapping):
        raise UsageError(f"{prefix.rstrip('.')} must be a table")
    for key, value in table.items():
        if key not in known:
            raise UsageError(f"unknown key {prefix + key!r}{did_you_mean(key, known)}")
        wanted = known[key].type
        if wanted in (int, float, str, bool):
            legal = (int, float) if wanted is float else (wanted,)
            if not isinstance(value, legal) or (isinstance(value, bool) and wanted is not bool):
                raise UsageError(f"{prefix}{key} must be a {wanted.__name__}")
        least = 0 if wanted is float or key in _FROM_0 else 1
        if wanted in (int, float) and not least <= value < math.inf:
            raise UsageError(f"{prefix}{key} must be {least} or more")
    try:
        return kind(**table)
    except TypeError as error:
        missing = str(error).rpartition(": ")[2]
        raise UsageError(f"{prefix or 'the recipe'}: {missing} is missing") from None


def _numbers(table: Mapping[str, Any], known: Mapping[str, Any], name: str, kind: Any = (int, float)) -> None:
    if not isinstance(table, Mapping):
        raise UsageError(f"{name} must be a table")
    for key, value in table.items():
        if key not in known:
            raise UsageError(f"unknown key '{name}.{key}'{did_you_mean(key, known)}")
        if not isinstance(value, kind) or isinstance(value, bool) or not 0 <= value < math.inf:
            raise UsageError(f"{name}.{key} must be a {'whole ' if kind is int else ''}number of 0 or more")


def mix_of(recipe: Recipe, folders: Sequence[str]) -> Mix:
    """The recipe's sources, each in its folder: `SOURCE=FOLDER`, or a folder for all that are not named; the written
    corpus comes with the package. Raises UsageError naming a source without a folder."""
    named = dict(_named(folder) for folder in folders)
    own = dict.fromkeys(("corpus", "composed"), Path(__file__).parent / "corpus")
    found: dict[str, Path] = {}
    for name in recipe.sources:
        folder = named.get(name) or own.get(name) or named.get("")
        if folder is None:
            raise UsageError(f"source {name}: name its folder with --data; it holds {SOURCES[name].files}")
        found[name] = folder
    return Mix(found, caps=recipe.caps, weights=recipe.tasks, source_weights=recipe.sources, seed=recipe.seed)


def _named(folder: str) -> tuple[str, Path]:
    name, _, path = folder.rpartition("=")
    if name and name not in SOURCES:
        raise UsageError(f"--data {folder}: unknown source {name!r}{did_you_mean(name, SOURCES)}")
    return name, Path(path)
