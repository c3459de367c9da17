"""The widget on a page of another site, in a real browser."""

from __future__ import annotations

import functools
import http.server
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from shell import ROOT
from wyrmling.core.store import Store
from wyrmling.serve.app import ROUTES

PAGE = """<!doctype html><html lang="en"><head><title>A shop</title>
<meta http-equiv="content-security-policy" content="script-src {server}; style-src 'none'">
</head><body><p>Tea</p><script src="{server}/widget.js" {attributes}></script></body></html>"""


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    driver, binary = shutil.which("chromedriver"), shutil.which("chromium")
    assert driver and binary, "scripts/test installs chromium and chromium-driver, which this test needs"
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--force-prefers-color-scheme=light"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as found:
        yield found


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A site of its own: its address, and the folder of its pages."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}", tmp_path
        server.shutdown()


class Page:
    """A page with the widget, and what a visitor does with it."""

    def __init__(self, browser: webdriver.Chrome, site: tuple[str, Path], server: str, **settings: str) -> None:
        attributes = " ".join(f'data-{name}="{value}"' for name, value in settings.items())
        (site[1] / "index.html").write_text(PAGE.format(server=server, attributes=attributes))
        self.browser = browser
        browser.get_log("browser")
        browser.get(f"{site[0]}/index.html")
        self.root = self.wait(lambda: browser.find_elements("css selector", "[data-wyrmling]"))[0].shadow_root

    def wait(self, found):
        return WebDriverWait(self.browser, 60, poll_frequency=0.05).until(lambda _: found())

    def all(self, selector: str):
        return self.root.find_elements("css selector", selector)

    def one(self, selector: str):
        return self.root.find_element("css selector", selector)

    def ask(self, text: str) -> str:
        """Ask, and wait for the answer that can be rated; its text."""
        before = len(self.all(".rate"))
        self.one("form textarea").send_keys(text, Keys.ENTER)
        self.wait(lambda: len(self.all(".rate")) > before)
        return self.all(".turn")[-1].get_property("textContent")

    def click(self, label: str) -> None:
        self.all(f".rate [aria-label='{label}']")[-1].click()

    def told(self) -> str:
        return self.wait(lambda: self.all(".rate [role=status]")[-1].get_property("textContent"))

    def focused(self) -> str | None:
        return self.browser.execute_script("return arguments[0].activeElement?.className", self.root)

    @property
    def complaints(self) -> list[str]:
        return [line["message"] for line in self.browser.get_log("browser") if "favicon" not in line["message"]]


def test_a_visitor_asks_rates_and_corrects(browser, site, start, kitchen, tmp_path) -> None:
    store = Store.open(f"sqlite:///{tmp_path / 'site.db'}")
    _, secret = store.create_key("site")
    folder = kitchen.model("talker", "next", chat=True, seed=1)
    with start(folder, store=store, origins=[site[0]], log_prompts=True, max_tokens=12) as server:
        page = Page(browser, site, server.address, model="talker", key=secret, user="anna", greeting="Hello <b>you</b>")
        page.one(".launch").click()
        said = page.ask("<img src=x onerror=alert(1)> tea?")
        assert [turn.get_property("textContent") for turn in page.all(".turn")][:2] == [
            "Hello <b>you</b>", "<img src=x onerror=alert(1)> tea?",
        ]  # fmt: skip
        assert not page.all(".log img, .log b"), "texts stay texts"
        (usage,) = store.usage()
        assert usage.answer == said
        page.click("Good answer")
        assert page.told() == "Thank you"
        page.ask("And milk?")
        page.all(".rate button")[-1].click()
        field = page.one(".rate textarea")
        field.clear()
        field.send_keys("Milk, of course")
        page.all(".rate button")[-1].click()
        page.wait(lambda: len(store.feedback()) == 2)
        by_rating = {row.rating: row for row in store.feedback()}
        assert by_rating[1].answer_id == usage.id
        assert by_rating[-1].correction == "Milk, of course"
        assert "And milk?" in str(by_rating[-1].prompt), "the prompt makes an example of it"
        loaded = browser.execute_script(
            "return performance.getEntriesByType('resource').map(e => new URL(e.name).host)"
        )
        assert set(loaded) <= {server.address.removeprefix("http://"), site[0].removeprefix("http://")}
        assert page.complaints == []


def test_a_classifier_offers_its_labels_for_the_correction(browser, site, start, kitchen, tmp_path) -> None:
    store = Store.open(f"sqlite:///{tmp_path / 'site.db'}")
    with start(kitchen.model("sorter", "classes"), store=store, origins=[site[0]]) as server:
        page = Page(browser, site, server.address, model="sorter", task="classify", open="", theme="dark")
        assert "dark" in browser.find_element("css selector", "[data-wyrmling]").get_attribute("class")
        label = page.ask("my card").partition(" ")[0]
        page.all(".rate button")[-1].click()
        options = [option.get_property("value") for option in page.all(".rate option")]
        assert sorted(options) == ["card", "refund", "transfer"] and label in options
        page.all(".rate button")[-1].click()
        assert page.told() == "Thank you"
        assert store.feedback()[0].correction == label


def test_the_keyboard_is_enough(browser, site, start, kitchen) -> None:
    with start(kitchen.model("sorter", "classes"), origins=[site[0]]) as server:
        page = Page(browser, site, server.address, model="sorter", task="classify")
        page.one(".launch").send_keys(Keys.ENTER)
        assert page.one("[role=dialog]").is_displayed() and page.focused() == ""
        page.one("form textarea").send_keys(Keys.ESCAPE)
        assert not page.one("[role=dialog]").is_displayed() and page.focused() == "launch"


def test_another_site_is_shut_out_and_nothing_typed_is_lost(browser, site, start, kitchen) -> None:
    with start(kitchen.model("sorter", "classes"), origins=["https://example.com"]) as server:
        page = Page(browser, site, server.address, model="sorter", task="classify", open="")
        page.one("form textarea").send_keys("my card", Keys.ENTER)
        page.wait(lambda: page.all(".wrong"))
        assert page.one("form textarea").get_property("value") == "my card"


def test_the_javascript_of_the_page_works(browser, site, start, kitchen) -> None:
    page = (ROOT / "docs" / "site.md").read_text()
    (code,) = re.findall(r"^```javascript\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (site[1] / "index.html").write_text("<!doctype html><p>Tea</p>")
    with start(kitchen.model("sorter", "classes"), origins=[site[0]]) as server:
        browser.get(f"{site[0]}/index.html")
        code = code.replace("http://127.0.0.1:8000", server.address).replace("support-desk", server.service.name)
        call = f"{code}; classify('my card').then(arguments[0], error => arguments[0](String(error)))"
        assert browser.execute_async_script(call) in ("card", "refund", "transfer")


def test_only_named_sites_get_cors_headers(start, kitchen) -> None:
    origin = "https://example.com"
    with start(kitchen.model("sorter", "classes"), origins=[origin]) as server:
        asked = {"origin": origin, "access-control-request-method": "POST"}
        allowed = server.ask("OPTIONS", "/v1/classify", headers=asked)
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (204, origin)
        assert "access-control-allow-credentials" not in allowed.headers
        for _, path, _ in ROUTES:
            answer = server.ask("OPTIONS", path, headers={"origin": "https://example.org"})
            assert answer.status_code != 204 and "access-control-allow-origin" not in answer.headers
