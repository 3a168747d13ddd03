"""The section `responses`: faults of origins, statuses and pages are named with their place."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from sidegate.config import ConfigError, Settings, load
from sidegate.config.page_files import OWN_STATUSES
from sidegate.edge.error_pages import quality
from sidegate.edge.failures import Failure

FILES: Mapping[str, bytes] = {
    "good.html": b"<style>a { b: c } p{d:e}</style>{retry_after_s} {policies} {request_id}",
    "good.json": b'{"a": {retry_after_s}, "b": {policies}, "c": [{request_id}, "{retry_after_s} s"]}',
    "unknown.html": b"{retry_after}",
    "quoted.json": b'{"id": "{request_id}"}',
    "large.html": b"x" * (64 * 1024 + 1),
    "latin.html": b"\xe9",
}


def loaded(text: str, folder: Path) -> Settings:
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    file = folder / "c.yaml"
    file.write_text(f"{text}\n")
    return load(file, {})


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "cors: {origins: [app.example.com]}",
            "responses.cors.origins[0]: 'app.example.com' is not an origin; expected",
        ),
        ("cors: {origins: ['https://a.test/x']}", "'https://a.test/x' is not an origin"),
        ("cors: {origins: ['null']}", "'null' is not an origin"),
        ("cors: {origins: ['*'], credentials: true}", "responses.cors.credentials: browsers allow no credentials with"),
        (
            "status: 500",
            "responses.status: 500 cannot mean that a limit is reached; expected 429, 403, another 4xx, or 503",
        ),
        ("status: 401", "401 cannot mean that a limit is reached"),
        ("status: 200", "200 is not a status; expected a whole number from 400 to 599"),
        ("pages: [a]", "is no mapping; expected e.g. {429: {html: pages/429.html}}"),
        ("pages: {404: {html: good.html}}", "responses.pages.404: the sidecar makes no answer with this status"),
        ("status: 403\n  pages: {429: {html: good.html}}", "responses.pages.429: the sidecar makes no answer with"),
        ("pages: {200: {html: good.html}}", "responses.pages.200: '200' is no status of an error; expected e.g. 429"),
        ("pages: {429: good.html}", "'good.html' is no mapping; expected e.g. {html: pages/429.html}"),
        (
            "pages: {429: {htm: good.html}}",
            "responses.pages.429.htm: 'htm' is not a kind of page; expected html or json",
        ),
        ("pages: {429: {html: absent.html}}", "responses.pages.429.html: 'absent.html' cannot be read: No such file"),
        ("pages: {429: {html: .}}", "'.' cannot be read: Is a directory"),
        ("pages: {429: {html: large.html}}", "'large.html' is larger than 64 KiB"),
        ("pages: {429: {html: latin.html}}", "'latin.html' is not UTF-8"),
        (
            "pages: {429: {html: unknown.html}}",
            "'unknown.html' has the placeholder {retry_after}; expected {retry_after_s}, {policies}, {request_id}",
        ),
        ("pages: {429: {json: quoted.json}}", "'quoted.json' is not JSON once its placeholders are filled in"),
    ],
)
def test_a_fault_is_named_with_its_place(text: str, fault: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(f"responses:\n  {text}", tmp_path)
    (found,) = caught.value.faults
    assert fault in str(found)
    assert f"c.yaml:{2 + text.count(chr(10))}:" in str(found)


def test_all_faults_of_pages_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded("responses: {pages: {429: {html: a, json: b}, 503: {html: good.html}, 2: {}}}", tmp_path)
    assert len(caught.value.faults) == 3


def test_origins_are_written_as_browsers_write_them(tmp_path: Path) -> None:
    text = "responses: {cors: {origins: ['HTTPS://App.Test:443', 'http://a:80', 'http://[::1]:8080']}}"
    assert loaded(text, tmp_path).responses.cors.origins == ("https://app.test", "http://a", "http://[::1]:8080")


def test_pages_are_read_with_the_configuration(tmp_path: Path) -> None:
    settings = loaded("responses: {pages: {429: {html: good.html, json: good.json}}}", tmp_path)
    assert settings.responses.pages[429].html is not None
    assert settings.responses.model_dump(mode="json")["pages"] == {"429": {"html": "good.html", "json": "good.json"}}


def test_the_statuses_of_pages_are_those_of_failures_and_refusals() -> None:
    assert sorted({failure.status for failure in Failure} | {429}) == list(OWN_STATUSES)


@pytest.mark.parametrize(
    ("accept", "html", "data"),
    [
        ("", 1.0, 1.0),
        ("*/*", 1.0, 1.0),
        ("text/html, */*;q=0.8", 1.0, 0.8),
        ("TEXT/HTML;level=1;q=0.5,application/json", 0.5, 1.0),
        ("text/*;q=0.3", 0.3, 0.0),
        ("application/json", 0.0, 1.0),
        (";;q=1,,", 0.0, 0.0),
        ("a" * 2000, 1.0, 1.0),
        ("text/html;q=nonsense", 1.0, 0.0),
    ],
)
def test_accept_is_read_with_its_weights(accept: str, html: float, data: float) -> None:
    assert (quality(accept, "text/html"), quality(accept, "application/json")) == (html, data)
