"""The dashboard in a real Chromium: figures and states in each situation, charts, buckets, explanation, reconnection."""

import os
import shutil
import signal
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

URLS = ("http", "redis")
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


@pytest.fixture
def config(store_server: StoreServer, recorder: Recorder) -> Config:
    config = configuration(store_server.url, recorder.url, policies=POLICIES)
    config["listen"]["port"] = free_port()
    return config


class DashboardPage:
    """A page in the browser. `faults` collects errors of the console, of scripts and of the content policy."""

    def __init__(self, browser: Any, port: int, path: str = "", **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("console", lambda message: self.faults.extend([message.text] if message.type == "error" else []))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))
        self.page.goto(f"http://127.0.0.1:{port}/{path}")

    def wait(self, script: str) -> None:
        """Wait until an expression holds in the page."""
        # Playwright's own waiting evaluates text in the page, which the content policy forbids.
        eventually(lambda: self.page.evaluate(script), script)

    def wait_text(self, element: str, part: str) -> None:
        """Wait until an element's text contains a part."""
        self.wait(f"document.getElementById('{element}').textContent.includes({part!r})")

    def wait_live(self) -> None:
        self.wait("document.getElementById('connection').dataset.state === 'live'")

    def text(self, selector: str) -> str:
        found: str = self.page.inner_text(selector)
        return found


def spend(sidecar: Sidecar, user: str, count: int) -> None:
    for _ in range(count):
        get(sidecar.port, "/api/data", f"X-User-ID: {user}")


def test_live_traffic_is_drawn_and_buckets_are_inspected_reset_and_explained(
    browser: Any, config: Config, tmp_path: Path
) -> None:
    with Sidecar(config) as sidecar:
        page = DashboardPage(browser, sidecar.admin_port, viewport={"width": 1200, "height": 1300})
        page.wait_live()
        spend(sidecar, "alice", 8)
        page.wait("document.querySelectorAll('#requests-chart rect.r429').length > 0")
        page.wait("document.querySelectorAll('#requests-chart rect.r2xx').length > 0")
        page.wait("document.querySelectorAll('#latency-chart polyline.p99').length > 0")
        page.wait_text("policy-rows", "63 %")  # 5 of 8
        rows = page.text("#policy-rows").split("\n")
        assert rows[0].split("\t") == ["users", "1/day, burst 3", "8", "5", "63 %", "0"], "most refusals first"
        name, *_, refused, share, shadow_refused = rows[1].split("\t")
        assert (name, refused, share) == ("trial (shadow)", "0", "0 %")
        assert int(shadow_refused) >= 2
        page.wait_text("most-refused", "alice")

        page.page.focus("#requests-chart")
        for _ in range(30):
            page.page.keyboard.press("ArrowLeft")
        assert "no data" in page.text("#requests-readout") or "/s" in page.text("#requests-readout")
        page.page.hover("#latency-chart")
        page.wait("/p99|no data/.test(document.getElementById('latency-readout').textContent)")
        page.page.click("#range input[value='900']")
        page.wait_text("policies-range", "15 min")

        page.page.click("#most-refused button")
        page.wait_text("bucket-result", "0 of 3 tokens")
        page.page.click("#bucket-reset")
        page.page.click("#reset-no")
        page.page.click("#bucket-reset")
        page.page.click("#reset-yes")
        page.wait_text("bucket-result", "3 of 3 tokens")
        assert "Reset." in page.text("#bucket-result")
        assert get(sidecar.port, "/api/data", "X-User-ID: alice").status == 200

        page.page.fill("#bucket-key", "ali")
        page.page.click("#bucket-form button:not([type=button])")
        page.wait_text("bucket-list", "alice")

        page.page.fill("#explain-url", "/api/data")
        page.page.fill("#explain-headers", "X-User-ID: alice")
        page.page.click("#explain-form button")
        page.wait_text("explain-result", "2 of 3 tokens now")

        page.page.click("#config-details summary")
        page.wait_text("config-text", '"name": "users"')
        page.page.screenshot(path=str(tmp_path / "dashboard.png"), full_page=True)
        assert page.faults == []
        assert page.hosts == {f"127.0.0.1:{sidecar.admin_port}"}
        page.context.close()


def test_without_requests_all_parts_are_up_and_no_share_is_shown(browser: Any, config: Config) -> None:
    with Sidecar(config) as sidecar:
        page = DashboardPage(browser, sidecar.admin_port)
        page.wait_text("application-word", "up")
        assert (page.text("#store-word"), page.text("#config-word"), page.text("#rate")) == ("up", "ok", "0")
        assert page.page.is_hidden("#problems")
        assert page.text("#responses").count("\N{EN DASH}") == 4
        assert "version" in page.text("#about")
        page.context.close()


def test_an_edit_with_errors_is_shown_with_its_fault_and_the_way_to_the_runbook(browser: Any, config: Config) -> None:
    with Sidecar(config) as sidecar:
        sidecar.may_complain = True  # the refused edit is logged as an error
        page = DashboardPage(browser, sidecar.admin_port)
        page.wait_live()
        sidecar.config_file.write_text("policies: 1")
        page.wait_text("problems", "edit of the configuration was refused")
        page.wait_text("config-word", "edit refused")
        assert "policies" in page.text("#config-reason")
        assert "policies" in page.text("#config-faults")
        link = page.page.get_attribute("#problems a", "href")
        page.page.goto(f"http://127.0.0.1:{sidecar.admin_port}{link}")
        assert page.page.locator(f"[id='{link.partition('#')[2]}']").count() == 1
        assert page.faults == []
        page.context.close()


def test_an_application_that_is_down_is_red_with_its_reason_and_one_that_fails_as_well(
    browser: Any, config: Config
) -> None:
    recorder = Recorder()
    recorder.always(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
    config["upstream"]["url"] = recorder.url
    with Sidecar(config) as sidecar:
        page = DashboardPage(browser, sidecar.admin_port)
        page.wait_live()
        spend(sidecar, "alice", 3)
        page.wait_text("application-word", "failing")
        page.wait_text("problems", "3 answered 5xx")
        recorder.stop()

        def is_down() -> bool:
            spend(sidecar, "bob", 1)
            return page.text("#application-word") == "down"

        eventually(is_down, "the application's tile")
        page.wait_text("problems", "application is down")
        assert "refused" in page.text("#application-reason").lower()
        assert "bad" in page.page.get_attribute("#application-word", "class")
        page.wait_text("marks", "Application down")
        page.context.close()


def test_with_application_and_store_down_both_are_named_each_with_its_runbook(browser: Any, config: Config) -> None:
    config["upstream"]["url"], config["store"]["url"] = (f"{scheme}://127.0.0.1:{free_port()}" for scheme in URLS)
    with Sidecar(config) as sidecar:
        page = DashboardPage(browser, sidecar.admin_port, path=f"?peers=http://127.0.0.1:{sidecar.admin_port}")
        page.wait("document.querySelectorAll('#problems li').length === 2")
        first, second = page.page.locator("#problems li").all_inner_texts()
        assert "The application is down" in first
        assert "The store is not connected" in second
        links = page.page.eval_on_selector_all("#problems a", "all => all.map(each => each.getAttribute('href'))")
        assert links == ["/runbook#the-application-is-down", "/runbook#redis-is-down"]
        page.wait("document.querySelectorAll('#fleet tr').length === 4")  # both, and what is wrong with the peer
        page.context.close()


@pytest.mark.long
def test_a_slow_application_is_shown_with_its_time_until_it_is_fast_again(browser: Any, config: Config) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    recorder = Recorder()
    recorder.always(1.1, answer)
    config["upstream"]["url"] = recorder.url
    with Sidecar(config) as sidecar:
        page = DashboardPage(browser, sidecar.admin_port)
        page.wait_live()
        spend(sidecar, "alice", 2)
        page.wait_text("application-word", "slow")
        page.wait_text("problems", "The application is slow: half of its answers take")
        assert "half of its answers take 1." in page.text("#application-reason")
        assert page.page.get_attribute("#problems a", "href") == "/runbook#the-application-fails-or-is-slow"
        recorder.always(answer)
        for number in range(8):
            spend(sidecar, f"user-{number}", 1)
        page.wait_text("application-word", "up")
        page.wait("document.getElementById('problems').hidden")
        page.context.close()
    recorder.stop()


def test_peers_of_the_query_are_shown_side_by_side(browser: Any, config: Config) -> None:
    with Sidecar(config) as sidecar:
        own = f"http://127.0.0.1:{sidecar.admin_port}"
        page = DashboardPage(browser, sidecar.admin_port, path=f"?peers={own},http://127.0.0.1:{free_port()}")
        page.wait("document.querySelectorAll('#fleet tr').length === 3")
        assert page.text("#fleet").count("up") == 4
        assert "no connection: Connection refused" in page.text("#fleet")
        other = DashboardPage(browser, sidecar.admin_port, path="?peers=http://192.0.2.1:9901")
        other.wait_text("fleet", "peers: expected")
        page.context.close()
        other.context.close()


def test_the_page_reconnects_after_a_restart_of_the_sidecar_and_shows_the_gap(browser: Any, config: Config) -> None:
    with Sidecar(config) as first:
        page = DashboardPage(browser, first.admin_port)
        page.wait_live()
    page.wait("document.getElementById('connection').dataset.state === 'lost'")
    page.wait_text("problems", "no connection to the sidecar, and all that it shows is from before")
    assert page.page.get_attribute("#main", "class") == "outdated"
    with Sidecar(config) as second:
        page.wait_live()
        page.wait("document.getElementById('problems').hidden")
        assert page.page.get_attribute("#main", "class") == ""
        spend(second, "bob", 4)
        page.wait_text("policy-rows", "25 %")  # 1 of 4
        page.wait("document.querySelectorAll('#requests-chart rect.gap').length > 0")
        page.wait_text("marks", "Sidecar started")
        # The browser itself reports the failed attempts; the page reports nothing.
        assert all("net::ERR_" in fault for fault in page.faults), page.faults
        page.context.close()


@pytest.mark.long
def test_a_sidecar_that_hangs_is_shown_as_lost_until_it_runs_again(browser: Any, config: Config) -> None:
    with Sidecar(config) as sidecar:
        page = DashboardPage(browser, sidecar.admin_port)
        page.wait_live()
        os.kill(sidecar.process.pid, signal.SIGSTOP)
        try:
            page.wait_text("problems", "no connection to the sidecar")
        finally:
            os.kill(sidecar.process.pid, signal.SIGCONT)
        page.wait_live()
        page.wait("document.getElementById('problems').hidden")
        assert page.faults == []
        page.context.close()


@pytest.mark.long
def test_an_outage_of_the_store_is_shown_with_its_effect_until_it_is_over(
    browser: Any, config: Config, own_store_server: StoreServer, tmp_path: Path
) -> None:
    config["store"]["url"] = own_store_server.url
    modes = {"on_store_failure": "local"}, {"on_store_failure": "allow"}, {"on_store_failure": "deny"}
    config["policies"] = [
        {
            "name": name,
            "match": {"path": [f"/{name}/**"]},
            "key": "header:X-User-ID",
            "limit": "1/day",
            "burst": 3,
            **mode,
        }
        for name, mode in zip(("ours", "lax", "strict"), modes, strict=True)
    ]
    config["listen"]["workers"] = 2
    with Sidecar(config) as sidecar:
        sidecar.wait_for_event("workers_ready")
        pages = [
            DashboardPage(browser, sidecar.admin_port, viewport={"width": width, "height": 900}, color_scheme=colours)
            for width, colours in ((1400, "light"), (1400, "dark"), (390, "light"))
        ]
        page = pages[0]
        page.wait_text("store-word", "up")
        own_store_server.kill()

        def spend_again() -> bool:
            for path in ("/ours/a", "/lax/a", "/strict/a"):
                for _ in range(6):
                    get(sidecar.port, path, "X-User-ID: alice")
            return "decided by this sidecar's share" in page.text("#store-reason") and page.text("#store-word") != "up"

        eventually(spend_again, "the outcomes of the outage by name")
        for name in ("answered 503", "decided by this sidecar's share", "forwarded unchecked"):
            page.wait_text("store-reason", name)
        for part in ("on_failure: deny answer 503", "this proxy's share", "let every request pass"):
            assert part in page.text("#problems")
        assert page.page.get_attribute("#problems a", "href") == "/runbook#redis-is-down"
        assert page.page.evaluate("document.querySelectorAll('#workers tr').length") == 2
        for number, each in enumerate(pages):
            each.wait("!document.getElementById('problems').hidden")
            each.page.screenshot(path=str(tmp_path / f"outage-{number}.png"), full_page=True)
            assert each.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")

        own_store_server.start()
        page.wait("document.getElementById('store-word').textContent === 'up'")
        page.wait("document.getElementById('problems').hidden")
        page.wait_text("marks", "Store up")
        for each in pages:
            assert each.faults == []
            each.context.close()


def test_the_page_asks_for_the_token_and_fits_a_narrow_dark_screen(browser: Any, config: Config) -> None:
    config["admin"]["token"] = TOKEN
    with Sidecar(config) as sidecar:
        page = DashboardPage(browser, sidecar.admin_port, viewport={"width": 375, "height": 720}, color_scheme="dark")
        page.page.wait_for_selector("#token-form:not([hidden])")
        page.page.fill("#token", "not the token at all")
        page.page.keyboard.press("Enter")
        page.wait("document.getElementById('token-fault').textContent !== ''")
        page.page.fill("#token", TOKEN)
        page.page.keyboard.press("Enter")
        page.wait_live()
        width = page.page.evaluate("document.documentElement.scrollWidth")
        assert width <= 375, f"the page is {width} wide"
        assert all("401" in fault for fault in page.faults), page.faults
        page.context.close()


def test_every_control_has_a_name_and_is_reached_by_keyboard(browser: Any, config: Config) -> None:
    with Sidecar(config) as sidecar:
        spend(sidecar, "carol", 5)
        page = DashboardPage(browser, sidecar.admin_port)
        page.wait("document.querySelectorAll('#most-refused button').length > 0")
        nameless = page.page.evaluate(
            """() => [...document.querySelectorAll('button, input, select, textarea, summary, [role=img], a')]
                .filter((each) => !each.closest('[hidden]') && !(each.ariaLabel || each.textContent.trim()
                    || each.labels?.[0]?.textContent.trim())).map((each) => each.outerHTML)"""
        )
        assert nameless == []
        reached: set[str] = set()
        for _ in range(40):
            page.page.keyboard.press("Tab")
            reached.add(
                page.page.evaluate("document.activeElement.id || String(document.activeElement.getAttribute('class'))")
            )
        assert {
            "skip",
            "requests-chart",
            "quiet",
            "bucket-policy",
            "bucket-key",
            "explain-url",
            "explain-live",
        } <= reached
        assert page.faults == []
        page.context.close()
