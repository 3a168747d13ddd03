"""The dashboard in a real Chromium: it loads, draws live traffic, inspects, resets, explains, and outlives its sidecar."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.raw_client import get
from tests.recorder import Recorder, eventually
from tests.servers import StoreServer, free_port
from tests.sidecar import Config, Sidecar, configuration

sync_api = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)"),
]

TOKEN = "the token of this test"
POLICIES: list[dict[str, object]] = [
    {"name": "users", "match": {"path": ["/api/**"]}, "key": "header:X-User-ID", "limit": "1/day", "burst": 3},
    {"name": "trial", "match": {"path": ["/api/**"]}, "key": "path", "limit": "1/day", "burst": 1, "shadow": True},
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.stop()


@pytest.fixture
def config(store_server: StoreServer, recorder: Recorder) -> Config:
    config = configuration(store_server.url, recorder.url, policies=POLICIES)
    config["listen"]["port"] = free_port()
    return config


class Page:
    """A page that must not complain: errors of the console, of scripts and of the content policy are kept."""

    def __init__(self, browser: Any, port: int, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("console", lambda message: self.faults.extend([message.text] if message.type == "error" else []))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))
        self.page.goto(f"http://127.0.0.1:{port}/")

    def wait(self, script: str) -> None:
        """Until an expression holds in the page."""
        # Not Playwright's own waiting, which evaluates text in the page: the content policy forbids that.
        eventually(lambda: self.page.evaluate(script), script)

    def text(self, selector: str) -> str:
        found: str = self.page.inner_text(selector)
        return found


def spend(sidecar: Sidecar, user: str, count: int) -> None:
    for _ in range(count):
        get(sidecar.port, "/api/data", f"X-User-ID: {user}")


def test_it_draws_live_traffic_inspects_resets_and_explains(browser: Any, config: Config, tmp_path: Path) -> None:
    with Sidecar(config) as sidecar:
        page = Page(browser, sidecar.admin_port, viewport={"width": 1200, "height": 1300})
        page.wait("document.getElementById('connection').dataset.state === 'live'")
        spend(sidecar, "alice", 8)
        page.wait("document.querySelectorAll('#traffic rect.refused').length > 0")
        page.wait("document.querySelectorAll('#traffic rect.allowed').length > 0")
        page.wait("document.querySelectorAll('#traffic rect.shadow_refused').length > 0")
        assert "5 refused" in page.page.get_attribute("#traffic", "aria-label")
        assert "users" in page.text("#totals")
        page.wait("document.getElementById('most-refused').textContent.includes('alice')")

        page.page.click("#most-refused button")
        page.wait("document.getElementById('bucket-result').textContent.includes('0 of 3 tokens')")
        page.page.click("#bucket-reset")
        page.page.click("#reset-no")
        page.page.click("#bucket-reset")
        page.page.click("#reset-yes")
        page.wait("document.getElementById('bucket-result').textContent.includes('3 of 3 tokens')")
        assert "Reset." in page.text("#bucket-result")
        assert get(sidecar.port, "/api/data", "X-User-ID: alice").status == 200

        page.page.fill("#bucket-key", "ali")
        page.page.click("#bucket-form button:not([type=button])")
        page.wait("document.getElementById('bucket-list').textContent.includes('alice')")

        page.page.fill("#explain-url", "/api/data")
        page.page.fill("#explain-headers", "X-User-ID: alice")
        page.page.click("#explain-form button")
        page.wait("document.getElementById('explain-result').textContent.includes('2 of 3 tokens now')")

        page.page.click("#config-details summary")
        page.wait("document.getElementById('config-text').textContent.includes('\"name\": \"users\"')")
        sidecar.config_file.write_text("policies: 1")
        page.wait("document.getElementById('config-faults').textContent.includes('policies')")
        page.page.screenshot(path=str(tmp_path / "dashboard.png"), full_page=True)
        assert page.faults == []
        assert page.hosts == {f"127.0.0.1:{sidecar.admin_port}"}
        page.context.close()
        sidecar.lines.clear()  # the refused edit is logged as an error, rightly


def test_it_goes_on_after_a_restart_of_the_sidecar(browser: Any, config: Config) -> None:
    with Sidecar(config) as first:
        page = Page(browser, first.admin_port)
        page.wait("document.getElementById('connection').dataset.state === 'live'")
    page.wait("document.getElementById('connection').dataset.state === 'lost'")
    with Sidecar(config) as second:
        page.wait("document.getElementById('connection').dataset.state === 'live'")
        spend(second, "bob", 4)
        page.wait("document.getElementById('totals').textContent.includes('users')")
        # The browser itself reports the tries that found nobody; the page reports nothing.
        assert all("net::ERR_" in fault for fault in page.faults), page.faults
        page.context.close()


def test_an_outage_of_the_store_is_told_by_breaker_and_outcome_until_it_is_over(
    browser: Any, config: Config, own_store_server: StoreServer, tmp_path: Path
) -> None:
    config["store"]["url"] = own_store_server.url
    failing = {"on_store_failure": "local"}, {"on_store_failure": "allow"}, {"on_store_failure": "deny"}
    config["policies"] = [
        {
            "name": name,
            "match": {"path": [f"/{name}/**"]},
            "key": "header:X-User-ID",
            "limit": "1/day",
            "burst": 3,
            **mode,
        }
        for name, mode in zip(("ours", "lax", "strict"), failing, strict=True)
    ]
    config["listen"]["workers"] = 2
    with Sidecar(config) as sidecar:
        sidecar.wait_for_event("workers_ready")
        pages = [
            Page(browser, sidecar.admin_port, viewport={"width": width, "height": 900}, color_scheme=colours)
            for width, colours in ((1200, "light"), (1200, "dark"), (375, "light"))
        ]
        page = pages[0]
        page.wait("document.getElementById('breaker-word').textContent === 'closed'")
        assert page.text("#legend").split() == ["allowed", "refused"], (
            "what an outage brings is not told of without one"
        )
        own_store_server.kill()

        def spend_again() -> bool:
            for path in ("/ours/a", "/lax/a", "/strict/a"):
                for _ in range(6):
                    get(sidecar.port, path, "X-User-ID: alice")
            return "local refused" in page.text("#legend") and "breaker" not in page.text("#breaker-word")

        eventually(spend_again, "the outcomes of the outage by name")
        for name in ("local allowed", "local refused", "store allowed", "store denied"):
            page.wait(f"document.getElementById('legend').textContent.includes('{name}')")
            assert name in page.text("#totals-head").lower()
            assert name in page.page.get_attribute("#traffic", "aria-label")
        page.wait("/open|probing/.test(document.getElementById('breaker-word').textContent)")
        page.wait("document.getElementById('store-up').classList.contains('bad')")
        page.wait("document.querySelectorAll('#traffic rect.store_denied').length > 0")
        assert page.page.evaluate("document.querySelectorAll('#workers tr').length") == 2
        for number, each in enumerate(pages):
            each.wait("document.getElementById('legend').textContent.includes('store denied')")
            each.page.screenshot(path=str(tmp_path / f"outage-{number}.png"), full_page=True)
            assert each.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")

        own_store_server.start()
        page.wait("document.getElementById('breaker-word').textContent === 'closed'")
        page.wait("document.getElementById('store-up').textContent === 'up'")
        page.wait("document.getElementById('without-store').textContent === 'none'")  # no more of the last ten seconds
        for each in pages:
            assert each.faults == []
            each.context.close()


def test_with_a_token_it_asks_for_it_and_a_narrow_dark_screen_shows_all_of_it(browser: Any, config: Config) -> None:
    config["admin"]["token"] = TOKEN
    with Sidecar(config) as sidecar:
        page = Page(browser, sidecar.admin_port, viewport={"width": 375, "height": 720}, color_scheme="dark")
        page.page.wait_for_selector("#token-form:not([hidden])")
        page.page.fill("#token", "not the token at all")
        page.page.keyboard.press("Enter")
        page.wait("document.getElementById('token-fault').textContent !== ''")
        page.page.fill("#token", TOKEN)
        page.page.keyboard.press("Enter")
        page.wait("document.getElementById('connection').dataset.state === 'live'")
        width = page.page.evaluate("document.documentElement.scrollWidth")
        assert width <= 375, f"the page is {width} wide"
        assert all("401" in fault for fault in page.faults), page.faults
        page.context.close()


def test_everything_that_acts_has_a_name_and_is_reached_by_keyboard(browser: Any, config: Config) -> None:
    with Sidecar(config) as sidecar:
        spend(sidecar, "carol", 5)
        page = Page(browser, sidecar.admin_port)
        page.wait("document.querySelectorAll('#most-refused button').length > 0")
        nameless = page.page.evaluate(
            """() => [...document.querySelectorAll('button, input, select, textarea, summary, [role=img], a')]
                .filter((each) => !each.closest('[hidden]') && !(each.ariaLabel || each.textContent.trim()
                    || each.labels?.[0]?.textContent.trim())).map((each) => each.outerHTML)"""
        )
        assert nameless == []
        reached: set[str] = set()
        for _ in range(30):
            page.page.keyboard.press("Tab")
            reached.add(page.page.evaluate("document.activeElement.id || document.activeElement.className"))
        assert {
            "skip",
            "traffic-policy",
            "quiet",
            "bucket-policy",
            "bucket-key",
            "explain-url",
            "explain-live",
        } <= reached
        assert page.faults == []
        page.context.close()
