"""The page of the web example, used in a real browser without a window."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from tests.web.conftest import Start

PATIENCE_MS = 20_000
expect.set_options(timeout=PATIENCE_MS)


def find_chromium() -> str | None:
    """Return the path of a browser: that of BATPAK_CHROMIUM, or the first one on PATH."""
    named = os.environ.get("BATPAK_CHROMIUM")
    names = [named] if named else ["chromium", "chromium-browser", "google-chrome"]
    return next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = find_chromium()
    if chromium is None:
        missing = "found no browser: install chromium, or set BATPAK_CHROMIUM to the path of one"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        # Root may not have a sandbox, and a container has little shared memory.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A tab of a browser that has seen nothing yet."""
    with browser.new_context(viewport={"width": 900, "height": 760}) as context:
        context.set_default_timeout(PATIENCE_MS)
        yield context.new_page()


def visit(page: Page, url: str) -> None:
    """Go to the page and wait until it listens."""
    page.goto(url)
    expect(page.get_by_role("status")).to_have_text("live")


def write(page: Page, text: str, topic: str | None = None) -> None:
    """Write a note as somebody with a keyboard does."""
    if topic is not None:
        page.get_by_label("Topic").fill(topic)
    page.get_by_label("Text").fill(text)
    page.keyboard.press("Enter")


def expect_notes(page: Page, *texts: str) -> None:
    """Wait until the page shows exactly these notes, from top to bottom."""
    expect(page.locator("li p")).to_have_text(list(texts))


def test_a_note_that_is_written_appears(page: Page, start: Start) -> None:
    visit(page, start().url)
    write(page, "Pizza at <b>noon</b>?", "lunch")
    expect_notes(page, "Pizza at <b>noon</b>?")
    expect(page.locator("li b")).to_have_text("lunch")
    expect(page.get_by_label("Text")).to_have_value("")
    write(page, "Count me in", "lunch")
    expect_notes(page, "Count me in", "Pizza at <b>noon</b>?")


def test_a_note_appears_in_another_tab_too(page: Page, start: Start) -> None:
    url = start().url
    other = page.context.new_page()
    visit(page, url)
    visit(other, url)
    write(page, "from the first")
    expect_notes(other, "from the first")
    write(other, "from the second")
    expect_notes(page, "from the second", "from the first")
    expect_notes(other, "from the second", "from the first")


def test_a_page_that_is_loaded_again_shows_the_same_notes(page: Page, start: Start) -> None:
    board = start()
    board.write("first", "second")
    visit(page, board.url)
    expect_notes(page, "second", "first")
    write(page, "third")
    expect_notes(page, "third", "second", "first")
    page.reload()
    expect_notes(page, "third", "second", "first")


def test_a_note_that_is_refused_says_why_and_can_be_mended(page: Page, start: Start) -> None:
    visit(page, start().url)
    write(page, "hello", "a/b")
    expect(page.get_by_role("alert")).to_contain_text('neither "/" nor ".."')
    write(page, "hello", "a b")
    expect_notes(page, "hello")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_page_goes_on_where_it_was_when_the_server_comes_back(page: Page, start: Start) -> None:
    board = start()
    board.write("old")
    visit(page, board.url)
    write(page, "before")
    expect_notes(page, "before", "old")
    board.kill()
    expect(page.get_by_role("status")).to_have_text("reconnecting")
    board = start(port=board.port)
    board.write("while it was away")
    expect(page.get_by_role("status")).to_have_text("live")
    write(page, "after")
    expect_notes(page, "after", "while it was away", "before", "old")


def test_a_note_that_is_sent_while_the_server_is_down_is_written_once_it_is_back(page: Page, start: Start) -> None:
    board = start()
    visit(page, board.url)
    board.kill()
    write(page, "patience")
    expect(page.get_by_role("button")).to_be_disabled()
    start(port=board.port)
    expect_notes(page, "patience")
    expect(page.get_by_role("button")).to_be_enabled()


def test_a_note_whose_answer_was_lost_is_written_once(page: Page, start: Start) -> None:
    visit(page, start().url)

    def lose_answer(route: Route) -> None:
        route.fetch()
        route.abort()

    page.route("**/notes", lose_answer, times=1)
    write(page, "once")
    expect(page.get_by_role("button")).to_be_enabled()
    expect(page.get_by_label("Text")).to_have_value("")
    expect_notes(page, "once")


def test_a_page_that_has_seen_what_the_journal_lost_shows_it_anew(page: Page, start: Start) -> None:
    board = start()
    board.write("lost", "lost too")
    visit(page, board.url)
    write(page, "lost as well")
    expect_notes(page, "lost as well", "lost too", "lost")
    board.kill()
    shutil.rmtree(board.journal)
    start(port=board.port).write("new")
    expect_notes(page, "new")
