"""The review page in a real browser: keys, screen reader, download, and what a text or a network can do to it.

Needs headless Chromium (Debian: apt-get install chromium) and playwright to drive it."""

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner, Result

from radlite_batch.archive import ArchiveSpec
from radlite_batch.cli import main
from radlite_batch.job import Job, Output, Workers
from radlite_batch.run import run
from radlite_batch.tasks.registry import TASKS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

ROWS = 4
HOSTILE = "</script><script>window.hit = 1</script><img src=x onerror='window.hit = 1'><!-- </script x ${alert(1)}"
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of every task over hostile texts, with a sign before the spans that takes two UTF-16 units."""
    folder = tmp_path_factory.mktemp("review")
    with open(folder / "archive.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["report_id", "text", "question", "premise", "hypothesis"])
        for i in range(ROWS):
            writer.writerow(
                [f"=1+{i}", f"\U0001f600 zanzibar {i}, lymph nodes. {HOSTILE}", "Where?", "Left.", "Right."]
            )
    spec = ArchiveSpec((str(folder / "archive.csv"),))
    run(Job(spec, tuple(TASKS), Output(folder / "out"), "fake", Workers(1, 1)))
    return folder / "out"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM)
        yield chromium
        chromium.close()


def radlite(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def make(out: Path, folder: Path, *flags: object) -> Path:
    done = radlite("review", out, "--to", folder, *flags)
    assert done.exit_code == 0, done.output
    return folder / "review.html"


def show(browser: Any, path: Path, initials: str = "AB", **options: Any) -> Any:
    """The page, begun by somebody; whatever else it asked for, and every complaint, is in page.extra."""
    page = browser.new_page(**{"viewport": DESK, **options})
    page.extra = []
    page.on("request", lambda request: page.extra.append(request.url) if request.url != path.as_uri() else None)
    page.on("console", lambda message: page.extra.append(message.text))
    page.on("pageerror", lambda error: page.extra.append(str(error)))
    page.on("dialog", lambda dialog: (page.extra.append(dialog.type), dialog.accept()))
    page.goto(path.as_uri())
    if initials:
        page.keyboard.type(initials)
        page.keyboard.press("Enter")
    return page


def place(page: Any) -> str:
    return str(page.get_by_role("heading", level=2).first.inner_text())


def said(page: Any) -> str:
    return str(page.get_by_role("status").inner_text())


def save(page: Any, folder: Path, act: Any = None) -> Path:
    """The file that a save downloads."""
    with page.expect_download() as download:
        act() if act else page.keyboard.press("s")
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def lines_of(path: Path) -> list[dict[str, Any]]:
    return pl.read_csv(path, infer_schema=False).to_dicts()


def test_from_the_first_key_to_the_reviewed_table(browser: Any, out: Path, tmp_path: Path) -> None:
    page = show(browser, make(out, tmp_path, "--task", "n_staging"))
    order = lines_of(tmp_path / "review.csv")
    labels = TASKS["n_staging"].columns[0].vocabulary
    other = next(i for i, label in enumerate(labels, 1) if label != order[1]["answer"])
    same = labels.index(order[3]["answer"]) + 1
    assert place(page).startswith(f"1 of {ROWS}: n staging, report =1+{order[0]['source_row']} ")
    page.keyboard.press("a")
    assert said(page) == f"{order[0]['answer']}: accepted. 3 left." and place(page).startswith("2 of")
    page.keyboard.press(str(other))
    assert f"corrected to {labels[other - 1]}. 2 left." in said(page)
    page.keyboard.press("r")
    page.keyboard.press(str(same))  # the label that the model gave is no correction
    assert said(page) == f"{order[3]['answer']}: accepted. All are decided; save them."
    page.keyboard.press("u")
    assert place(page).startswith("4 of") and "is not decided" in said(page)
    for key, number in (("j", 1), ("k", 4), ("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1)):
        page.keyboard.press(key)
        assert place(page).startswith(f"{number} of")
    assert page.get_by_role("progressbar").evaluate("e => [e.value, e.max]") == [3, ROWS]
    path = save(page, tmp_path)
    assert path.name == "decisions-AB.csv" and "3 decisions saved" in said(page)
    assert [asked for asked in page.extra if not asked.startswith("blob:")] == []
    page.close()
    assert "zanzibar" not in path.read_text(encoding="utf-8")
    written = lines_of(path)
    assert [(line["decision"], line["correction"] or "") for line in written] == [
        ("accept", ""), ("correct", labels[other - 1]), ("reject", ""),
    ]  # fmt: skip
    assert {(line["reviewer"], line["report_id"][:2]) for line in written} == {("AB", "'=")}
    done = radlite("review", "apply", shutil.copytree(out, tmp_path / "out"), path)
    assert done.exit_code == 0, done.output
    table = pl.read_parquet(tmp_path / "out" / "_run" / "review" / "reviewed" / "n_staging" / "*.parquet")
    made = dict(table.select("source_row", "reviewed_stage_decision").rows())
    assert [made[int(line["source_row"])] for line in order] == ["accept", "correct", "reject", None]
    assert radlite("verify", tmp_path / "out").exit_code == 0


def test_a_text_does_nothing_and_nothing_is_fetched(browser: Any, out: Path, tmp_path: Path) -> None:
    page = show(browser, make(out, tmp_path))
    for _ in range(ROWS):
        page.keyboard.press("j")
    assert HOSTILE in page.get_by_role("region", name="Report").inner_text()
    assert page.evaluate("window.hit") is None and page.locator("img").count() == 0
    assert page.extra == []
    page.close()


def test_what_got_into_the_page_could_not_run_or_call_home(browser: Any, out: Path, tmp_path: Path) -> None:
    page = show(browser, make(out, tmp_path))
    violated = (
        "act => new Promise(done => { addEventListener('securitypolicyviolation', e => done(e.effectiveDirective));"
        " setTimeout(() => done('nothing'), 3000); try { (%s)() } catch {} })"
    )
    attempts = {
        "connect-src": "() => { fetch('http://127.0.0.1:9/').catch(() => {}) }",
        "img-src": "() => { new Image().src = 'http://127.0.0.1:9/x.png' }",
        "require-trusted-types-for": "() => { document.body.innerHTML = '<b>x</b>' }",
    }
    for directive, attempt in attempts.items():
        assert page.evaluate(violated % attempt) == directive
    assert page.get_by_role("button", name="Accept", exact=True).count() == 1
    page.close()


def test_the_span_is_marked_where_it_stands(browser: Any, out: Path, tmp_path: Path) -> None:
    page = show(browser, make(out, tmp_path, "--task", "radiology_ner", "--limit", 1000))
    entities = pl.read_parquet(out / "radiology_ner" / "*.parquet").explode("entities").unnest("entities")
    texts = {(str(row["source_row"]), str(row["start"])): row["text"] for row in entities.drop_nulls("text").to_dicts()}
    spans = [line for line in lines_of(tmp_path / "review.csv") if line["start"]]
    assert len(spans) == len(texts) > ROWS
    for line in spans[:20]:
        text = texts[line["source_row"], line["start"]]
        assert page.locator("mark.main").evaluate("e => e.textContent") == text
        model = page.get_by_role("region", name="Answer").locator("#model").inner_text()
        assert model.startswith(f"The model says \u201c{text}\u201d: {line['answer']}")
        page.keyboard.press("j")
    page.keyboard.press("a")
    assert page.locator("mark.main").count() == 1
    page.close()


def test_words_are_corrected_in_a_field_and_kept_by_the_page_alone(browser: Any, out: Path, tmp_path: Path) -> None:
    page = show(browser, make(out, tmp_path, "--task", "radiology_qa"))
    page.keyboard.press("c")
    assert page.evaluate("document.activeElement.tagName") == "TEXTAREA"
    page.keyboard.press("Control+A")
    page.keyboard.type('- as rarely, said; "no"')  # the keys a, r and s are words here
    page.keyboard.press("Control+Enter")
    assert "corrected to - as rarely" in said(page)
    page.keyboard.press("a")
    kept = page.evaluate("JSON.stringify({...localStorage})")
    assert "accept" in kept and "rarely" not in kept and "zanzibar" not in kept
    path = save(page, tmp_path)
    page.close()
    assert radlite("review", "apply", shutil.copytree(out, tmp_path / "out"), path).exit_code == 0
    answers = pl.read_parquet(tmp_path / "out" / "_run" / "review" / "reviewed" / "radiology_qa" / "*.parquet")
    assert '- as rarely, said; "no"' in answers["reviewed_answer"].to_list()


def test_a_long_list_of_labels_is_a_menu(browser: Any, out: Path, tmp_path: Path) -> None:
    page = show(browser, make(out, tmp_path, "--task", "rads_assignment"))
    alternatives = page.get_by_role("group", name="Correct to").get_by_role("button")
    assert alternatives.count() == 5 + 1  # those of the model, and the menu's own
    page.keyboard.press("c")
    assert page.evaluate("document.activeElement.tagName") == "SELECT"
    page.keyboard.type("NI-RADS 2a // 1")
    page.keyboard.press("Enter")
    assert "corrected to NI-RADS 2a // 1" in said(page)
    page.keyboard.press("2")
    second = lines_of(tmp_path / "review.csv")[1]["alternatives"].split("; ")[1].rpartition(" ")[0]
    assert f"corrected to {second}" in said(page)
    page.close()


def test_a_screen_reader_hears_names_states_and_changes(browser: Any, out: Path, tmp_path: Path) -> None:
    page = show(browser, make(out, tmp_path, "--task", "n_staging"))
    tree = page.locator("body").aria_snapshot()
    for line in (
        'heading "Review of out" [level=1]', 'textbox "Your initials"', 'button "Save decisions"', 'button "Help"',
        "status", 'region "Report"', 'region "Answer"', 'group "Decision"', 'button "Accept"', 'button "Reject"',
        'group "Correct to"', 'navigation "Answers"', 'button "Previous"', 'button "Next"', 'button "Undo"',
        "progressbar",
    ):  # fmt: skip
        assert f"- {line}" in tree, line
    unnamed = (
        "[...document.querySelectorAll('button, input, select, textarea')].filter(e => !e.ariaLabel &&"
        " !e.textContent.trim() && !e.labels?.length).length"
    )
    assert page.evaluate(unnamed) == 0
    assert page.evaluate("document.activeElement.id") == "place"  # its words are read out after each decision
    page.keyboard.press("a")
    assert page.evaluate("document.activeElement.textContent").startswith("2 of 4")
    page.keyboard.press("k")
    assert page.get_by_role("button", name="Accept", exact=True).get_attribute("aria-pressed") == "true"
    ids = []
    for _ in range(3):
        page.keyboard.press("Tab")
        ids.append(page.evaluate("document.activeElement.id"))
    assert ids == ["report", "accept", "reject"]
    page.keyboard.press("Enter")
    assert "rejected" in said(page)
    page.close()


def test_single_keys_can_be_turned_off(browser: Any, out: Path, tmp_path: Path) -> None:
    page = show(browser, make(out, tmp_path, "--task", "n_staging"))
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keys")
    assert dialog.is_visible()
    page.keyboard.press("a")  # not while it is open
    page.get_by_role("checkbox", name="Use these keys").press("Space")
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    for key in ("a", "r", "1", "j"):
        page.keyboard.press(key)
    assert place(page).startswith("1 of") and page.get_by_role("progressbar").evaluate("e => e.value") == 0
    page.get_by_role("button", name="Accept", exact=True).click()
    assert "accepted" in said(page)
    page.close()


def test_decisions_belong_to_a_person_and_outlast_the_page(browser: Any, out: Path, tmp_path: Path) -> None:
    path = make(out, tmp_path, "--task", "n_staging")
    page = show(browser, path, "")
    page.keyboard.press("Escape")
    page.keyboard.press("a")
    assert said(page) == "Type your initials first, and press Enter."
    assert page.evaluate("document.activeElement.id") == "initials"
    page.keyboard.type("CD")
    page.keyboard.press("Enter")
    page.keyboard.press("a")
    page.keyboard.press("r")
    page.reload()
    page.keyboard.type("EF")
    page.keyboard.press("Enter")
    assert place(page).startswith("1 of")
    page.keyboard.press("r")
    page.get_by_label("Your initials").fill("CD")
    page.keyboard.press("Enter")
    assert said(page) == "2 earlier decisions were taken up." and place(page).startswith("3 of")
    page.keyboard.press("k")
    page.keyboard.press("k")
    assert place(page).startswith("1 of") and page.get_by_text("Decided: accepted.").is_visible()
    assert "beforeunload" in page.extra  # it was left with unsaved decisions
    page.close()


@pytest.mark.parametrize(("size", "scheme"), [(PHONE, "light"), (DESK, "dark")])
def test_it_is_readable_on_a_phone_and_in_the_dark(
    browser: Any, out: Path, tmp_path: Path, size: dict[str, int], scheme: str
) -> None:
    page = show(
        browser, make(out, tmp_path, "--limit", 1000), viewport=size, color_scheme=scheme, reduced_motion="reduce"
    )
    for _ in range(3):
        page.keyboard.press("a")
        page.keyboard.press("k")
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        assert page.evaluate(CONTRAST) == []
        page.keyboard.press("j")
    small = (
        "[...document.querySelectorAll('button:not(dialog *), #initials, select')].filter(e => e.offsetParent &&"
        " (e.offsetHeight < 44 || e.offsetWidth < 44)).length"
    )
    assert page.evaluate(small) == 0
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineWidth") == "3px"
    assert page.evaluate("getComputedStyle(document.getElementById('accept')).transitionDuration") == "0s"
    page.close()


# Texts whose contrast with what is behind them is below 4.5 (WCAG 2.2, 1.4.3).
CONTRAST = """() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (c) => c.slice(0, 3).map((v) => v / 255).map((v) =>
    v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
  return [...document.querySelectorAll('body *')].filter((e) => e.offsetParent && [...e.childNodes].some((n) =>
    n.nodeType === 3 && n.data.trim())).filter((e) => { const [a, b] = [light(parse(getComputedStyle(e).color)),
    light(behind(e))].sort((x, y) => y - x); return (a + 0.05) / (b + 0.05) < 4.5; }).map((e) => e.outerHTML);
}"""
