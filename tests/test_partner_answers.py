"""A partner's answer: its status line decides, whatever follows (C24a); and the signing secret."""

import asyncio
import base64
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from conftest import StartHarness

from jobs.http_post import NoAnswer, NotConnected, Reply, post
from models.setting_values import parse_signing_secret

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def partner(
    answer: bytes, *, stays_open: bool = False, reads: bool = True
) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Run a server that sends these bytes to each request; yield its URL, and the heads that it got."""
    heads: list[bytes] = []
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if reads:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        if stays_open:
            await ended.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/leads?a=b", heads
        ended.set()


async def call(url: str, seconds: float = 20.0) -> Reply:
    return await post(url, b"{}", {"A": "b"}, connect_seconds=seconds, answer_seconds=seconds)


ACCEPTED = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200\r\n\r\n",
    b"HTTP/1.1 202 \r\n\r\n",
    b"HTTP/1.0 201 Created\n\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nno colon\r\n folded\r\n\xff: \x00\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnot chunks",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\nContent-Encoding: gzip\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncut o",
    b"HTTP/1.1 200 OK",
    b"\r\nHTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/2 200\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000,
]


@pytest.mark.parametrize("answer", ACCEPTED)
async def test_C24a_status_line_of_a_partner_decides(start_harness: StartHarness, answer: bytes) -> None:
    async with partner(answer) as (url, heads):
        harness = await start_harness(june_homes_url=url)
        await harness.building()
        await harness.lead(token="maple", listing_source="june_homes")
        (delivery,) = await harness.settled(kind="june_homes")
        assert (delivery["state"], delivery["attempts"], len(heads)) == ("delivered", 1, 1)


async def test_C24a_server_that_goes_on_after_its_status_line_is_not_waited_for() -> None:
    async with partner(b"HTTP/1.1 200 OK\r\n", stays_open=True) as (url, _):
        assert await call(url, 600.0) == Reply(200)


@pytest.mark.parametrize(
    "answer",
    [b"", b"\r\n", b"HTTP/1.1 2000 OK\r\n\r\n", b"HTTP/1.1 20\r\n\r\n", b"SSH-2.0-x\r\n" * 9]
    + [b"<html>HTTP/1.1 200 OK", b"HTTP/1.1 100 Continue\r\n\r\n", b"x" * 200_000, b"\n" * 1_000]
    + [b"HTTP/1.1 103 E\r\na: b\r\n\r\nnothing\r\n"],
)
async def test_answer_without_a_status_is_none(answer: bytes) -> None:
    async with partner(answer) as (url, _):
        with pytest.raises(NoAnswer):
            await call(url)


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 503 x\nretry-AFTER:  7 \n", b"HTTP/1.1 429\r\nA: b\r\nRetry-After: 7\r\n\r\nbody"]
)
async def test_retry_after_is_read_in_any_spelling(answer: bytes) -> None:
    async with partner(answer) as (url, _):
        assert (await call(url)).headers["retry-after"] == "7"


async def test_request_has_host_login_and_target() -> None:
    async with partner(b"HTTP/1.1 200 OK\r\n\r\n") as (url, heads):
        await call(url.replace("127.0.0.1", "us%40er:p%20w@localhost"))
        port = url.split(":")[2].partition("/")[0]
        lines = heads[0].decode().split("\r\n")
        login = base64.b64encode(b"us@er:p w").decode()
        wanted = {f"Host: localhost:{port}", f"Authorization: Basic {login}", "A: b", "Content-Length: 2"}
        assert lines[0] == "POST /leads?a=b HTTP/1.1" and wanted <= set(lines)


async def test_unreachable_partner_is_not_connected() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nothing listens
        with pytest.raises(NotConnected):
            await call(f"http://127.0.0.1:{taken.getsockname()[1]}/")
    for host in ("none.invalid", "a..b"):
        with pytest.raises(NotConnected):
            await call(f"http://{host}/")


async def test_address_that_swallows_packets_does_not_eat_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The host's first address answers nothing: its queue is full."""
    loop = asyncio.get_running_loop()
    async with partner(b"HTTP/1.1 200 OK\r\n\r\n") as (url, _):
        port = int(url.split(":")[2].partition("/")[0])
        with socket.socket() as full:
            full.bind(("127.0.0.2", port))
            full.listen(0)
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.2", port))

            async def addresses(*args: Any, **options: Any) -> list[Any]:
                family = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
                return [(*family, ("127.0.0.2", port)), (*family, ("127.0.0.1", port))]

            monkeypatch.setattr(loop, "getaddrinfo", addresses)
            assert (await call(f"http://both.test:{port}/", 60.0)).status == 200
            for filler in fillers:
                filler.close()


KEY = bytes(range(24))
TEXT = base64.b64encode(KEY).decode()


@pytest.mark.parametrize("secret", [TEXT, f"whsec_{TEXT}", f"v1,{TEXT}", f"v1,whsec_{TEXT}"])
def test_secret_is_read_as_the_reference_libraries_do(secret: str) -> None:
    assert parse_signing_secret(secret) == KEY


@pytest.mark.parametrize("secret", ["correct horse battery", "pass-word!", "ünïcode", "hello", "hellos"])
def test_secret_that_is_no_base64_is_the_key_itself(secret: str) -> None:
    assert parse_signing_secret(secret) == secret.encode()


@pytest.mark.parametrize("secret", ["whsec_", "whsec_a b", "v1,", "v1,whsec_", "v1,x!"])
def test_marked_secret_that_is_no_base64_is_refused(secret: str) -> None:
    with pytest.raises(ValueError):
        parse_signing_secret(secret)
