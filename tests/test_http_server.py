"""The connection limit of the HTTP server: connections over it wait, and are served in order."""

import asyncio
import errno
import json
import logging
import os
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
from conftest import ServerHarness, StartHarness, until
from server_process import ROOT

from handlers import http_server
from handlers.http_server import MAX_ACCEPTED_AT_ONCE, RESERVED_DESCRIPTORS

REQUEST = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
MESSAGE = "no more connections are taken for now"


class Client:
    """Client with one kept-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def request(self) -> bytes:
        """Send a request and return the answer; empty if the server has closed the connection."""
        try:
            self._writer.write(REQUEST)
            return await self._reader.readuntil(b"}")
        except (OSError, asyncio.IncompleteReadError):
            return b""

    async def close(self) -> None:
        self._writer.close()
        await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)


@asynccontextmanager
async def clients(url: str, count: int) -> AsyncIterator[list[Client]]:
    """Connect `count` clients, one after another."""
    port = int(url.rpartition(":")[2])
    found = [Client(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(count)]
    try:
        yield found
    finally:
        for client in found:
            await client.close()


def queued_connection(url: str) -> socket.socket:
    """Open a connection that waits in the system's queue, as the server has no turn to accept it."""
    return socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))


def open_connections(harness: ServerHarness) -> int:
    """Return how many accepted connections are open."""
    return len(harness.server._http._connections)


def warnings_of(caplog: pytest.LogCaptureFixture, reason: str) -> list[logging.LogRecord]:
    """Return the records of the connection limit's warning; all have this reason."""
    found = [record for record in caplog.records if record.getMessage() == MESSAGE]
    assert {record.__dict__["reason"] for record in found} <= {reason}
    return found


@pytest.fixture
def limit_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 3)


async def test_connection_over_limit_waits_until_another_closes(
    limit_of_three: None, start_harness: StartHarness
) -> None:
    harness = await start_harness()
    async with clients(harness.url, 6) as [*first, fourth, fifth, sixth]:
        for client in first:
            assert (await client.request()).startswith(b"HTTP/1.1 200 ")
        waiting = [asyncio.ensure_future(client.request()) for client in (fourth, fifth, sixth)]
        for client in first:  # open connections are still served
            assert (await client.request()).startswith(b"HTTP/1.1 200 ")
        assert open_connections(harness) == 3 and not any(answer.done() for answer in waiting)
        for client, answer in zip(first, waiting, strict=True):
            await client.close()
            assert (await answer).startswith(b"HTTP/1.1 200 ")  # in the order of their connecting
            assert open_connections(harness) <= 3


async def test_every_request_of_many_connections_is_answered(
    limit_of_three: None, start_harness: StartHarness
) -> None:
    harness = await start_harness(rate_limit="1000/1")

    async def post(number: int) -> int:
        answer = await harness.post({"tour_request": {"requestor_email": f"{number}@renter.test"}})
        return int(json.loads(answer.body)["id"])

    found = await asyncio.gather(*(post(number) for number in range(60)))
    assert sorted(found) == list(range(1, 61))


async def test_has_single_client_until_another_connection_sends_a_request(
    start_harness: StartHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness, loop = await start_harness(), asyncio.get_running_loop()
    now, alone = loop.time(), []
    monkeypatch.setattr(loop, "time", lambda: now)
    async with clients(harness.url, 2) as [a, b]:
        for client, later in ((a, 0), (a, 0), (b, 0.001), (a, 0), (a, 0.001), (a, 1), (b, 1)):
            now += later
            await client.request()
            alone.append(harness.server._http.has_single_client)
    assert alone == [True, True, False, False, False, True, True]


async def test_connection_limit_is_logged_at_most_once_a_second(
    limit_of_three: None,
    start_harness: StartHarness,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert http_server.RETRY_ACCEPT_SECONDS == 1
    monkeypatch.setattr(http_server, "RETRY_ACCEPT_SECONDS", 10.0**9)  # longer than the test
    harness = await start_harness()
    for _ in range(5):
        async with clients(harness.url, 5) as [*first, fourth, fifth]:
            for client in first:
                await client.request()
            waiting = asyncio.gather(fourth.request(), fifth.request())
            for client in first:
                await client.close()
            await waiting
        await until(lambda: open_connections(harness) == 0)
    [line] = warnings_of(caplog, "there are as many as there is room for")
    assert (line.levelno, line.__dict__["connections"]) == (logging.WARNING, 3)


async def test_server_at_connection_limit_stops(limit_of_three: None, start_harness: StartHarness) -> None:
    harness = await start_harness()
    async with clients(harness.url, 5) as [*first, fourth, fifth]:
        for client in first:
            await client.request()
        waiting = asyncio.gather(fourth.request(), fifth.request())
        url = harness.url
        await harness.server.stop()
        assert list(await waiting) == [b"", b""]  # closed, not left open
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    await harness.start()


async def test_stop_serves_the_requests_in_the_systems_queue(start_harness: StartHarness) -> None:
    harness = await start_harness()
    waiting = [queued_connection(harness.url) for _ in range(MAX_ACCEPTED_AT_ONCE + 2)]
    for each in waiting:
        each.sendall(b"GET /livez HTTP/1.1\r\nHost: leads.test\r\n\r\n")
    silent = queued_connection(harness.url)  # is not waited for
    await harness.server.stop()
    for each in waiting:
        answer = each.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 200 ") and b"\r\nConnection: close\r\n" in answer
        each.close()
    silent.close()
    await harness.start()


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Leave this process, and so the server, no free file descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_free_descriptors_open_connections_are_served(
    start_harness: StartHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http_server, "RETRY_ACCEPT_SECONDS", 0.01)
    harness = await start_harness()
    async with clients(harness.url, 1) as [served]:
        assert await served.request()
        waiting = queued_connection(harness.url)
        with no_descriptor_left():
            late = Client(*await asyncio.open_connection(sock=waiting))
            answer = asyncio.ensure_future(late.request())
            await until(
                lambda: len(warnings_of(caplog, os.strerror(errno.EMFILE))) >= 3
            )  # each after a retry
            assert (await served.request()).startswith(b"HTTP/1.1 200 ")
            assert open_connections(harness) == 1 and not answer.done()
        assert (await answer).startswith(b"HTTP/1.1 200 ")
        await late.close()


async def test_accept_pauses_without_descriptors_until_a_connection_closes(
    start_harness: StartHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http_server, "RETRY_ACCEPT_SECONDS", 10.0**9)
    harness = await start_harness()
    async with clients(harness.url, 2) as [served, leaving]:
        assert await served.request() and await leaving.request()
        waiting = queued_connection(harness.url)
        with no_descriptor_left():
            late = Client(*await asyncio.open_connection(sock=waiting))
            answer = asyncio.ensure_future(late.request())
            await until(lambda: warnings_of(caplog, os.strerror(errno.EMFILE)))
            for _ in range(20):
                assert await served.request()
            assert not answer.done() and not harness.server._http._accepting
            await leaving.close()
            assert (await answer).startswith(b"HTTP/1.1 200 ")
        await late.close()
    assert len(warnings_of(caplog, os.strerror(errno.EMFILE))) == 1


async def test_server_paused_without_descriptors_stops(
    start_harness: StartHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http_server, "RETRY_ACCEPT_SECONDS", 10.0**9)
    harness = await start_harness()
    stopped = harness.server
    waiting = queued_connection(harness.url)
    with no_descriptor_left():
        late = Client(*await asyncio.open_connection(sock=waiting))
        await until(lambda: warnings_of(caplog, os.strerror(errno.EMFILE)))
        await stopped.stop()
    stopped._http._resume()  # the retry that was scheduled finds no listener
    assert await late.request() == b""
    await late.close()
    await harness.start()
    assert (await harness.request("GET", "/livez")).code == 200


@pytest.mark.parametrize(
    ("soft", "hard", "room"),
    [(80, 200, 200 - RESERVED_DESCRIPTORS), (80, 65, 1), (40, 40, 1), (90, 20_000, 4_000)],
)
def test_connection_limit_follows_descriptor_limit(soft: int, hard: int, room: int) -> None:
    if hard > resource.getrlimit(resource.RLIMIT_NOFILE)[1] != resource.RLIM_INFINITY:
        pytest.skip("this machine allows a process fewer descriptors")
    done = subprocess.run(
        ["bash", "-c", f'ulimit -Sn {min(soft, hard)}; ulimit -Hn {hard}; exec "$@"', "bash", sys.executable]
        + ["-c", "from handlers.http_server import *; print(max_connections_allowed())"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{room}\n"
