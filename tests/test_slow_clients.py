"""Slow, silent and early-leaving clients: the server closes them, and they delay no other client."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator

import pytest
from conftest import LEADS, ServerHarness, StartHarness, until

import server

HEAD = f"POST {LEADS} HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture
def short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client timeout of 0.2 seconds."""
    monkeypatch.setattr(server, "SLOW_CLIENT_SECONDS", 0.2)


def test_client_timeout_is_15_seconds() -> None:
    assert server.SLOW_CLIENT_SECONDS == 15


@pytest.mark.parametrize(
    "start", ["", "POST", HEAD, HEAD + "Content-Length: 10\r\n\r\n", HEAD + "Content-Length: 10\r\n\r\n{"]
)
async def test_client_that_stops_mid_request_is_closed(
    short_timeout: None, start_harness: StartHarness, start: str
) -> None:
    harness = await start_harness()
    assert await harness.raw(start.encode()) == b""
    assert await harness.leads() == []
    assert (await harness.request("GET", "/livez")).code == 200


async def test_client_that_drips_its_body_is_closed(short_timeout: None, start_harness: StartHarness) -> None:
    harness = await start_harness()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(harness.url.rpartition(":")[2]))
    writer.write(f"{HEAD}Content-Length: 60000\r\n\r\n".encode())
    closed = asyncio.ensure_future(reader.read())
    while not closed.done():
        writer.write(b" ")
        await asyncio.sleep(0.02)
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_silent_clients_do_not_delay_others(harness: ServerHarness) -> None:
    port = int(harness.url.rpartition(":")[2])
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
    for number, (_, writer) in enumerate(silent):
        writer.write((HEAD + "Content-Length: 100\r\n\r\n{")[: number * 2].encode())
    for expected in range(1, 20):
        assert await harness.lead(token="maple") == expected
    for _, writer in silent:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


@pytest.mark.parametrize("size", [65_537, 1_000_000, 1_048_577, 50_000_000])
async def test_C16_client_that_sends_too_much_can_read_413(harness: ServerHarness, size: int) -> None:
    """The client reads while it sends, as browsers and curl do."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(harness.url.rpartition(":")[2]))
    writer.write(
        f"{HEAD}Connection: close\r\nContent-Length: {size}\r\n\r\n".encode() + b" " * min(size, 1_000_000)
    )
    answer = await reader.readuntil(b"}")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"].startswith("the body is too large")
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_C16_client_that_sends_too_many_chunks_can_read_413(harness: ServerHarness) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(harness.url.rpartition(":")[2]))
    writer.write(
        f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode() + b"fffff\r\n" + b" " * 0xFFFFF + b"\r\n"
    )
    writer.write(b"fffff\r\n" + b" " * 0xFFFFF)
    answer = await reader.readuntil(b"}")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.count(b"HTTP/1.1") == 1
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_connection_stays_usable_after_an_error(harness: ServerHarness) -> None:
    good = json.dumps({"token": "maple", "tour_request": {"requestor_email": "a@b.test"}})
    bad = "{" * 100
    requests = [
        f"POST /api/none HTTP/1.1\r\nHost: x\r\nContent-Length: {len(bad)}\r\n\r\n{bad}",
        f"{HEAD}Content-Length: 70000\r\n\r\n{' ' * 70_000}",
        f"{HEAD}Origin: https://evil.test\r\nContent-Length: {len(good)}\r\n\r\n{good}",
        f"{HEAD}Content-Length: {len(good)}\r\nConnection: close\r\n\r\n{good}",
    ]
    answers = await harness.raw("".join(requests).encode())
    assert re.findall(rb"HTTP/1\.1 (\d+) ", answers) == [b"404", b"413", b"403", b"201"]


async def test_slow_reader_gets_the_same_bytes_as_a_fast_one(harness: ServerHarness) -> None:
    ask, last = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n", b"Connection: close\r\n"
    answer = await harness.raw(ask + last + b"\r\n")
    more = 8_000_000 // len(answer)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", int(harness.url.rpartition(":")[2])))
        await loop.sock_sendall(client, (ask + b"\r\n") * more + ask + last + b"\r\n")
        await until(lambda: any(c.stream.writing() for c in harness.server._http._connections))
        read = b"".join([chunk async for chunk in _chunks(loop, client)])
    expected = answer.replace(last, b"") * more + answer
    of_each = rb"(Date|X-Request-Id): .*"
    assert re.sub(of_each, b"", read) == re.sub(of_each, b"", expected)


async def _chunks(loop: asyncio.AbstractEventLoop, client: socket.socket) -> AsyncIterator[bytes]:
    while chunk := await loop.sock_recv(client, 65_536):
        yield chunk


async def test_client_that_reads_no_answers_is_closed(
    short_timeout: None, start_harness: StartHarness
) -> None:
    harness = await start_harness(rate_limit="1000000/1")
    port = int(harness.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setblocking(False)
        sent = (HEAD + "Content-Length: 2\r\n\r\n{}").encode() * 100

        async def send_forever() -> None:
            while True:
                await asyncio.get_running_loop().sock_sendall(client, sent)

        with pytest.raises(OSError):  # the server closes, once it can write no more
            await send_forever()
    assert (await harness.request("GET", "/livez")).code == 200
