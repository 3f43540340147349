"""The page in headless Chromium, tab by tab, as a visitor uses it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.inference.chat_server import serve_chat
from vle_lightning.demo.page import Desk
from vle_lightning.demo.search import BEST
from vle_lightning.demo.worded import BUTTON, HOW
from vle_lightning.inference.chat import ChatServer
from vle_lightning.inference.llm import LanguageModel

pytestmark = pytest.mark.slow
sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

PATIENCE = 60_000  # milliseconds, on a busy machine
DONE = "Answered by"
FIT = """image => {  // where the picture lies in its element: [left, top, scale]
    const box = image.getBoundingClientRect();
    const scale = Math.min(box.width / image.naturalWidth, box.height / image.naturalHeight);
    return [(box.width - scale * image.naturalWidth) / 2, (box.height - scale * image.naturalHeight) / 2, scale];
}"""


@pytest.fixture(scope="module")
def page(address: str) -> Iterator[Page]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium on the path; Debian's package has that name")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1280, "height": 900})
        opened.set_default_timeout(PATIENCE)
        outside: list[str] = []
        opened.on("request", lambda asked: outside.append(asked.url) if leaves(asked.url, address) else None)
        opened.goto(address)
        yield opened
        browser.close()
        assert outside == []  # the page loads nothing from elsewhere


def leaves(url: str, address: str) -> bool:
    return not url.startswith((address, "data:", "blob:"))


def open_tab(page: Page, name: str) -> Locator:
    page.get_by_role("tab", name=name, exact=True).click()
    return page.get_by_role("tabpanel").filter(visible=True).first


def upload(panel: Locator, file: str | Path) -> None:
    panel.locator("input[type=file]").first.set_input_files(str(file))
    panel.get_by_test_id("image").locator("img").first.wait_for()


def finish(panel: Locator, answers: int = 1) -> None:
    sync_api.expect(panel.get_by_text(DONE)).to_have_count(answers, timeout=PATIENCE)


def press(panel: Locator, name: str) -> None:
    panel.get_by_role("button", name=name, exact=True).click()


def source_of(panel: Locator, label: str) -> str:
    """Return the address of the picture that a field shows."""
    picture = panel.locator(".block", has=panel.page.get_by_text(label, exact=True)).locator("img").last
    return str(picture.get_attribute("src"))


def test_ask(page: Page, scene: str) -> None:
    panel = open_tab(page, "Ask")
    upload(panel, scene)
    panel.get_by_label("Question").fill("What colour is the car?")
    press(panel, "Ask")
    finish(panel)
    assert panel.get_by_text("%").count() == 4  # the tiny model knows four answers
    assert source_of(panel, "Where the model looked")
    panel.get_by_text("Reproduce and save").click()
    shown = panel.get_by_text("python -m vle_lightning ask")
    shown.first.wait_for()
    assert scene in str(panel.inner_text()).replace("\n", "")


def test_the_reply_of_a_language_model_streams_and_a_failure_is_explained(
    page: Page, desk: Desk, scene: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vle_lightning.demo.app import build_app, serve
    from vle_lightning.demo.place import Place

    monkeypatch.setenv("OPENAI_API_KEY", "sk-never-to-be-seen")
    with serve_chat("waits", ("The car ", "is red.")) as server:
        wide = replace(desk, language_model=LanguageModel(ChatServer(server.address, "stub")))
        app = build_app(wide)
        assert page.context.browser is not None
        opened = page.context.browser.new_page()
        opened.set_default_timeout(PATIENCE)
        opened.goto(serve(app, wide, Place(), wait=False))
        panel = open_tab(opened, "Ask")
        upload(panel, scene)
        panel.get_by_label("Question").fill("What colour is the car?")
        press(panel, BUTTON)
        reply = panel.get_by_label("Reply of the language model")
        sync_api.expect(reply).to_have_value("The car ", timeout=PATIENCE)  # the server waits
        assert panel.get_by_text("%").count() == 4  # VLE's answers are there
        assert panel.get_by_text(DONE).count() == 0
        server.go.set()
        finish(panel)
        sync_api.expect(reply).to_have_value("The car is red.")
        panel.get_by_text("What was sent to the language model").click()
        assert "Question: What colour is the car?" in panel.get_by_label("Prompt").input_value()
        server.behaviour = "500"
        press(panel, BUTTON)
        panel.get_by_text("VLE's own answer stands").wait_for()
        panel.get_by_text("The server refused the request with HTTP 500.").wait_for()
        assert reply.input_value() == ""
        press(panel, "Ask")
        panel.get_by_text("VLE's own answer stands").wait_for(state="detached")  # of an earlier question
        finish(panel)
        assert server.address not in opened.content()  # this desk serves strangers
        assert "sk-never-to-be-seen" not in opened.content()
        opened.close()
        app.close()


def test_without_a_language_model_the_page_says_how_to_get_one(page: Page) -> None:
    panel = open_tab(page, "Ask")
    assert panel.get_by_role("button", name=BUTTON).count() == 0
    panel.get_by_text(HOW.split("`")[0].strip()).wait_for()


def test_an_error_is_shown_as_a_sentence_and_the_page_goes_on(page: Page, scene: str) -> None:
    panel = open_tab(page, "Ask")
    upload(panel, scene)
    panel.get_by_label("Question").fill("a" * 10_000)
    press(panel, "Ask")
    panel.get_by_text("The question has 10,000 characters").wait_for()
    panel.get_by_label("Question").fill("What colour is the car?")
    press(panel, "Ask")
    finish(panel)
    assert panel.get_by_text("%").count() == 4


def test_find_changes_with_its_strength(page: Page, scene: str) -> None:
    panel = open_tab(page, "Find")
    upload(panel, scene)
    panel.get_by_label("Phrase").fill("the red car")
    press(panel, "Find")
    finish(panel)
    before = source_of(panel, "What the phrase mentions")
    slider = panel.get_by_role("slider")
    slider.focus()
    for _ in range(5):
        slider.press("ArrowLeft")
    slider.dispatch_event("pointerup")
    panel.get_by_label("Relative heat, as published").check()
    page.wait_for_function(
        "before => ![...document.querySelectorAll('img')].some(image => image.src === before)", arg=before
    )
    assert source_of(panel, "What the phrase mentions") != before


def test_match(page: Page, scene: str) -> None:
    panel = open_tab(page, "Match")
    upload(panel, scene)
    panel.get_by_label("Texts, one a line").fill("the red car\ntwo people\nthe dog")
    press(panel, "Rank the texts")
    finish(panel)
    assert panel.get_by_text("%").count() == 3


def test_fill_in(page: Page, scene: str) -> None:
    panel = open_tab(page, "Fill in")
    upload(panel, scene)
    panel.get_by_label("Text with [MASK] for each missing word").fill("the [MASK] car near [MASK]")
    press(panel, "Fill in")
    finish(panel)
    assert "[MASK]" not in panel.get_by_label("With the best words").input_value()
    assert panel.get_by_text("%").count() == 10


def click_boxes(panel: Locator, x: float, y: float) -> None:
    """Click at a point of the picture with boxes, in pixels of the picture as it is shown."""
    image = panel.locator("#boxes img")
    left, top, scale = image.evaluate(FIT)
    image.click(position={"x": left + scale * x, "y": top + scale * y})


def test_reason_by_clicking(page: Page, desk: Desk) -> None:
    panel = open_tab(page, "Reason")
    panel.get_by_label("Or a sample of the toy world").click()
    page.get_by_role("option", name=desk.examples.vcr[0].name).click()
    question = panel.get_by_label("Question", exact=True)
    sync_api.expect(question).to_have_value("where is [0] ?", timeout=PATIENCE)
    panel.get_by_label("Answer 2", exact=True).click()
    sync_api.expect(panel.get_by_label("Tags go into", exact=False)).to_have_value("answer 2", timeout=PATIENCE)
    click_boxes(panel, 350, 120)  # of 480 x 240: in box 1
    sync_api.expect(panel.get_by_label("Answer 2", exact=True)).to_have_value("here [1]", timeout=PATIENCE)
    panel.get_by_label("draws a box").check()
    click_boxes(panel, 210, 20)
    panel.get_by_text("No answer").wait_for(state="detached")
    page.wait_for_timeout(1000)  # the first corner is drawn
    click_boxes(panel, 245, 150)
    page.wait_for_timeout(1000)
    press(panel, "Q->A: choose the answer")
    finish(panel)
    press(panel, "QA->R: choose the rationale")
    finish(panel, 2)
    assert panel.get_by_text("%").count() == 8  # four answers, four rationales


def test_search_over_200_scenes_and_in_reverse(page: Page, scene: str) -> None:
    panel = open_tab(page, "Search")
    press(panel, "Index the folder")
    panel.get_by_text("200 pictures: 200 new").wait_for()
    panel.get_by_label("Text", exact=True).fill("a red car")
    press(panel, "Search the pictures")
    finish(panel)
    assert panel.locator("#found img").count() >= BEST
    upload(panel, scene)
    panel.get_by_label("Texts, one a line").fill("a red car\na blue car")
    press(panel, "Search the texts")
    finish(panel, 2)


def test_compare_two_models(page: Page, scene: str) -> None:
    panel = open_tab(page, "Compare")
    upload(panel, scene)
    panel.get_by_label("Match", exact=True).check()
    panel.get_by_label("Text", exact=True).fill("the red car\ntwo people")
    press(panel, "Compare")
    finish(panel, 2)
    assert panel.get_by_text("%").count() == 4
    panel.get_by_label("Model on the right").click()
    page.get_by_role("option", name="vqa", exact=True).click()
    press(panel, "Compare")
    panel.get_by_text("vqa has no head for image-text matching").wait_for()


def test_a_broken_upload_is_a_sentence(page: Page, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    page.reload()
    panel = open_tab(page, "Ask")
    panel.locator("input[type=file]").first.set_input_files(str(tmp_path / "broken.png"))
    panel.get_by_label("Question").fill("What is it?")
    page.wait_for_timeout(1500)
    press(panel, "Ask")
    panel.get_by_text("No answer").wait_for()
    assert panel.get_by_text("%").count() == 0
