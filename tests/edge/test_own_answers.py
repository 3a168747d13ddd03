"""Configured answers of the sidecar: CORS for browsers, custom pages, another status for refusals."""

import itertools
import json
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.raw_client import RawClient, get
from tests.recorder import Recorder, eventually
from tests.servers import StoreServer, free_port
from tests.sidecar import Config, Sidecar, configuration, run_command, spent

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

POLICIES: list[dict[str, object]] = [
    {
        "name": "tight",
        "match": {"path": ["/tight/**"]},
        "key": "header:X-User-ID | path",
        "limit": "1/day",
        "burst": 1,
        "overrides": [{"key": "blocked", "blocked": True}],
    },
]
EXPOSED = "Retry-After, RateLimit, RateLimit-Policy, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, X-Request-ID"
HTML = "<!doctype html><p>Try again in {retry_after_s} s ({policies}), {request_id}."
JSON = '{"again": {retry_after_s}, "by": {policies}, "id": {request_id}}'
BROWSER_ACCEPT = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.fixture(scope="module")
def page_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The origin of a web page, e.g. http://127.0.0.1:4711."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "index.html").write_text("<!doctype html><title>site</title>")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, name="site", daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    (folder / "429.html").write_text(HTML)
    (folder / "429.json").write_text(JSON)
    (folder / "502.html").write_text("<p>{retry_after_s}|{policies}|{request_id}|")
    return folder


@pytest.fixture(scope="module")
def config(shared_store_server: StoreServer, shared_recorder: Recorder, page_server: str) -> Config:
    return configuration(
        shared_store_server.url,
        shared_recorder.url,
        policies=POLICIES,
        listen={"request_id_header": "X-Request-ID", "max_body_bytes": "1KiB"},
        responses={"cors": {"origins": [page_server, "https://App.example.com:443"], "credentials": True}},
    )


@pytest.fixture(scope="module")
def shared_cors_sidecar(config: Config) -> Iterator[Sidecar]:
    with Sidecar(config) as sidecar:
        yield sidecar


@pytest.fixture
def cors_sidecar(store_server: StoreServer, recorder: Recorder, shared_cors_sidecar: Sidecar) -> Sidecar:
    return shared_cors_sidecar


@pytest.fixture(scope="module")
def shared_pages_sidecar(shared_store_server: StoreServer, shared_recorder: Recorder, pages: Path) -> Iterator[Sidecar]:
    config = configuration(
        shared_store_server.url,
        f"http://127.0.0.1:{free_port()}",
        policies=POLICIES,
        listen={"request_id_header": "X-Request-ID"},
        responses={
            "pages": {
                "429": {"html": str(pages / "429.html"), "json": str(pages / "429.json")},
                "502": {"html": str(pages / "502.html")},
            }
        },
    )
    with Sidecar(config) as sidecar:
        yield sidecar


@pytest.fixture
def pages_sidecar(store_server: StoreServer, shared_pages_sidecar: Sidecar) -> Sidecar:
    return shared_pages_sidecar


ORIGIN = "Origin: https://app.example.com"
# A bucket of its own for each case: the sidecar remembers refusals for a second.
_numbers = itertools.count()


# Fields of CORS


def test_a_refusal_can_be_read_by_an_allowed_origin_only(cors_sidecar: Sidecar) -> None:
    assert get(cors_sidecar.port, "/tight/x", ORIGIN).status == 200
    refused = get(cors_sidecar.port, "/tight/x", ORIGIN)
    assert (refused.status, refused.value("Vary")) == (429, "Origin")
    assert refused.value("Access-Control-Allow-Origin") == "https://app.example.com"
    assert refused.value("Access-Control-Allow-Credentials") == "true"
    assert refused.value("Access-Control-Expose-Headers") == EXPOSED
    for fields in ([], ["Origin: https://evil.example"], ["Origin: null"], [ORIGIN, ORIGIN], ["Origin: https://app"]):
        other = get(cors_sidecar.port, "/tight/x", *fields)
        assert (other.status, other.value("Vary")) == (429, "Origin")
        assert [name for name, _ in other.fields if name.startswith("Access-Control")] == []


def test_errors_and_pages_of_the_sidecar_can_be_read(cors_sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(b"nonsense")
    answers = [
        get(cors_sidecar.port, "/broken", ORIGIN),
        get(cors_sidecar.port, "/large", ORIGIN, method="POST", body=bytes(2000)),
        get(cors_sidecar.port, "/a/../b", ORIGIN),
        get(cors_sidecar.port, "/api/status", ORIGIN),
        get(cors_sidecar.port, "/health", ORIGIN),
        get(cors_sidecar.port, "/x", ORIGIN, "Expect: miracles"),
    ]
    assert [answer.status for answer in answers] == [502, 413, 400, 200, 200, 417]
    for answer in answers:
        assert answer.value("Access-Control-Allow-Origin") == "https://app.example.com"
        assert answer.value("Vary") == "Origin"


def test_an_answer_of_the_application_keeps_its_own_cors_fields(cors_sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: x\r\nContent-Length: 0\r\n\r\n")
    answer = get(cors_sidecar.port, "/tight/own", ORIGIN)
    assert [value for name, value in answer.fields if name.startswith("Access-Control")] == ["x"]


# Preflights

ASKS = "Access-Control-Request-Method: PUT"


def test_a_preflight_passes_uncharged(cors_sidecar: Sidecar, recorder: Recorder, store_server: StoreServer) -> None:
    fields = [ORIGIN, ASKS, "Access-Control-Request-Headers: x-user-id", "User-Agent: b", "Sec-Fetch-Mode: cors"]
    for _ in range(5):
        answer = get(cors_sidecar.port, "/tight/x", *fields, method="OPTIONS")
        assert (answer.status, answer.values("RateLimit")) == (200, [])
    assert {request.method for request in recorder.requests} == {"OPTIONS"}
    assert spent(store_server, "tight", 1) == {}


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("OPTIONS", [ORIGIN]),
        ("OPTIONS", [ASKS]),
        ("OPTIONS", ["Origin: https://evil.example", ASKS]),
        ("OPTIONS", [ORIGIN, ORIGIN, ASKS]),
        ("OPTIONS", [ORIGIN, ASKS, ASKS]),
        ("OPTIONS", [ORIGIN, "Access-Control-Request-Method: P T"]),
        ("OPTIONS", [ORIGIN, ASKS, "X-User-ID: somebody"]),
        ("OPTIONS", [ORIGIN, ASKS, "Cookie: a=b"]),
        ("OPTIONS", [ORIGIN, ASKS, "Authorization: Bearer x"]),
        ("OPTIONS", [ORIGIN, ASKS, "X-HTTP-Method-Override: DELETE"]),
        ("OPTIONS", [ORIGIN, ASKS, "Content-Length: 0"]),
        ("OPTIONS", [ORIGIN, ASKS, "Transfer-Encoding: chunked"]),
        ("GET", [ORIGIN, ASKS]),
        ("POST", [ORIGIN, ASKS]),
        ("HEAD", [ORIGIN, ASKS]),
    ],
)
def test_a_request_that_no_browser_sends_as_a_preflight_is_charged(
    method: str, fields: list[str], cors_sidecar: Sidecar, store_server: StoreServer
) -> None:
    body = b"0\r\n\r\n" if "Transfer-Encoding: chunked" in fields else b""
    with RawClient(cors_sidecar.port) as client:
        lines = "\r\n".join([f"{method} /tight/{next(_numbers)} HTTP/1.1", "Host: a", *fields, "", ""])
        client.send(lines.encode() + body)
        assert client.reply(to=method).status == 200
    assert list(spent(store_server, "tight", 1).values()) == [1]


def test_a_preflight_on_an_ambiguous_path_is_answered_400(cors_sidecar: Sidecar, recorder: Recorder) -> None:
    assert get(cors_sidecar.port, "/tight/../x", ORIGIN, ASKS, method="OPTIONS").status == 400
    assert recorder.requests == []


def test_a_preflight_of_a_blocked_address_is_refused(store_server: StoreServer, recorder: Recorder) -> None:
    policy = {**POLICIES[0], "key": "client_ip", "overrides": [{"key": "127.0.0.1", "blocked": True}]}
    cors = {"origins": ["*"]}
    config = configuration(store_server.url, recorder.url, policies=[policy], responses={"cors": cors, "status": 403})
    with Sidecar(config) as sidecar:
        blocked = get(sidecar.port, "/tight/x", ORIGIN, ASKS, method="OPTIONS")
        assert (blocked.status, blocked.reason) == (403, "Forbidden")
        assert blocked.json()["status"] == 403
        assert blocked.value("Access-Control-Allow-Origin") == "*"
        assert blocked.values("Access-Control-Allow-Credentials") == []
    assert recorder.requests == []


def test_explain_names_a_preflight(cors_sidecar: Sidecar) -> None:
    arguments = ["explain", str(cors_sidecar.config_file), "OPTIONS", "/tight/x", "-H", ORIGIN, "-H", ASKS]
    result = run_command(*arguments)
    assert "a preflight of one of responses.cors.origins is not charged" in result.stdout, result


# A real browser

FETCH = """async ([url, options]) => {
  const answer = await fetch(url, options)
  const names = ['Retry-After', 'RateLimit', 'RateLimit-Policy', 'X-RateLimit-Limit', 'X-Request-ID']
  return {status: answer.status, body: await answer.text(), fields: names.map((name) => answer.headers.get(name))}
}"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")
@pytest.mark.parametrize("credentials", ["omit", "include"])
def test_a_fetch_in_a_browser_reads_a_refusal(
    credentials: str, cors_sidecar: Sidecar, page_server: str, recorder: Recorder
) -> None:
    allows = f"Access-Control-Allow-Origin: {page_server}\r\nAccess-Control-Allow-Credentials: true\r\n"
    allows += "Access-Control-Allow-Headers: x-user-id\r\nAccess-Control-Allow-Methods: PUT\r\n"
    recorder.always(f"HTTP/1.1 200 OK\r\n{allows}Content-Length: 2\r\n\r\nok".encode())
    url = f"http://127.0.0.1:{cors_sidecar.port}/tight/x"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(page_server)
        options = {"method": "PUT", "credentials": credentials, "headers": {"X-User-ID": f"browser-{credentials}"}}
        plain_url = f"{url}-{credentials}"
        first = page.evaluate(FETCH, [url, options])
        second = page.evaluate(FETCH, [url, options])
        plain = page.evaluate(FETCH, [plain_url, {"credentials": credentials}])
        refused = page.evaluate(FETCH, [plain_url, {"credentials": credentials}])
        browser.close()
    assert (first["status"], plain["status"]) == (200, 200)
    for answer in (second, refused):
        assert (answer["status"], json.loads(answer["body"])["error"]) == (429, "rate_limit_exceeded")
        assert None not in answer["fields"]
    assert "OPTIONS" in {request.method for request in recorder.requests}


# Own pages


def exhausted(sidecar: Sidecar, *fields: str) -> Any:
    get(sidecar.port, "/tight/x", "X-User-ID: reader")
    return get(sidecar.port, "/tight/x", "X-User-ID: reader", "X-Request-ID: <i>&1", *fields)


def test_a_browser_gets_the_html_page_and_a_program_the_json_page(pages_sidecar: Sidecar) -> None:
    page = exhausted(pages_sidecar, BROWSER_ACCEPT)
    assert (page.status, page.value("Content-Type"), page.value("Vary")) == (429, "text/html; charset=utf-8", "Accept")
    wait, made_id = page.value("Retry-After"), page.value("X-Request-ID")
    assert page.body.decode() == f"<!doctype html><p>Try again in {wait} s (tight), {made_id}."
    for fields in ([], ["Accept: */*"], ["Accept: application/json"], ["Accept: text/html;q=0.1, */*"]):
        answer = exhausted(pages_sidecar, *fields)
        assert answer.value("Content-Type") == "application/json"
        assert answer.json() == {
            "again": int(answer.value("Retry-After")),
            "by": ["tight"],
            "id": answer.value("X-Request-ID"),
        }


def test_a_page_without_values_is_filled_with_nothing(pages_sidecar: Sidecar) -> None:
    page = get(pages_sidecar.port, "/x", BROWSER_ACCEPT, "X-Request-ID: abc")
    assert (page.status, page.body) == (502, b"<p>||abc|")
    head = get(pages_sidecar.port, "/x", BROWSER_ACCEPT, method="HEAD")
    assert (head.status, head.body, head.value("Content-Length")) == (502, b"", str(len("<p>|||") + 32))
    assert get(pages_sidecar.port, "/x").value("Content-Type") == "application/problem+json"
    assert get(pages_sidecar.port, "/a/../b", BROWSER_ACCEPT).value("Content-Type") == "application/problem+json"


@pytest.mark.slow
def test_pages_are_relative_to_the_configuration_and_loaded_by_a_reload(
    store_server: StoreServer, recorder: Recorder
) -> None:
    config = configuration(store_server.url, recorder.url, policies=POLICIES)
    with Sidecar(config) as sidecar:
        assert exhausted(sidecar, BROWSER_ACCEPT).value("Content-Type") == "application/problem+json"
        (sidecar.config_file.parent / "page.html").write_text("<p>own")
        edited = {**config, "responses": {"status": 503, "pages": {"503": {"html": "page.html"}}}}
        replacement = sidecar.config_file.with_name("new")
        replacement.write_text(yaml.safe_dump(edited, sort_keys=False))
        replacement.replace(sidecar.config_file)
        sidecar.wait_for_event("config_reloaded")
        page = exhausted(sidecar, BROWSER_ACCEPT)
        assert (page.status, page.body) == (503, b"<p>own")
        (sidecar.config_file.parent / "page.html").write_text("{oops}")
        replacement.write_text(yaml.safe_dump({**edited, "log": {"level": "info"}}, sort_keys=False))
        replacement.replace(sidecar.config_file)
        refused = sidecar.wait_for_event("config_refused")
        assert "has the placeholder {oops}" in str(refused[0]["faults"])
        assert exhausted(sidecar, BROWSER_ACCEPT).body == b"<p>own"
        sidecar.may_complain = True
        eventually(lambda: sidecar.events("config_refused"), "the refusal of the page")
