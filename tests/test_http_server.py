"""What many connections are promised: those there is room for are served, and the others in their turn."""

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
from handlers.http_server import RESERVED_DESCRIPTORS

ASK = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
MESSAGE = "no more connections are taken for now"


class Client:
    """A client that keeps its connection open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def asks(self) -> bytes:
        """Ask for something; the answer, or nothing if the server has closed the connection."""
        try:
            self._writer.write(ASK)
            return await self._reader.readuntil(b"}")
        except (OSError, asyncio.IncompleteReadError):
            return b""

    async def leaves(self) -> None:
        self._writer.close()
        await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)


@asynccontextmanager
async def clients(url: str, count: int) -> AsyncIterator[list[Client]]:
    """So many clients, connected one after the other."""
    port = int(url.rpartition(":")[2])
    found = [Client(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(count)]
    try:
        yield found
    finally:
        for client in found:
            await client.leaves()


def in_the_queue(url: str) -> socket.socket:
    """A connection that the system has made, and the server has not had the time to take."""
    return socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))


def taken(harness: ServerHarness) -> int:
    """How many connections the server has accepted and not yet seen the end of."""
    return len(harness.server._http._connections)


def told(caplog: pytest.LogCaptureFixture, reason: str) -> list[logging.LogRecord]:
    """The lines that say that no more are taken, for this reason."""
    told = [record for record in caplog.records if record.getMessage() == MESSAGE]
    assert {record.__dict__["reason"] for record in told} <= {reason}
    return told


@pytest.fixture
def room_for_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 3)


async def test_one_too_many_waits_and_is_served_when_one_ends(
    room_for_three: None, start_harness: StartHarness
) -> None:
    harness = await start_harness()
    async with clients(harness.url, 6) as [*first, fourth, fifth, sixth]:
        for client in first:
            assert (await client.asks()).startswith(b"HTTP/1.1 200 ")
        waiting = [asyncio.ensure_future(client.asks()) for client in (fourth, fifth, sixth)]
        for client in first:  # those that are in go on being served
            assert (await client.asks()).startswith(b"HTTP/1.1 200 ")
        assert taken(harness) == 3 and not any(answer.done() for answer in waiting)
        for client, answer in zip(first, waiting, strict=True):
            await client.leaves()
            assert (await answer).startswith(b"HTTP/1.1 200 ")  # in the order in which they came
            assert taken(harness) <= 3


async def test_a_crowd_is_served_to_the_last(room_for_three: None, start_harness: StartHarness) -> None:
    harness = await start_harness(rate_limit="1000/1")

    async def post(number: int) -> int:
        answer = await harness.post({"tour_request": {"requestor_email": f"{number}@renter.test"}})
        return int(json.loads(answer.body)["id"])

    found = await asyncio.gather(*(post(number) for number in range(60)))
    assert sorted(found) == list(range(1, 61))


async def test_a_lead_is_alone_until_something_comes_by_another_connection(
    start_harness: StartHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness, loop = await start_harness(), asyncio.get_running_loop()
    now, alone = loop.time(), []
    monkeypatch.setattr(loop, "time", lambda: now)
    async with clients(harness.url, 2) as [a, b]:
        for client, later in ((a, 0), (a, 0), (b, 0.001), (a, 0), (a, 0.001), (a, 1), (b, 1)):
            now += later
            await client.asks()
            alone.append(harness.server._http.has_single_client)
    assert alone == [True, True, False, False, False, True, True]


async def test_how_full_it_is_is_told_in_a_line_a_second_at_most(
    room_for_three: None,
    start_harness: StartHarness,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert http_server.RETRY_ACCEPT_SECONDS == 1
    monkeypatch.setattr(
        http_server, "RETRY_ACCEPT_SECONDS", 10.0**9
    )  # a second that the test doesn't outlast
    harness = await start_harness()
    for _ in range(5):
        async with clients(harness.url, 5) as [*first, fourth, fifth]:
            for client in first:
                await client.asks()
            waiting = asyncio.gather(fourth.asks(), fifth.asks())
            for client in first:
                await client.leaves()
            await waiting
        await until(lambda: taken(harness) == 0)
    [line] = told(caplog, "there are as many as there is room for")
    assert (line.levelno, line.__dict__["connections"]) == (logging.WARNING, 3)


async def test_a_full_house_can_be_stopped(room_for_three: None, start_harness: StartHarness) -> None:
    harness = await start_harness()
    async with clients(harness.url, 5) as [*first, fourth, fifth]:
        for client in first:
            await client.asks()
        waiting = asyncio.gather(fourth.asks(), fifth.asks())
        url = harness.url
        await harness.server.stop()
        assert list(await waiting) == [b"", b""]  # closed, not left hanging
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    await harness.start()


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """This process, which the server is in, may open nothing more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_a_descriptor_left_it_serves_those_it_has_and_looks_again(
    start_harness: StartHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http_server, "RETRY_ACCEPT_SECONDS", 0.01)
    harness = await start_harness()
    async with clients(harness.url, 1) as [served]:
        assert await served.asks()
        waiting = in_the_queue(harness.url)
        with no_descriptor_left():
            late = Client(*await asyncio.open_connection(sock=waiting))
            answer = asyncio.ensure_future(late.asks())
            await until(
                lambda: len(told(caplog, os.strerror(errno.EMFILE))) >= 3
            )  # each after a look of its own
            assert (await served.asks()).startswith(b"HTTP/1.1 200 ")
            assert taken(harness) == 1 and not answer.done()
        assert (await answer).startswith(b"HTTP/1.1 200 ")
        await late.leaves()


async def test_it_does_not_ask_again_and_again_and_goes_on_as_soon_as_one_ends(
    start_harness: StartHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http_server, "RETRY_ACCEPT_SECONDS", 10.0**9)
    harness = await start_harness()
    async with clients(harness.url, 2) as [served, leaving]:
        assert await served.asks() and await leaving.asks()
        waiting = in_the_queue(harness.url)
        with no_descriptor_left():
            late = Client(*await asyncio.open_connection(sock=waiting))
            answer = asyncio.ensure_future(late.asks())
            await until(lambda: told(caplog, os.strerror(errno.EMFILE)))
            for _ in range(20):
                assert await served.asks()
            assert not answer.done() and not harness.server._http._accepting
            await leaving.leaves()
            assert (await answer).startswith(b"HTTP/1.1 200 ")
        await late.leaves()
    assert len(told(caplog, os.strerror(errno.EMFILE))) == 1


async def test_a_stop_while_it_waits_for_descriptors_is_a_stop(
    start_harness: StartHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http_server, "RETRY_ACCEPT_SECONDS", 10.0**9)
    harness = await start_harness()
    stopped = harness.server
    waiting = in_the_queue(harness.url)
    with no_descriptor_left():
        late = Client(*await asyncio.open_connection(sock=waiting))
        await until(lambda: told(caplog, os.strerror(errno.EMFILE)))
        await stopped.stop()
    stopped._http._resume()  # the look that was still to come finds nothing to listen to
    assert await late.asks() == b""
    await late.leaves()
    await harness.start()
    assert (await harness.request("GET", "/livez")).code == 200


@pytest.mark.parametrize(
    ("soft", "hard", "room"),
    [(80, 200, 200 - RESERVED_DESCRIPTORS), (80, 65, 1), (40, 40, 1), (90, 20_000, 10_000)],
)
def test_there_is_room_for_what_the_system_allows_and_the_rest_of_the_program_leaves(
    soft: int, hard: int, room: int
) -> None:
    if hard > resource.getrlimit(resource.RLIMIT_NOFILE)[1] != resource.RLIM_INFINITY:
        pytest.skip("this machine allows no process so many")
    done = subprocess.run(
        ["bash", "-c", f'ulimit -Sn {min(soft, hard)}; ulimit -Hn {hard}; exec "$@"', "bash", sys.executable]
        + ["-c", "from handlers.http_server import *; print(max_connections_allowed())"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{room}\n"
