"""The dashboard and the report in a real browser: every page can be reached, read on a phone, and read by ear.

LAKEFACTOR_SCREENSHOTS=1 keeps pictures in docs/images/dashboard-*.png; LAKEFACTOR_WAREHOUSE names the tables to picture
instead of the small ones of the tests.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lakefactor.config import Config, changed
from lakefactor.dashboard import create_dashboard
from lakefactor.pages.numbers import identifier
from lakefactor.pages.report import report
from lakefactor.testing.warehouse import AWKWARD, LIVE, Warehouse

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
IMAGES = Path(__file__).parents[2] / "docs" / "images"
LARGEST_BYTES = 150_000
WIDTHS, SCHEMES = (360, 1280), ("light", "dark")
PICTURES = {"overview": "/", "stream": "/stream", "catalogue": "/catalogue", "user": "/users", "model": "/models"}


def _absent(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None, reason=f"no {package}; `make test-browser` installs it"
    )


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH (Debian: apt-get install chromium)"),
    _absent("playwright"),
    _absent("axe_playwright_python"),
    # uvicorn's server ends with the test; what its loop leaves to the garbage collector is no concern here.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@contextmanager
def served(config: Config) -> Iterator[str]:
    """Serve the dashboard on a free port beside the body."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(create_dashboard(config), log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()  # who connects before it is up waits: the socket listens already
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> Warehouse:
    return Warehouse(tmp_path_factory.mktemp("lake") / "läke house's")


@pytest.fixture(scope="module")
def site(house) -> Iterator[str]:
    with served(house.config) as address:
        yield address


@pytest.fixture(scope="module")
def empty_site(tmp_path_factory) -> Iterator[str]:
    with served(changed(Config(), {"tables.root": str(tmp_path_factory.mktemp("empty"))})) as address:
        yield address


@pytest.fixture(scope="module")
def report_file(house, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(report(house.config, "live")[1], "utf-8")
    return file


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def window(chromium: Browser, width: int = 1280, scheme: Any = "light") -> Iterator[Page]:
    """Open a window whose console must stay silent: a refused style or picture would be told of there."""
    context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    context.close()
    assert [text for text in said if "Failed to load resource" not in text] == []


def hold_against_axe(page: Page) -> None:
    """Hold the page against axe-core: nothing serious, nothing critical; with all details open, too."""
    from axe_playwright_python.sync_playwright import Axe

    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    found = Axe().run(page).response["violations"]
    grave = [
        (one["id"], [node["html"] for node in one["nodes"]][:3])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    assert grave == []


def fits(page: Page) -> bool:
    """Tell whether the page is no wider than its window."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_is_reached_by_clicks_and_can_be_read(chromium, site, width, scheme):
    with window(chromium, width, scheme) as page:
        page.goto(site)
        for name in ("Models", "Stream", "Catalogue", "Users", "Items", "Experiments", "Overview"):
            page.get_by_role("navigation").get_by_role("link", name=name, exact=True).click()
            assert page.title().startswith(name)
            assert page.locator("[aria-current=page]").inner_text() == name
            assert fits(page), name
            hold_against_axe(page)
        page.get_by_role("main").get_by_role("link", name=LIVE).first.click()
        page.get_by_role("heading", level=1, name=LIVE).wait_for()
        assert fits(page)
        hold_against_axe(page)


@pytest.mark.parametrize("width", WIDTHS)
def test_from_a_search_to_a_user_an_item_and_back(chromium, site, house, width):
    with window(chromium, width) as page:
        page.goto(f"{site}/users")
        page.get_by_label("User id").fill("it's")
        page.get_by_role("button", name="Show").click()
        page.get_by_role("heading", level=1, name="User it's").wait_for()
        assert fits(page)
        hold_against_axe(page)
        best = house.best(AWKWARD.index("it's"), 1)[0]
        page.get_by_role("region", name="Recommended items").get_by_role("rowheader").first.get_by_role("link").click()
        page.get_by_role("heading", level=1, name=f"Item {identifier(best)}").wait_for()
        assert fits(page)
        hold_against_axe(page)


def test_any_id_survives_the_way_through_the_address_bar(chromium, site):
    with window(chromium) as page:
        for name in AWKWARD:
            if "\n" in name:  # a text field holds none
                continue
            page.goto(f"{site}/users")
            page.get_by_label("User id").fill(name)
            page.get_by_role("button", name="Show").click()
            assert page.locator("h1").text_content() == f"User {identifier(name)}"
            page.reload()
            assert page.locator("h1").text_content() == f"User {identifier(name)}"


@pytest.mark.parametrize("path", ["/", "/models", "/users/nobody", "/nowhere"])
def test_empty_pages_can_be_read_too(chromium, empty_site, path):
    for width in WIDTHS:
        with window(chromium, width) as page:
            page.goto(empty_site + path)
            assert fits(page)
            hold_against_axe(page)


def test_an_unknown_user_is_one_click_from_the_one_that_was_meant(chromium, site):
    with window(chromium) as page:
        page.goto(f"{site}/users/plian")
        hold_against_axe(page)
        page.get_by_role("link", name="plain").click()
        page.get_by_role("heading", level=1, name="User plain").wait_for()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_report_can_be_read_from_its_file(chromium, report_file, width, scheme):
    asked: list[str] = []
    with window(chromium, width, scheme) as page:
        page.on("request", lambda request: asked.append(request.url))
        page.goto(report_file.as_uri())
        assert page.locator(".chart svg[role=img]").count() == 4
        assert page.evaluate("getComputedStyle(document.querySelector('.chart')).borderRadius") == "8px"
        assert fits(page)
        hold_against_axe(page)
    assert [url for url in asked if not url.startswith("data:")] == [report_file.as_uri()]


@pytest.mark.skipif(not os.environ.get("LAKEFACTOR_SCREENSHOTS"), reason="LAKEFACTOR_SCREENSHOTS=1 makes pictures")
def test_pictures(chromium, house):
    config = house.config
    if given := os.environ.get("LAKEFACTOR_WAREHOUSE"):
        config = changed(Config(), {"tables.root": given})
    IMAGES.mkdir(exist_ok=True)
    with served(config) as address:
        for name, path in PICTURES.items():
            with window(chromium, 1100) as page:
                page.set_viewport_size({"width": 1100, "height": 720})
                page.goto(address + path)
                if name == "user":
                    page.locator(".ids a").first.click()
                if name == "model":
                    page.locator("tr", has_text="live").get_by_role("link").first.click()
                page.screenshot(path=IMAGES / f"dashboard-{name}.png")
        with window(chromium, 360, "dark") as page:
            page.goto(address + PICTURES["overview"])
            page.screenshot(path=IMAGES / "dashboard-phone.png")
    for file in IMAGES.glob("dashboard-*.png"):
        assert file.stat().st_size < LARGEST_BYTES, file
