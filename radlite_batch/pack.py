"""Packs: base models, adapters, which task goes to which, prompt style, calibration, checksums.

A pack is a TOML file, one of those beside this package or the user's own. Nothing in it is optional by silence:
unknown keys are errors, and every file is checked against its checksum before it is loaded.
"""

import importlib.util
import math
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from radlite_batch.engine.fake import fake_sha256
from radlite_batch.engine.formats import AS_SHIPPED, Prepared, fastest, file_sha256, in_form
from radlite_batch.engine.open import ModelFile
from radlite_batch.errors import PackError, did_you_mean
from radlite_batch.probe import agreement, judge
from radlite_batch.tasks.registry import TASKS, cue_names
from radlite_batch.tasks.render import SYSTEM, Markup, PromptStyle, Template, writes

BUILT_IN = Path(__file__).parent / "packs"
STYLES = ("native", "instruct", "own")
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEYS = ("name", "about", "licence", "style", "markup", "prompts", "max_tokens", "models", "routes", "calibration")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model of a pack. base: a path, or "package:file"; "fake" for the engine without weights.

    merge: whether the adapter is written into the base, once, and not applied at run time."""

    name: str
    base: str
    sha256: str
    context: int
    convert: bool
    adapter: str = ""
    adapter_sha256: str = ""
    scale: float = 1.0
    merge: bool = False


@dataclass(frozen=True, slots=True)
class Pack:
    """routes: the model of each task the pack serves. calibration: temperature of each calibrated task."""

    name: str
    path: Path
    about: str
    licence: str
    style: PromptStyle
    models: dict[str, ModelSpec]
    routes: dict[str, str]
    calibration: dict[str, float] = field(default_factory=dict)

    def routes_of(self, tasks: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """The tasks of each model needed for these. Raises PackError for a task the pack does not serve."""
        routes: dict[str, list[str]] = {}
        for task in tasks:
            if task not in self.routes:
                raise PackError(f"pack {self.name} has no model for {task}{did_you_mean(task, self.routes)}")
            routes.setdefault(self.routes[task], []).append(task)
        return {model: tuple(names) for model, names in routes.items()}

    def writing(self, tasks: Iterable[str]) -> set[str]:
        """The models that write answers to these tasks, and do not only decide."""
        return {self.routes[task] for task in tasks if writes(TASKS[task], self.style)}

    def prepare(
        self, model: str, say: Callable[[str], None] = lambda line: None, form: str = ""
    ) -> tuple[ModelFile, Prepared | None]:
        """The model's files, checked, merged and converted: to the number format `form`, or "" for the fastest here.

        Raises PackError naming what is missing or wrong."""
        try:
            return self._prepare(model, say, form)
        except OSError as error:
            hint = "RADLITE_CACHE names the cache folder"
            raise PackError(f"pack {self.name}: {error.filename}: {error.strerror}; {hint}") from None

    def _prepare(self, model: str, say: Callable[[str], None], form: str) -> tuple[ModelFile, Prepared | None]:
        spec = self.models[model]
        cues = cue_names() if self.style.name == "native" else ()
        if spec.base == "fake":
            return ModelFile(model, None, fake_sha256(), spec.context, cues), None
        base = self._checked(spec.base, spec.sha256, f"models.{model}")
        adapter = self._checked(spec.adapter, spec.adapter_sha256, f"models.{model}.adapter") if spec.adapter else None
        file = ModelFile(model, base, spec.sha256, spec.context, cues, adapter, spec.adapter_sha256, spec.scale)
        if adapter is not None:
            self._check_adapter(spec, base, adapter)
        if adapter is not None and spec.merge:
            from radlite_batch.engine.merge import merged

            base, sha256 = merged(base, spec.sha256, adapter, spec.adapter_sha256, spec.scale, say)
            # The adapter is in the file, and its checksum stays in what the run records.
            file = replace(file, path=base, sha256=sha256, adapter=None)
        if form and spec.convert:
            path = in_form(base, file.sha256, form)
            sha256 = file_sha256(path)
            return replace(file, path=path, sha256=sha256), Prepared(path, sha256, form)
        if form not in ("", AS_SHIPPED):
            said = f"runs as it is, not in {form}; with convert = true it would be converted"
            raise PackError(f"pack {self.name}, models.{model}: {said}")
        if not spec.convert:
            return file, Prepared(base, file.sha256, "merged" if spec.merge else AS_SHIPPED)
        prepared = fastest(base, file.sha256, judge(file, self.style), partial(agreement, file, self.style), say)
        return replace(file, path=prepared.path, sha256=prepared.sha256), prepared

    def _check_adapter(self, spec: ModelSpec, base: Path, adapter: Path) -> None:
        """Raises PackError for an adapter of another base, or one whose cues are not those of the prompts."""
        from radlite_batch.engine.merge import read_adapter  # its library is only needed with an adapter

        lora, names, key = read_adapter(adapter), cue_names(), f"pack {self.name}, models.{spec.name}"
        lora.check_base(base, spec.sha256)
        if self.style.name != "native" or not lora.cue_names:
            return
        if not spec.merge:
            raise PackError(f"{key}: {adapter} has cue rows, which only a merged base can hold; say merge = true")
        # Cue tokens are given out in the order of the names: only the first ones get the tokens of training.
        if lora.cue_names != names[: len(lora.cue_names)]:
            raise PackError(f"{key}: {adapter} was trained for other cues than this version asks with")
        for name in names[len(lora.cue_names) :]:
            if self.routes.get(name.partition(".")[0]) == spec.name:
                raise PackError(f"{key}: {adapter} was trained without the cue {name}, which the pack routes to it")

    def _checked(self, place: str, sha256: str, key: str) -> Path:
        path = _own_file(place, self.path.parent, key)
        if not path.is_file():
            raise PackError(f"pack {self.name}, {key}: {path} is not there")
        with open(path, "rb") as file:
            if file.read(4) != b"GGUF":
                raise PackError(f"pack {self.name}, {key}: {path} is not a GGUF file")
        actual = file_sha256(path)
        if actual != sha256:
            hint = f"{sha256}; get the file it was made for" if sha256 else "nothing; write it there"
            raise PackError(f"pack {self.name}, {key}: {path} has sha256 {actual}, the pack says {hint}")
        return path


def find_file(place: str, folder: Path) -> Path:
    """Resolves "package:file" without importing the package, and "$NAME/..." and relative paths."""
    package, colon, name = place.partition(":")
    if colon and package.isidentifier():
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            command = f"pip install {package.replace('_', '-')}"
            raise PackError(f"the Python package {package!r} is not installed; {command} brings it")
        return Path(spec.submodule_search_locations[0]) / name
    expanded = os.path.expandvars(place)
    if "$" in expanded:
        raise PackError(f"{place}: set the environment variable to the folder that holds the file")
    return folder / expanded


def _own_file(place: str, folder: Path, key: str) -> Path:
    """find_file; but a relative name stays in the folder or package, links or not: a pack may have come from elsewhere,
    in an archive. Raises PackError for one that does not."""
    name = Path(place.rpartition(":")[2])
    path = find_file(place, folder)
    linked = path == folder / place and not path.resolve().is_relative_to(folder.resolve())
    if ".." in name.parts or (":" in place and name.is_absolute()) or (linked and not name.is_absolute()):
        raise PackError(f"{key}: {place} leads out of the pack's folder; give the whole path or $NAME/...")
    return path


def pack_names() -> list[str]:
    """The packs that come with the package."""
    return sorted(path.stem for path in BUILT_IN.glob("*.toml") if path.stem != "prompts")


def load_pack(name: str) -> Pack:
    """A built-in pack by name, or a pack file by path. Raises PackError naming file and key."""
    path = Path(name) if name.endswith(".toml") else BUILT_IN / f"{name}.toml"
    if not path.is_file():
        if name.endswith(".toml"):
            raise PackError(f"{path}: no such pack file; `radlite packs` lists the built-in ones")
        raise PackError(f"no pack {name!r}{did_you_mean(name, pack_names())}")
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise PackError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PackError(f"{path}: not a TOML file ({error})") from None
    try:
        return _pack(document, path.resolve())
    except PackError as error:
        raise PackError(f"{path}: {error}") from None


def _pack(document: Mapping[str, Any], path: Path) -> Pack:
    _known(document, "", _KEYS)
    style = _value(document, "style", str)
    if style not in STYLES:
        raise PackError(f"style must be one of {', '.join(STYLES)}")
    models = {
        name: _model(name, _value(document["models"], name, dict, "models"))
        for name in _value(document, "models", dict)
    }
    routes: dict[str, str] = {}
    for task in _value(document, "routes", dict):
        model = _value(document["routes"], task, str, "routes")
        if task not in (*TASKS, "default"):
            raise PackError(f"routes: unknown task {task!r}{did_you_mean(task, TASKS)}")
        if model not in models:
            raise PackError(f"routes.{task}: unknown model {model!r}{did_you_mean(model, models)}")
    given = document["routes"]
    for task in TASKS:
        if task in given or "default" in given:
            routes[task] = given.get(task, given.get("default"))
    markup = _optional(document, "markup", dict, {})
    _known(markup, "markup", ("start", "system", "user", "assistant", "end"))
    for key in markup:
        _value(markup, key, str, "markup")
    templates = {}
    if style == "own":
        templates = _templates(_own_file(_value(document, "prompts", str), path.parent, "prompts"), routes)
    lengths = _optional(document, "max_tokens", dict, {})
    _known(lengths, "max_tokens", tuple(TASKS))
    max_tokens = {task: _value(lengths, task, int, "max_tokens") for task in lengths}
    if style == "own" and max_tokens:
        raise PackError("max_tokens: a pack of style 'own' says it in its prompts")
    if any(most < 1 for most in max_tokens.values()):
        raise PackError("max_tokens: a written answer has at least one token")
    temperatures = _optional(document, "calibration", dict, {})
    _known(temperatures, "calibration", tuple(TASKS))
    calibration = {task: float(_value(temperatures, task, (int, float), "calibration")) for task in temperatures}
    if not all(0 < temperature < math.inf for temperature in calibration.values()):
        raise PackError("calibration: a temperature must be above 0")
    return Pack(
        _value(document, "name", str), path, _value(document, "about", str), _value(document, "licence", str),
        PromptStyle(style, Markup(**markup), templates, max_tokens), models, routes, calibration,
    )  # fmt: skip


def _model(name: str, table: Mapping[str, Any]) -> ModelSpec:
    key = f"models.{name}"
    if not FILE_NAME.fullmatch(name):  # receipts are named after it
        raise PackError(f"{key}: a model's name is of letters, digits and . _ -")
    _known(table, key, ("base", "sha256", "context", "convert", "adapter", "adapter_sha256", "scale", "merge"))
    spec = ModelSpec(
        name,
        _value(table, "base", str, key),
        _value(table, "sha256", str, key),
        _value(table, "context", int, key),
        _optional(table, "convert", bool, False, key),
        _optional(table, "adapter", str, "", key),
        _optional(table, "adapter_sha256", str, "", key),
        float(_optional(table, "scale", (int, float), 1.0, key)),
        _optional(table, "merge", bool, False, key),
    )
    if spec.merge and not spec.adapter:
        raise PackError(f"{key}.merge: the model has no adapter")
    return spec


def _templates(path: Path, routes: Mapping[str, str]) -> dict[str, Template]:
    """The pack's own prompts: one table per task with text, and system, max_tokens, stop."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError:
        raise PackError(f"prompts: {path} is not there; a pack of style 'own' brings its prompts") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PackError(f"prompts: {path} is not a TOML file ({error})") from None
    templates = {}
    for task in document:
        table = _value(document, task, dict)
        if task not in TASKS:
            raise PackError(f"{path}: unknown task {task!r}{did_you_mean(task, TASKS)}")
        _known(table, task, ("text", "system", "max_tokens", "stop"))
        templates[task] = Template(
            _value(table, "text", str, task),
            _optional(table, "system", str, SYSTEM, task),
            _optional(table, "max_tokens", int, 256, task),
            tuple(_optional(table, "stop", list, [], task)),
        )
    for task in routes:
        if task not in templates:
            raise PackError(f"{path}: no prompt for {task}, which the pack routes")
    return templates


def _known(table: Mapping[str, Any], name: str, keys: tuple[str, ...]) -> None:
    for key in table:
        if key not in keys:
            raise PackError(f"unknown key {f'{name}.{key}'.lstrip('.')!r}{did_you_mean(key, keys)}")


def _optional(table: Mapping[str, Any], key: str, kind: Any, default: Any, name: str = "") -> Any:
    return _value(table, key, kind, name) if key in table else default


def _value(table: Mapping[str, Any], key: str, kind: Any, name: str = "") -> Any:
    full = f"{name}.{key}".lstrip(".")
    if key not in table:
        raise PackError(f"{full} is missing")
    if not isinstance(table[key], kind) or (isinstance(table[key], bool) and kind is not bool):
        raise PackError(f"{full} must be a {getattr(kind, '__name__', 'number')}")
    return table[key]
