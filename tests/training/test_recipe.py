"""Recipes are checked before anything starts; a source finds its folder."""

from pathlib import Path

import pytest

from radlite_batch.errors import PackError, UsageError
from radlite_batch.tasks.registry import TASKS
from training.datasets.registry import SOURCES
from training.recipe import BUILT_IN, load_recipe, mix_of

TEXT = """
name = "x"
licence = "none"
base = "x.gguf"
[schedule]
steps = 1
[sources]
corpus = 1
"""


def recipe(tmp_path: Path, text: str) -> str:
    path = tmp_path / "x.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", sorted(path.stem for path in BUILT_IN.glob("*.toml")))
def test_every_recipe_that_comes_with_the_package_loads(name: str) -> None:
    assert load_recipe(name).name == name


def test_the_published_settings_are_those_of_the_paper() -> None:
    for name in ("qwen2.5-3b", "qwen3-4b"):
        loaded = load_recipe(name)
        assert (loaded.lora.rank, loaded.lora.alpha, loaded.lora.dropout) == (64, 128, 0.05)
        assert sum(loaded.caps.values()) == 161_586


GIVES = {  # the tasks that a source's samples have targets of
    "abnormality_detection": {"corpus", "composed", "openi", "ct_rate", "mimic_cxr", "chexpert", "chexpert_plus"},
    "rads_assignment": {"corpus", "composed", "openi", "radset", "radset_printed"},
    "n_staging": {"corpus", "composed", "openi", "tcga"},
    "m_staging": {"corpus", "composed", "openi", "tcga"},
    "radiology_ner": {"corpus", "composed", "negex", "radgraph", "radgraph2", "radgraph_xl"},
    "temporal_comparison": {"corpus", "composed", "radgraph2", "ms_cxr_t"},
    "impression_generation": {"corpus", "composed", "openi", "mimic_cxr", "chexpert_plus", "merlin", "zhang2018"},
    "radiology_qa": {"corpus", "radrestruct", "medqa", "radialog", "llava_med"},
    "radiology_nli": {"corpus", "composed", "radnli", "ms_cxr_t"},
}


@pytest.mark.parametrize("name", ["smol", "qwen2.5-3b", "qwen3-4b"])
def test_every_task_has_a_source_that_is_drawn_from(name: str) -> None:
    loaded = load_recipe(name)
    drawn = {source for source, weight in loaded.sources.items() if weight}
    assert {task for task in TASKS if GIVES[task] & drawn and loaded.tasks.get(task, 1)} == set(TASKS)
    assert GIVES.keys() == TASKS.keys() and set().union(*GIVES.values()) <= SOURCES.keys()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("steps = 1", 'steps = "many"'), "schedule.steps must be a int"),
        (("steps = 1", "steps = 1\nstep = 2"), "did you mean 'steps'"),
        (("corpus = 1", "corpsu = 1"), "did you mean 'corpus'"),
        (("corpus = 1", "corpus = -1"), "sources.corpus must be a number of 0 or more"),
        (('base = "x.gguf"', ""), "'base'"),
        (('base = "x.gguf"', 'base = "x.gguf"\ndtype = "int3"'), "dtype must be"),
        (("[sources]", "[sources"), "not a TOML file"),
        (("steps = 1", "steps = 0"), "schedule.steps must be 1 or more"),
        (("steps = 1", "steps = 1\nlearning_rate = nan"), "schedule.learning_rate must be 0 or more"),
        (("[schedule]\nsteps = 1", "schedule = 5"), "schedule must be a table"),
        (
            ("[schedule]\nsteps = 1\n[sources]\ncorpus = 1", 'sources = "corpus"\n[schedule]\nsteps = 1'),
            "sources must be a table",
        ),
        (('name = "x"', 'name = "a/b"'), "name must be of letters"),
        (("[schedule]", "[lora]\ndropout = 1.0\n[schedule]"), "lora.dropout must be less than 1"),
        (("steps = 1", "steps = 1\nclip = 0"), "schedule.clip must be more than 0"),
        (("corpus = 1", "corpus = 1\n[caps]\nradiology_qa = 2.5"), "caps.radiology_qa must be a whole number"),
    ],
)
def test_a_fault_is_named(tmp_path: Path, change: tuple[str, str], named: str) -> None:
    with pytest.raises(UsageError, match=named.replace("'", ".")) as error:
        load_recipe(recipe(tmp_path, TEXT.replace(*change)))
    assert "x.toml" in str(error.value) and "\n" not in str(error.value)


def test_an_unknown_name_is_guessed() -> None:
    with pytest.raises(UsageError, match="did you mean 'smol'"):
        load_recipe("smoll")


def test_a_base_that_is_not_there_or_another_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PackError, match="is not there"):
        load_recipe(recipe(tmp_path, TEXT)).base_file()
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    assert load_recipe(recipe(tmp_path, TEXT)).base_file()[0] == tmp_path / "x.gguf"
    other = TEXT.replace('base = "x.gguf"', 'base = "x.gguf"\nsha256 = "00"')
    with pytest.raises(PackError, match="the recipe says 00"):
        load_recipe(recipe(tmp_path, other)).base_file()


def test_sources_find_their_folders(tmp_path: Path) -> None:
    loaded = load_recipe(recipe(tmp_path, TEXT + "openi = 1\ntcga = 1\n"))
    mix = mix_of(loaded, [str(tmp_path), f"tcga={tmp_path}/t"])
    assert mix.sources["openi"] == tmp_path and mix.sources["tcga"] == tmp_path / "t"
    assert mix.source_weights == loaded.sources
    assert (mix.sources["corpus"] / "train").is_dir()
    with pytest.raises(UsageError, match="source openi: name its folder"):
        mix_of(loaded, [])
    with pytest.raises(UsageError, match="unknown source 'opni'"):
        mix_of(loaded, [f"opni={tmp_path}"])
