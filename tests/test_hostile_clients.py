"""Costs of one request before it is judged: its head, its packets, and a body for a page (C30)."""

import asyncio
import json
import re
import socket
from collections.abc import Callable

import pytest
from conftest import LEADS, ServerHarness, StartHarness, until
from leads_sandbox import Sandbox
from server_process import started

from handlers import client_stream
from handlers.api.large_bodies import LARGE_BODY_BYTES, LargeBodies
from handlers.api.rate_limit import RateLimiter
from handlers.client_stream import FREE_READS, MAX_HEAD_BYTES, ClientStream
from handlers.connection_shares import ConnectionShares
from handlers.http_connection import MAX_HEADER_LINES, MAX_THROTTLED
from handlers.page_request import REQUESTS_A_PAGE
from models.setting_values import Rate

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
BODY = json.dumps({"token": "maple", "tour_request": {"requestor_email": "jane@renter.test"}}).encode()
START = f"POST {LEADS} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\nConnection: close\r\n".encode()
ORIGIN = b"Origin: https://maple.test\r\n"


def status_of(answer: bytes) -> int:
    """Return the status of the only answer in these bytes."""
    [status] = re.findall(rb"HTTP/1\.1 (\d+) ", answer)
    return int(status)


def error_of(answer: bytes) -> str:
    """Return the error of an answer in JSON."""
    return str(json.loads(answer.partition(b"\r\n\r\n")[2])["error"])


def padded(head: bytes, size: int) -> bytes:
    """Return the head with one more header, so that it has this size with the empty line."""
    return head + b"X-Long: " + b"x" * (size - len(head) - 12) + b"\r\n\r\n"


def with_lines(head: bytes, count: int) -> bytes:
    """Return the head with so many headers, and the empty line."""
    return head + b"".join(b"x%d:\r\n" % n for n in range(count - head.count(b"\n") + 1)) + b"\r\n"


@pytest.mark.parametrize("head", [padded(START, MAX_HEAD_BYTES), with_lines(START, MAX_HEADER_LINES)])
async def test_C30_largest_head_is_taken(harness: ServerHarness, head: bytes) -> None:
    assert status_of(await harness.raw(head + BODY)) == 201


TOO_LARGE = {
    "one byte more": padded(START + ORIGIN, MAX_HEAD_BYTES + 1),
    "one line more": with_lines(START + ORIGIN, MAX_HEADER_LINES + 1),
    "a long header": padded(START + ORIGIN, 65_000),
    "tiny headers": with_lines(START + ORIGIN, 9_000),
    "bare line feeds": with_lines(START + ORIGIN, 9_000).replace(b"\r\n", b"\n"),
    "no end": padded(START + ORIGIN, 70_000)[:-2],
    "one name, many times": START + ORIGIN + b"Cookie: a=b\r\n" * 2_000 + b"\r\n",
    "malformed headers": START + ORIGIN + b": \r\n" * 200 + b"\x00\xff\r\n \r\n" * 200 + b"\r\n",
    "chunked": with_lines(START.replace(b"Content-Length: ", b"Transfer-Encoding: chunked\r\nX: "), 200),
}


@pytest.mark.parametrize("kind", TOO_LARGE)
async def test_C30_too_large_head_is_431_in_json(harness: ServerHarness, kind: str) -> None:
    answer = await harness.raw(TOO_LARGE[kind])
    assert status_of(answer) == 431 and error_of(answer).startswith("the request's headers are too large")
    for header in (
        b"RateLimit-Limit: ",
        b"X-Request-Id: ",
        b"Link: </docs#status-431>",
        b"Connection: close",
    ):
        assert header in answer
    allowed = b"Access-Control-Allow-Origin: https://maple.test\r\n"
    assert (allowed in answer) == (kind != "chunked")
    assert await harness.lead() == 1


async def test_C30_request_line_without_end_is_431(harness: ServerHarness) -> None:
    assert status_of(await harness.raw(f"POST {LEADS}?".encode() + b"a" * 20_000)) == 431


async def test_C28_too_large_head_takes_a_token(start_harness: StartHarness) -> None:
    harness = await start_harness(rate_limit="3/1000")
    await harness.building(websites=["https://maple.test"])
    answers = [await harness.raw(TOO_LARGE["tiny headers"]) for _ in range(4)]
    assert [status_of(answer) for answer in answers] == [431, 431, 431, 429]


@pytest.mark.parametrize("path", ["/livez", "/docs", "/static/lead-form.js", "/nothing", "//", "*"])
async def test_too_large_head_of_a_page_is_431_in_json(harness: ServerHarness, path: str) -> None:
    answer = await harness.raw(with_lines(f"GET {path} HTTP/1.1\r\nHost: x\r\n".encode(), 101))
    assert status_of(answer) == 431 and error_of(answer)


def test_too_large_head_of_the_sandbox_is_431(leads_sandbox: Sandbox) -> None:
    port = int(leads_sandbox.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(with_lines(b"POST /sandbox/api/reset HTTP/1.1\r\nHost: localhost\r\n", 101))
        assert status_of(client.recv(65_536)) == 431


async def test_request_behind_another_in_one_packet_has_a_head_of_its_own(harness: ServerHarness) -> None:
    first = START.replace(b"Connection: close\r\n", b"")
    sent = (padded(first, 16_000) + BODY) * 4 + padded(START, MAX_HEAD_BYTES) + BODY
    assert re.findall(rb"HTTP/1\.1 (\d+) ", await harness.raw(sent)) == [b"201"] * 5


class Drip:
    """Client that sends its bytes one by one, each in a packet of its own."""

    def __init__(self, harness: ServerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads = 0  # of the server, that brought bytes
        self._port = int(harness.url.rpartition(":")[2])
        read = ClientStream.read_from_fd

        def count(stream: ClientStream, buf: bytearray | memoryview) -> int | None:
            size = read(stream, buf)
            self.reads += bool(size)
            return size

        monkeypatch.setattr(ClientStream, "read_from_fd", count)

    async def send(self, data: bytes, first: bytes = b"") -> asyncio.StreamReader:
        """Send these bytes; `first` goes ahead of them in one packet."""
        reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        self.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if first:
            self.writer.write(first)
            await until(lambda: self.reads == 1)
        for byte in data:
            self.writer.write(bytes((byte,)))
            for _ in range(3):
                await asyncio.sleep(0)
        return reader

    async def close(self) -> None:
        """Close the connection."""
        self.writer.close()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)


@pytest.mark.parametrize(
    ("first", "data"),
    [
        (b"", START + b"X-A: " + b"a" * 300),
        (START + b"X-A: " + b"a" * 10_000, b"a" * 300),
        (START.replace(b"Content-Length: ", b"Content-Length: 9") + b"\r\n", b"a" * 300),
        (
            START.replace(b"Content-Length: ", b"Transfer-Encoding: chunked\r\nX: ") + b"\r\n",
            b"1\r\na\r\n" * 50,
        ),
    ],
)
async def test_C30_dripped_bytes_are_gathered(
    harness: ServerHarness, monkeypatch: pytest.MonkeyPatch, first: bytes, data: bytes
) -> None:
    """With an endless pause the server reads no more, however many packets come."""
    monkeypatch.setattr(client_stream, "GATHER_SECONDS", 3_600.0)
    drip = Drip(harness, monkeypatch)
    await drip.send(data, first)
    assert drip.reads <= FREE_READS + 1 + len(first) // client_stream.BYTES_A_READ
    await drip.close()
    assert await harness.lead() == 1


@pytest.mark.parametrize("first", [b"", START + b"\r\n"])
async def test_request_that_comes_byte_by_byte_is_answered(
    harness: ServerHarness, monkeypatch: pytest.MonkeyPatch, first: bytes
) -> None:
    drip = Drip(harness, monkeypatch)
    reader = await drip.send((START + b"\r\n" + BODY).removeprefix(first), first)
    assert status_of(await reader.read()) == 201
    await drip.close()


async def test_large_body_in_ordinary_packets_is_not_gathered(
    harness: ServerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_stream, "GATHER_SECONDS", 3_600.0)
    body = BODY.ljust(60_000)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(harness.url.rpartition(":")[2]))
    writer.write(START.replace(str(len(BODY)).encode(), str(len(body)).encode()) + b"\r\n")
    for at in range(0, len(body), 500):
        writer.write(body[at : at + 500])
        for _ in range(3):
            await asyncio.sleep(0)
    assert status_of(await reader.read()) == 201
    writer.close()
    await writer.wait_closed()


async def test_client_that_goes_on_after_many_429s_is_disconnected(start_harness: StartHarness) -> None:
    harness = await start_harness(rate_limit="1/1000")
    await harness.building()
    request = START.replace(b"Connection: close\r\n", b"") + b"\r\n" + BODY
    answers = re.findall(rb"HTTP/1\.1 (\d+) ", await harness.raw(request * (2 * MAX_THROTTLED)))
    assert answers == [b"201", *[b"429"] * (MAX_THROTTLED + 1)]


async def test_headers_of_a_refused_request_are_dropped(harness: ServerHarness) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(harness.url.rpartition(":")[2]))
    head = START.replace(LEADS.encode(), b"/api/none") + b"Accept-Language: es\r\n"
    writer.write(padded(head, 5_000))
    in_flight = harness.server._in_flight
    await until(lambda: any(handler._error for handler in in_flight))  # type: ignore[attr-defined]
    [handler] = in_flight
    assert handler.headers == {"Accept-Language": "es"}  # type: ignore[attr-defined]
    kept = handler._connection._request_headers  # type: ignore[attr-defined]
    assert set(kept) == {"Content-Length", "Connection"}
    writer.write(BODY)
    assert status_of(await reader.read()) == 404
    writer.close()
    await writer.wait_closed()


PAGES_WITHOUT_BODY = [
    ("POST", "/livez", 405),
    ("POST", "/docs", 405),
    ("POST", "/nothing", 404),
    ("PUT", "/", 404),
    ("GET", "/livez", 413),
    ("GET", "/nothing", 413),
    ("GET", "/static/lead-form.js", 413),
]


@pytest.mark.parametrize(("method", "path", "status"), PAGES_WITHOUT_BODY)
@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 5\r\n\r\nhello",
        b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 5\r\n\r\nhello",
        b"Content-Type: multipart/form-data\r\nContent-Length: 5\r\n\r\nhello",
        b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 60000\r\n\r\n"
        + b"a=b&" * 15_000,
        b"Content-Length: 70000\r\n\r\n",  # answered before it comes
        b"Content-Length: 99999999999\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n",
        b"Content-Length: 20\r\nContent-Encoding: gzip\r\n\r\n" + b"x" * 20,
    ],
)
async def test_body_outside_the_api_is_not_read(
    harness: ServerHarness, method: str, path: str, status: int, body: bytes
) -> None:
    connection = b"" if b"70000" in body or b"999" in body or b"chunked" in body else b"Connection: close\r\n"
    answer = await harness.raw(f"{method} {path} HTTP/1.1\r\nHost: x\r\n".encode() + connection + body)
    assert status_of(answer) == status and error_of(answer)
    if path == "/nothing" or status == 413:
        assert "/api/v1/website_leads" in error_of(answer)


async def test_connection_stays_usable_after_a_short_body_for_a_page(harness: ServerHarness) -> None:
    first = b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
    answers = await harness.raw(first + START + b"\r\n" + BODY)
    assert re.findall(rb"HTTP/1\.1 (\d+) ", answers) == [b"404", b"201"]


async def test_pages_have_a_limiter_of_their_own(start_harness: StartHarness) -> None:
    harness = await start_harness(rate_limit="2/1000")
    await harness.building()
    codes = [(await harness.request("GET", "/nothing")).code for _ in range(2 * REQUESTS_A_PAGE + 1)]
    assert codes == [404] * (2 * REQUESTS_A_PAGE) + [429]
    throttled = await harness.request("GET", "/static/lead-form.js")
    assert throttled.code == 429 and int(throttled.headers["Retry-After"]) > 0
    assert json.loads(throttled.body)["error"]["message"] == "throttled"
    assert await harness.lead(token="maple") == 1  # the API's tokens are untouched
    assert {
        (await harness.request("GET", path)).code for path in ("/livez", "/readyz") for _ in range(30)
    } == {200}


def test_pages_of_the_sandbox_have_no_limit() -> None:
    with started("sandbox", rate_limit="1/1000") as program:
        sandbox = Sandbox(program.url)
        assert all(sandbox.requests.all() == [] for _ in range(2 * REQUESTS_A_PAGE))


async def test_refused_client_that_expects_100_continue_is_answered_at_once(harness: ServerHarness) -> None:
    head = b"POST /api/none HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\nExpect: 100-continue\r\n\r\n"
    assert status_of(await harness.raw(head)) == 404


async def test_one_large_body_is_read_in_a_turn_of_the_loop() -> None:
    queue, read = LargeBodies(), []
    for number in range(3):
        queue.submit(lambda number=number: read.append(number))  # type: ignore[misc]
    for turn in range(3):
        assert read == [*range(turn)]
        await asyncio.sleep(0)
    assert read == [0, 1, 2]
    queue.submit(lambda: read.append(3))
    await asyncio.sleep(0)
    assert read == [0, 1, 2, 3]


async def test_large_body_waits_for_its_turn(harness: ServerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[Callable[[], None]] = []
    monkeypatch.setattr(LargeBodies, "submit", lambda self, call: waiting.append(call))
    large = asyncio.ensure_future(harness.request("POST", LEADS, BODY.decode().ljust(LARGE_BODY_BYTES + 1)))
    await until(lambda: bool(waiting))
    assert await harness.lead() == 1  # meanwhile
    assert (await harness.request("POST", LEADS, BODY.decode().ljust(LARGE_BODY_BYTES))).code == 201
    waiting[0]()
    assert json.loads((await large).body) == {"id": 3}


def statuses_of(answers: bytes) -> list[int]:
    """Return the status of each answer in these bytes."""
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d+) ", answers)]


async def test_C30_too_large_head_takes_no_token_of_a_spoofed_address(start_harness: StartHarness) -> None:
    harness = await start_harness(trusted_proxies="127.0.0.1", rate_limit="3/1000")
    spoofed = b"GET /api/none HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.9\r\n"
    # HAProxy appends a line of its own behind those of its client.
    head = with_lines(spoofed, 101)[:-2] + b"X-Forwarded-For: 198.51.100.7\r\n\r\n"
    for _ in range(3):
        assert statuses_of(await harness.raw(head)) == [431]
    lead = START + b"X-Forwarded-For: 203.0.113.9\r\n\r\n" + BODY
    assert statuses_of(await harness.raw(lead)) == [201]


async def test_connection_stays_usable_after_a_throttled_page(start_harness: StartHarness) -> None:
    harness = await start_harness(rate_limit="1/80000")
    page = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
    assert statuses_of(await harness.raw(page * 12 + LIVEZ)) == [*[404] * 10, 429, 429, 200]


async def test_pages_limit_requests_to_health_checks_that_are_none(start_harness: StartHarness) -> None:
    harness = await start_harness(rate_limit="1/80000")
    assert {(await harness.request("POST", "/livez", "x")).code for _ in range(12)} == {405, 429}


async def test_pages_limit_too_large_heads(start_harness: StartHarness) -> None:
    harness = await start_harness(rate_limit="1/80000")
    head = with_lines(b"GET /docs HTTP/1.1\r\nHost: x\r\n", 101)
    codes = [statuses_of(await harness.raw(head))[0] for _ in range(12)]
    assert codes == [431] * 10 + [429] * 2


class Timeouts:
    """Server of a stream that is tested alone."""

    def start_timeout(self, stream: ClientStream) -> None:
        """Do nothing."""


async def test_paused_stream_that_was_never_polled_stays_open() -> None:
    client, accepted = socket.socketpair()
    accepted.setblocking(False)
    with client:
        stream = ClientStream(accepted, Timeouts(), ConnectionShares(1, RateLimiter(Rate(1, 1)), ()))
        for _ in range(FREE_READS + 1):
            client.send(b"x")
            assert await stream.read_bytes(1) == b"x"
        assert stream._gathering is not None
        stream.unread(b"GET ")  # the beginning of the next request
        stream._read_gathered()
        assert not stream.closed()
        stream.close()


async def test_large_bodies_go_on_after_a_failure() -> None:
    queue, read = LargeBodies(), []

    def fail() -> None:
        raise RuntimeError

    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    queue.submit(fail)
    queue.submit(lambda: read.append(1))
    for _ in range(4):
        await asyncio.sleep(0)
    assert read == [1]


async def test_C30_sender_of_a_long_head_behind_a_proxy_pays_itself(start_harness: StartHarness) -> None:
    harness = await start_harness(trusted_proxies="127.0.0.1", rate_limit="2/1000")
    for sender in (b"203.0.113.1", b"203.0.113.2", b"203.0.113.3"):
        head = padded(b"GET /api/none HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: " + sender + b"\r\n", 20_000)
        assert b"\r\nRateLimit-Remaining: 1\r\n" in await harness.raw(head)
