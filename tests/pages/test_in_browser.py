"""The pages in a real browser: nothing is fetched, nothing runs over the edge, and what is drawn is what was counted.

Needs headless Chromium (Debian: apt-get install chromium) and playwright to drive it."""

import csv
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from radlite_batch.archive import ArchiveSpec
from radlite_batch.cli import main
from radlite_batch.job import Job, Output, Workers
from radlite_batch.run import run
from radlite_batch.tasks.registry import TASKS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
Image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

ROWS = 60
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}


def write_run(folder: Path, name: str, words: int) -> Path:
    """Every fourth text is empty."""
    with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["report_id", "text", "question", "premise", "hypothesis"])
        for i in range(ROWS):
            text = "" if i % 4 == 3 else f"Case {i}. " + "Large nodes. " * words
            writer.writerow([f"{i:04d}", text, "Where?", "Left.", "Right."])
    spec = ArchiveSpec((str(folder / f"{name}.csv"),))
    run(Job(spec, tuple(TASKS), Output(folder / name), "fake", Workers(1, 1)))
    return folder / name


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report with drift beside its earlier run, a diff, and a review."""
    folder = tmp_path_factory.mktemp("pages")
    first, second = write_run(folder, "first", 2), write_run(folder, "second", 30)
    for command in (
        ["report", second, "--previous", first, "--to", folder / "report.html"],
        ["diff", first, second, "--to", folder],
        ["review", second, "--task", "n_staging", "--to", folder],
    ):
        done = CliRunner().invoke(main, [str(argument) for argument in command])
        assert done.exit_code == 0, done.output
    return {name: folder / f"{name}.html" for name in ("report", "diff", "review")}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM)
        yield chromium
        chromium.close()


def show(browser: Any, path: Path, size: dict[str, int], **options: Any) -> Any:
    """The page, once shown; whatever else it asked for, and every complaint, is in page.extra."""
    page = browser.new_page(viewport=size, **options)
    page.extra = []
    page.on("request", lambda request: page.extra.append(request.url) if request.url != path.as_uri() else None)
    page.on("console", lambda message: page.extra.append(message.text))
    page.on("pageerror", lambda error: page.extra.append(str(error)))
    page.goto(path.as_uri())
    return page


def colours(png: bytes) -> list[tuple[int, int, int]]:
    """The pixels of a picture's third line from the top."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    return [picture.getpixel((x, 3)) for x in range(picture.width)]


def rgb(page: Any, variable: str) -> tuple[int, int, int]:
    """A colour of the page's style, as drawn."""
    value = page.evaluate(
        "name => { const e = document.createElement('i'); e.style.color = `var(${name})`; document.body.append(e);"
        " const c = getComputedStyle(e).color; e.remove(); return c.match(/\\d+/g).map(Number) }",
        variable,
    )
    return value[0], value[1], value[2]


@pytest.mark.parametrize("name", ["report", "diff"])
@pytest.mark.parametrize(("size", "scheme"), [(PHONE, "light"), (DESK, "dark")])
def test_the_page_fits_and_fetches_nothing(
    browser: Any, pages: dict[str, Path], name: str, size: dict[str, int], scheme: str
) -> None:
    page = show(browser, pages[name], size, color_scheme=scheme)
    assert page.extra == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    small = page.evaluate(
        "[...document.querySelectorAll('body *')].filter(e => e.textContent.trim() && !e.closest('svg')"
        " && parseFloat(getComputedStyle(e).fontSize) < 10).length"
    )
    assert small == 0
    cut = page.evaluate(
        "[...document.querySelectorAll('.bars > *, h1, h2, h3, .tile *')].filter(e => {"
        " const r = e.getBoundingClientRect(); return r.right > innerWidth || r.left < 0 }).length"
    )
    assert cut == 0
    assert page.evaluate("[...document.querySelectorAll('svg')].every(e => e.getBoundingClientRect().height > 5)")
    untold = "[...document.querySelectorAll('svg')].filter(e => !e.ariaHidden && !(e.role && e.ariaLabel)).length"
    assert page.evaluate(untold) == 0
    page.close()


def test_a_bar_is_as_long_as_its_share(browser: Any, pages: dict[str, Path]) -> None:
    """Three of four rows are ok: so are three quarters of the first bar's pixels, and the rest is `empty`."""
    page = show(browser, pages["report"], DESK)
    drawn = colours(page.locator("svg.bar").first.screenshot())
    ok, empty = rgb(page, "--ok"), rgb(page, "--empty")
    assert abs(drawn.count(ok) / len(drawn) - 0.75) < 0.02
    assert abs(drawn.count(empty) / len(drawn) - 0.25) < 0.02
    page.close()


def test_dark_screens_are_dark_and_paper_is_white(browser: Any, pages: dict[str, Path]) -> None:
    page = show(browser, pages["report"], DESK, color_scheme="dark")

    def paper() -> int:
        """How bright the page's upper left corner is, 0 to 255."""
        corner = page.screenshot(clip={"x": 0, "y": 0, "width": 4, "height": 4})
        return min(colours(corner)[0])

    assert paper() < 60
    page.emulate_media(media="print")
    assert paper() == 255
    assert len(page.pdf(format="A4", print_background=False)) > 10_000
    page.close()


def test_a_drift_warning_is_seen_at_once(browser: Any, pages: dict[str, Path]) -> None:
    page = show(browser, pages["report"], PHONE)
    box = page.get_by_role("alert")
    assert "text lengths" in box.inner_text()
    assert box.bounding_box()["y"] < PHONE["height"]
    page.close()


BOTH = "svg.bar:has(rect[style*='--now']):has(rect[style*='--before'])"
SEEN = {"report": (BOTH, ["--now", "--before"]), "diff": ("svg.bar", ["--now"]), "review": ("mark", ["--mark"])}


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("name", SEEN)
def test_the_whole_page_as_a_picture_shows_what_counts(
    browser: Any, pages: dict[str, Path], tmp_path: Path, name: str, size: dict[str, int]
) -> None:
    """Of a report both runs' bars, one below the other; of a diff what changed; of a review what is marked."""
    element, variables = SEEN[name]
    page = show(browser, pages[name], size)
    if name == "review":
        page.keyboard.type("AB")
        page.keyboard.press("Enter")
    page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
    place = page.locator(element).first
    box, top = place.bounding_box(), page.evaluate("scrollY")
    picture = Image.open(tmp_path / f"{name}.png").convert("RGB")
    assert picture.width == size["width"] and picture.height >= size["height"]
    left, upper = round(box["x"]), round(box["y"] + top)
    part = picture.crop((left, upper, left + round(box["width"]), upper + round(box["height"])))
    drawn = [{part.getpixel((x, y)) for x in range(part.width)} for y in range(part.height)]
    rows = [[y for y, line in enumerate(drawn) if rgb(page, variable) in line] for variable in variables]
    assert all(rows), variables
    assert len(rows) == 1 or max(rows[0]) < min(rows[1])
    page.close()
