"""Static files and their errors: odd paths, methods, ranges and caching. Errors of pages are JSON."""

import io
import logging
import socket

import pytest
from conftest import ServerHarness, StartHarness
from leads_sandbox import Sandbox
from raw_request import Answer, ask

from handlers.access_log import AccessLog
from handlers.log import LogHandler, TextFormatter
from handlers.static import FOLDER, POLICY

ICON = (FOLDER / "icon.svg").read_bytes()

ODD_PATHS = [
    "%00",
    "icon.svg%00",
    "%00/icon.svg",
    "%ff",
    "icon.svg%ff",
    "%ed%a0%80",
    "%F0%9F%98%80",
    "%e2%80%ae",
    "a" * 256,
    "%41" * 5_000,
    "a/" * 3_000,
    "",
    "docs",
    "docs/",
    ".",
    "..",
    "../server.py",
    "%2e%2e/server.py",
    "..%2f..%2fetc%2fpasswd",
    "docs/../../server.py",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "..%5cserver.py",
    "icon.svg/x",
    "icon.svg%0a",
    "%0d%0aSet-Cookie:%20a=b",
    "~root",
    "%",
    "%zz",
]


def send(sandbox: Sandbox, request: str) -> Answer:
    """Send a request line to the sandbox as it is."""
    host, _, port = sandbox.url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port))) as connection, connection.makefile("rb") as answer:
        head = f"{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        connection.sendall(head.encode())
        return Answer(answer.read())


@pytest.mark.parametrize("path", ODD_PATHS)
async def test_an_odd_path_of_a_file_is_an_error_in_json(harness: ServerHarness, path: str) -> None:
    answer = await ask(harness, f"/static/{path}")
    assert answer.status in (400, 403, 404) and answer.is_json_error()


@pytest.mark.parametrize("page", ["", "docs", "openapi.json", "livez", "readyz", "thank-you", "static"])
@pytest.mark.parametrize("odd", ["%00", "%ff", "/%00", "/..", "%0a", "a" * 5_000, "/%ed%a0%80", "\\"])
async def test_an_odd_path_beside_a_page_is_404_in_json(harness: ServerHarness, page: str, odd: str) -> None:
    answer = await ask(harness, f"/{page}{odd}")
    assert answer.status in (400, 403, 404) and answer.is_json_error()


@pytest.mark.parametrize("page", ["docs", "openapi.json", "livez", "readyz", "static/icon.svg"])
@pytest.mark.parametrize("query", ["%00", "%ff=%ff", "a=%ed%a0%80", "&;=" * 300])
async def test_an_odd_query_of_a_page_is_ignored(harness: ServerHarness, page: str, query: str) -> None:
    assert (await ask(harness, f"/{page}?{query}")).status == 200


@pytest.mark.parametrize("path", ["/static/icon.svg", "/static/none", "/static/%00", "/docs", "/livez"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "OPTIONS", "BREW"])
async def test_a_wrong_method_of_a_page_is_405_with_allow(
    harness: ServerHarness, path: str, method: str
) -> None:
    answer = await ask(harness, path, method, "Content-Length: 0\r\n")
    assert answer.status == 405 and answer.is_json_error()
    assert answer.headers["Allow"] == ("GET, HEAD" if path.startswith("/static/") else "GET")


async def test_a_file_is_revalidated_and_safe_to_show(harness: ServerHarness) -> None:
    answer = await ask(harness, "/static/icon.svg")
    headers = answer.headers
    assert (answer.status, answer.body, headers["Content-Type"]) == (200, ICON, "image/svg+xml")
    assert headers["Cache-Control"] == "no-cache" and headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == POLICY and headers["Server"] is None
    assert len(headers["X-Request-Id"]) == 32
    for condition in (f"If-None-Match: {headers['Etag']}", f"If-Modified-Since: {headers['Last-Modified']}"):
        again = await ask(harness, "/static/icon.svg", headers=condition + "\r\n")
        assert (again.status, again.body, again.headers["Content-Type"]) == (304, b"", None)
        assert again.headers["Etag"] == headers["Etag"] and again.headers["Cache-Control"] == "no-cache"
    head = await ask(harness, "/static/icon.svg", "HEAD")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(ICON)))


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=0-3", 206, ICON[:4]),
        ("bytes=-4", 206, ICON[-4:]),
        ("bytes=5-", 206, ICON[5:]),
        ("bytes=0-", 200, ICON),
        ("nonsense", 200, ICON),
        (f"bytes={'9' * 5_000}-", 200, ICON),
    ],
)
async def test_a_range_of_a_file_is_sent(
    harness: ServerHarness, asked: str, status: int, part: bytes
) -> None:
    answer = await ask(harness, "/static/icon.svg", headers=f"Range: {asked}\r\n")
    assert (answer.status, answer.body, answer.headers["Content-Type"]) == (status, part, "image/svg+xml")


@pytest.mark.parametrize("asked", ["bytes=99999-", "bytes=-0", "bytes=5-3"])
async def test_a_range_outside_of_the_file_is_416_in_json(harness: ServerHarness, asked: str) -> None:
    answer = await ask(harness, "/static/icon.svg", headers=f"Range: {asked}\r\n")
    assert answer.status == 416 and answer.is_json_error()
    assert answer.headers["Content-Range"] == f"bytes */{len(ICON)}"


async def test_a_file_has_an_access_log_line_without_its_path(
    start_harness: StartHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lines = io.StringIO()
    log = AccessLog(LogHandler(lines, TextFormatter()))
    monkeypatch.setattr("server.AccessLog", lambda: log)
    caplog.set_level(logging.INFO, "leads")
    harness = await start_harness()
    for path in ("icon.svg", "secret-name%00"):
        answer = await ask(harness, f"/static/{path}")
        line = lines.getvalue().splitlines()[-1]
        assert f"request={answer.headers['X-Request-Id']} method=GET route=/static " in line
        assert f"status={answer.status} " in line and "secret-name" not in line


@pytest.mark.parametrize("path", [*(f"/sandbox/static/{path}" for path in ODD_PATHS), "/sandbox/%00", "//"])
def test_an_odd_path_of_the_sandbox_is_an_error_in_json(leads_sandbox: Sandbox, path: str) -> None:
    answer = send(leads_sandbox, f"GET {path}")
    assert answer.status in (400, 403, 404) and answer.is_json_error()


@pytest.mark.parametrize("path", ["/", "/sandbox", "/sandbox/static/sandbox.css", "/sandbox/api/requests"])
def test_a_wrong_method_of_the_sandbox_is_405_with_allow(leads_sandbox: Sandbox, path: str) -> None:
    answer = send(leads_sandbox, f"PUT {path}")
    assert answer.status == 405 and answer.is_json_error() and "GET" in answer.headers["Allow"]


@pytest.mark.parametrize(
    "query", ["mails?lead=" + "9" * 5_000, "mails?lead=%ff", "leads?email=%ff", "requests?after=nan"]
)
def test_an_odd_query_of_the_sandbox_is_400(leads_sandbox: Sandbox, query: str) -> None:
    answer = send(leads_sandbox, f"GET /sandbox/api/{query}")
    assert answer.status == 400 and answer.is_json_error()


def test_the_sandbox_begins_at_its_page(leads_sandbox: Sandbox) -> None:
    answer = send(leads_sandbox, "GET /")
    assert (answer.status, answer.headers["Location"]) == (302, "/sandbox")
    assert answer.headers["Server"] is None
