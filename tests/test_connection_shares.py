"""One address holds a bounded share of the connections, and no other client waits for it (C30)."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import ClassVar

import pytest
from conftest import LEADS, ServerHarness, StartHarness, until
from tornado.ioloop import IOLoop

from handlers import connection_shares, http_server, source_address
from handlers.api.rate_limit import RateLimiter
from handlers.connection_shares import ConnectionShares
from models.setting_values import Rate, parse_networks

SHARE = 4
STRANGER, OTHER = "127.0.0.2", "127.0.0.3"
LEAD = json.dumps({"tour_request": {"requestor_email": "jane@renter.test"}}).encode()
REQUEST = f"POST {LEADS} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(LEAD)}\r\n\r\n".encode() + LEAD


@pytest.fixture(autouse=True)
def small_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares of four connections. Of this machine's addresses, only 127.0.0.1 may exceed them."""
    monkeypatch.setattr(connection_shares, "MAX_SHARE", SHARE)
    monkeypatch.setattr(source_address, "LOCAL_NETWORKS", parse_networks("127.0.0.1"))


@pytest.fixture(autouse=True)
def closed_clients(io_loop: IOLoop) -> Iterator[None]:
    """Close the clients of each test."""
    yield
    io_loop.run_sync(Client.close_all)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that waits for its client may be closed at once."""
    monkeypatch.setattr(http_server, "EVICTED_AFTER_SECONDS", 0.0)


class Client:
    """Client with one connection, from an address of this machine."""

    _opened: ClassVar[list["Client"]] = []

    def __init__(self, harness: ServerHarness, address: str) -> None:
        self._opened.append(self)
        self._port, self._address = int(harness.url.rpartition(":")[2]), address

    async def open(self, sent: bytes = b"") -> "Client":
        """Connect, and send these bytes."""
        self._reader, self._writer = await asyncio.open_connection(
            "127.0.0.1", self._port, local_addr=(self._address, 0)
        )
        self._writer.write(sent)
        return self

    async def request(self, headers: bytes = b"") -> bool:
        """Send a lead; return True if it was answered 201."""
        return (await self.answer(headers)).startswith(b"HTTP/1.1 201 ")

    async def end_request(self, end: bytes) -> bool:
        """Send the end of a lead; return True if it was answered 201."""
        return (await self.answer(sent=end)).startswith(b"HTTP/1.1 201 ")

    async def answer(self, headers: bytes = b"", sent: bytes | None = None) -> bytes:
        """Send a lead, or these bytes, and return the answer; b'' if the server has closed the connection."""
        try:
            self._writer.write(sent or REQUEST.replace(b"Host: x\r\n", b"Host: x\r\n" + headers))
            head = await self._reader.readuntil(b"\r\n\r\n")
            size = int(re.search(rb"Content-Length: (\d+)", head)[1])  # type: ignore[index]
            return head + await self._reader.readexactly(size)
        except (OSError, asyncio.IncompleteReadError):
            return b""

    async def is_closed(self) -> bool:
        """Wait until the server has closed the connection."""
        try:
            return await self._reader.read() == b""
        except OSError:
            return True

    @classmethod
    async def close_all(cls) -> None:
        """Close the connections of all clients."""
        await asyncio.gather(*(client.close() for client in cls._opened))
        cls._opened.clear()

    async def close(self) -> None:
        """Close the connection."""
        self._writer.close()
        await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)


async def open_clients(harness: ServerHarness, address: str, count: int, sent: bytes = b"") -> list[Client]:
    """Open connections of this address one after another, and wait until the server has taken each."""
    shares, clients = harness.server._http._shares, []
    for _ in range(count):
        total = shares.total
        clients.append(await Client(harness, address).open(sent))
        await until(lambda at_least=min(total + 1, SHARE): shares.total >= at_least)  # type: ignore[misc]
    return clients


async def test_C30_new_connection_takes_the_place_of_the_oldest_idle(
    at_once: None, start_harness: StartHarness
) -> None:
    harness = await start_harness()
    first, *others = await open_clients(harness, STRANGER, SHARE)
    newest = await Client(harness, STRANGER).open()
    assert await first.is_closed()
    assert all([await client.request() for client in (*others, newest)])
    assert harness.server._http._shares.total == SHARE


async def test_C30_connection_over_the_share_is_closed_while_all_are_new(start_harness: StartHarness) -> None:
    harness = await start_harness()
    first = await open_clients(harness, STRANGER, SHARE)
    further = [await Client(harness, STRANGER).open() for _ in range(3)]
    assert all([await client.is_closed() for client in further])
    assert all([await client.request() for client in first])


async def test_C30_share_of_one_address_leaves_the_others_alone(start_harness: StartHarness) -> None:
    harness = await start_harness()
    await open_clients(harness, STRANGER, SHARE)
    others = [await Client(harness, address).open() for address in (OTHER, OTHER, "127.0.0.4")]
    assert all([await client.request() for client in others])


async def test_C30_local_address_has_no_share(at_once: None, start_harness: StartHarness) -> None:
    harness = await start_harness(rate_limit="1000/1")
    clients = await open_clients(harness, "127.0.0.1", 3 * SHARE)
    assert all([await client.request() for client in clients])


async def test_C30_address_with_a_rate_of_its_own_has_no_share(
    at_once: None, start_harness: StartHarness
) -> None:
    harness = await start_harness(rate_limit_exceptions=f"{STRANGER}=1000/1")
    clients = await open_clients(harness, STRANGER, 3 * SHARE)
    assert all([await client.request() for client in clients])


async def test_C30_connection_is_free_again_once_it_is_closed(start_harness: StartHarness) -> None:
    harness = await start_harness()
    for _ in range(3):
        clients = await open_clients(harness, STRANGER, SHARE)
        assert all([await client.request() for client in clients])
        await Client.close_all()
        await until(lambda: harness.server._http._shares.total == 0)
    assert [*harness.server._http._shares._holders] == [b""]


HALF = REQUEST[:-5].replace(b"Host: x\r\n", b"Host: x\r\nX-Forwarded-For: %s\r\n")


async def test_C30_requests_through_a_trusted_proxy_count_for_their_sender(
    start_harness: StartHarness,
) -> None:
    harness = await start_harness(trusted_proxies="127.0.0.2")
    spoofed = b"198.51.100.1, 203.0.113.9"
    await open_clients(harness, STRANGER, SHARE, HALF % spoofed)
    await until(lambda: any(holder.is_full for holder in harness.server._http._shares._holders.values()))
    one_more = await Client(harness, STRANGER).open()
    throttled = await one_more.answer(b"X-Forwarded-For: 203.0.113.9\r\n")
    assert throttled.startswith(b"HTTP/1.1 429 ") and b"Retry-After: 1\r\n" in throttled
    assert await one_more.request(b"X-Forwarded-For: 203.0.113.10\r\n")  # on the same connection
    others = [await Client(harness, STRANGER).open() for _ in range(3 * SHARE)]
    for number, client in enumerate(others):
        assert await client.request(b"X-Forwarded-For: 203.0.113.%d\r\n" % (10 + number))


async def test_C32_stored_lead_is_answered_though_its_address_has_its_share(
    start_harness: StartHarness,
) -> None:
    harness = await start_harness(trusted_proxies="127.0.0.2")
    clients = [await Client(harness, STRANGER).open() for _ in range(3 * SHARE)]
    asked = (client.answer(b"X-Forwarded-For: 203.0.113.9\r\n") for client in clients)
    statuses = Counter([int(answer[9:12]) for answer in await asyncio.gather(*asked)])
    assert statuses.keys() <= {201, 429} and statuses.total() == 3 * SHARE
    assert len(await harness.leads()) == statuses[201]


async def test_C30_request_that_is_arriving_is_closed_for_no_idle_connection(
    at_once: None, start_harness: StartHarness
) -> None:
    harness = await start_harness()
    arriving = await Client(harness, STRANGER).open(REQUEST[:-5])
    oldest, *idle = await open_clients(harness, STRANGER, SHARE - 1)
    shares = harness.server._http._shares
    await until(lambda: any(len(holder.idle) == SHARE - 1 for holder in shares._holders.values()))
    for _ in range(3):  # each takes the place of an idle one
        assert await (await Client(harness, STRANGER).open()).request()
    assert await oldest.is_closed()
    assert await arriving.end_request(REQUEST[-5:])


async def test_C30_proxys_connection_counts_for_nobody_between_requests(start_harness: StartHarness) -> None:
    harness = await start_harness(trusted_proxies="127.0.0.2")
    clients = [await Client(harness, STRANGER).open() for _ in range(3 * SHARE)]
    for _ in range(2):
        for client in clients:
            assert await client.request(b"X-Forwarded-For: 203.0.113.9\r\n")


async def test_full_server_closes_the_oldest_idle_of_the_biggest_holder(
    at_once: None, start_harness: StartHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 32)
    harness = await start_harness()
    honest = await open_clients(harness, OTHER, 1)
    oldest, *flood = await open_clients(harness, "127.0.0.1", 31)
    await until(lambda: harness.server._http._shares.is_full)
    newest = await Client(harness, "127.0.0.4").open()
    assert await newest.request() and await oldest.is_closed()
    assert all([await client.request() for client in (*honest, flood[0])])


def test_C30_ipv6_addresses_of_one_64_share() -> None:
    shares = ConnectionShares(1_000, RateLimiter(Rate(1, 1)), ())
    for number in range(SHARE):
        assert not shares.holder_of_peer("2001:db8:1:2:3::4").is_full
        shares.add(SimpleNamespace(), shares.holder_of_peer(f"2001:db8:1:2::{number}"))
    assert shares.holder_of_peer("2001:db8:1:2:3::4").is_full
    assert not shares.holder_of_peer("2001:db8:1:3::1").is_full
    assert shares.holder_of_peer("::ffff:203.0.113.1").key == shares.holder_of_peer("203.0.113.1").key


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "10.1.2.3", "192.168.1.9", "fd00::1", "fe80::1%eth0"])
@pytest.mark.parametrize("prefix", ["", "::ffff:"])
def test_C30_loopback_and_private_peers_have_no_share(
    monkeypatch: pytest.MonkeyPatch, peer: str, prefix: str
) -> None:
    monkeypatch.undo()
    if prefix and ":" in peer:
        return
    shares = ConnectionShares(1_000, RateLimiter(Rate(1, 1)), ())
    assert shares.holder_of_peer(prefix + peer).share is None
    assert shares.holder_of_peer("203.0.113.1").share == connection_shares.MAX_SHARE


def test_C30_share_is_an_eighth_where_there_are_few_connections() -> None:
    for max_connections, share in ((4_000, SHARE), (16, 2), (7, 1)):
        shares = ConnectionShares(max_connections, RateLimiter(Rate(1, 1)), ())
        assert shares.holder_of_peer("203.0.113.1").share == share
