"""Undeclared proxies: a local peer that forwards requests and is not trusted is told of (C30)."""

import json
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from command_line import Commands
from conftest import LEADS, ServerHarness, StartHarness, SteppedClock

from handlers.api.undeclared_proxies import MAX_PEERS, UndeclaredProxies
from models.clock import Clock
from models.daily_count import DailyCount, add_counts, undeclared_proxy_count
from models.setting_values import parse_networks

LEAD = {"tour_request": {"requestor_email": "jane@renter.test"}}
FORWARDED = {"X_Forwarded_For": "203.0.113.9"}


def warnings(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Return the peer and the setting of each warning."""
    found = [record for record in caplog.records if "proxy that is not declared" in record.getMessage()]
    return [(vars(record)["peer"], vars(record)["if_it_is_yours_set"]) for record in found]


async def counts(harness: ServerHarness) -> dict[str, int]:
    rows = await harness.server.storage.read(lambda: list(DailyCount.select()))
    return {row.name: row.count for row in rows}


# ---- over the socket


@pytest.mark.parametrize(
    "headers",
    [
        FORWARDED,
        {"X_Forwarded_For": "203.0.113.9, 10.0.0.1"},
        {"X_Forwarded_For": "nonsense"},
        {"x_forwarded_for": "203.0.113.9"},
        {"Forwarded": "for=203.0.113.9;proto=https"},
        {"X_Real_Ip": "203.0.113.9"},
        {"X_Real_IP": "203.0.113.9"},
    ],
)
async def test_C30_undeclared_proxy_is_logged_and_counted_once_an_hour(
    start_harness: StartHarness,
    clock: SteppedClock,
    caplog: pytest.LogCaptureFixture,
    headers: dict[str, str],
) -> None:
    harness = await start_harness()
    for _ in range(5):
        assert (await harness.post(LEAD, **headers)).code == 201
    assert warnings(caplog) == [("127.0.0.1", "LEADS_TRUSTED_PROXIES=127.0.0.1")]
    assert await counts(harness) == {undeclared_proxy_count("127.0.0.1"): 1}
    clock.step(3_599)
    await harness.post(LEAD, **headers)
    assert len(warnings(caplog)) == 1
    clock.step(1)
    await harness.post(LEAD, **headers)
    await harness.post(LEAD)
    assert len(warnings(caplog)) == 2
    assert await counts(harness) == {undeclared_proxy_count("127.0.0.1"): 2}


@pytest.mark.parametrize("trusted", ["127.0.0.1", "127.0.0.0/8", "10.0.0.0/8, 127.0.0.1"])
async def test_C30_declared_proxy_is_not_told_of(
    start_harness: StartHarness, caplog: pytest.LogCaptureFixture, trusted: str
) -> None:
    harness = await start_harness(trusted_proxies=trusted)
    assert (await harness.post(LEAD, **FORWARDED)).code == 201
    assert (await harness.post(LEAD, X_Real_Ip="203.0.113.9")).code == 201
    assert warnings(caplog) == [] and await counts(harness) == {}


async def test_C30_client_without_a_proxy_is_not_told_of(
    start_harness: StartHarness, caplog: pytest.LogCaptureFixture
) -> None:
    harness = await start_harness()
    assert (await harness.post(LEAD, Via="1.1 x", X_Forwarded_Host="maple.test")).code == 201
    assert warnings(caplog) == [] and await counts(harness) == {}


async def test_C30_fix_keeps_the_proxies_that_are_declared(
    start_harness: StartHarness, caplog: pytest.LogCaptureFixture
) -> None:
    harness = await start_harness(trusted_proxies="10.0.0.0/8")
    await harness.post(LEAD, **FORWARDED)
    assert warnings(caplog) == [("127.0.0.1", "LEADS_TRUSTED_PROXIES=10.0.0.0/8,127.0.0.1")]


async def test_C30_undeclared_proxy_over_ipv6_is_told_of(
    start_harness: StartHarness, caplog: pytest.LogCaptureFixture
) -> None:
    harness = await start_harness(host="::1")
    assert (await harness.post(LEAD, **FORWARDED)).code == 201
    assert warnings(caplog) == [("::1", "LEADS_TRUSTED_PROXIES=::1")]
    await harness.restart(host="::1", trusted_proxies="::1")
    assert (await harness.post(LEAD, **FORWARDED)).code == 201
    assert len(warnings(caplog)) == 1


async def test_C30_C29_request_over_its_limit_is_logged_and_not_counted(
    start_harness: StartHarness,
    clock: SteppedClock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harness = await start_harness(rate_limit="1/60")
    assert (await harness.post(LEAD)).code == 201

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("not to be called")

    with monkeypatch.context() as patch:
        patch.setattr(harness.server.storage, "submit", never)
        for _ in range(3):
            assert (await harness.post(LEAD, **FORWARDED)).code == 429
    assert len(warnings(caplog)) == 1 and await counts(harness) == {}
    clock.step(60)
    assert (await harness.post(LEAD, **FORWARDED)).code == 201
    assert len(warnings(caplog)) == 1
    assert await counts(harness) == {undeclared_proxy_count("127.0.0.1"): 1}


@pytest.mark.parametrize("request_line", [("GET", LEADS), ("GET", "/api/none"), ("OPTIONS", LEADS)])
async def test_C30_any_request_to_the_api_shows_the_proxy(
    start_harness: StartHarness, caplog: pytest.LogCaptureFixture, request_line: tuple[str, str]
) -> None:
    harness = await start_harness()
    await harness.request(*request_line, **FORWARDED)
    assert len(warnings(caplog)) == 1


# ---- by itself


class Notes:
    """UndeclaredProxies, with what it counts."""

    def __init__(self, trusted: str = "") -> None:
        self.clock = SteppedClock()
        self.counted: Counter[str] = Counter()
        self.proxies = UndeclaredProxies(parse_networks(trusted), self._count, self.clock)

    def _count(self, name: str) -> None:
        self.counted[name] += 1

    def note(self, peer: str) -> list[str]:
        """Note a request of this peer; return the addresses that are counted so far."""
        self.proxies.note(peer, {"X-Forwarded-For": "203.0.113.9"}, may_write=True)
        return [name.partition(" ")[2] for name in self.counted]


@pytest.mark.parametrize(
    ("peer", "named"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.8.9.10", "127.8.9.10"),
        ("::1", "::1"),
        ("10.1.2.3", "10.1.2.3"),
        ("172.16.0.1", "172.16.0.1"),
        ("172.31.255.255", "172.31.255.255"),
        ("192.168.1.1", "192.168.1.1"),
        ("169.254.1.1", "169.254.1.1"),
        ("100.64.0.1", "100.64.0.1"),
        ("100.127.255.255", "100.127.255.255"),
        ("fd00::1", "fd00::1"),
        ("fc00::1", "fc00::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::FFFF:7f00:1", "127.0.0.1"),
    ],
)
def test_C30_local_peer_is_told_of(peer: str, named: str) -> None:
    assert Notes().note(peer) == [named]


@pytest.mark.parametrize(
    "peer",
    [
        "8.8.8.8",
        "203.0.113.9",
        "172.15.255.255",
        "172.32.0.0",
        "192.169.0.1",
        "100.63.255.255",
        "100.128.0.0",
        "11.0.0.1",
        "2001:db8::1",
        "2606:4700::1",
        "fe00::1",
        "::ffff:8.8.8.8",
        "0.0.0.0",
        "not an address",
        "",
    ],
)
def test_C30_header_of_a_public_peer_is_ignored(peer: str, caplog: pytest.LogCaptureFixture) -> None:
    assert Notes().note(peer) == [] and warnings(caplog) == []


@pytest.mark.parametrize("peer", ["10.0.0.1", "::ffff:10.0.0.1", "fd00::1"])
def test_C30_trusted_local_peer_is_not_told_of(peer: str) -> None:
    assert Notes("10.0.0.0/8, fd00::/8").note(peer) == []


def test_C30_at_most_16_peers_are_remembered(caplog: pytest.LogCaptureFixture) -> None:
    notes = Notes()
    for number in range(10_000):
        notes.note(f"10.0.{number // 256}.{number % 256}")
    assert len(notes.counted) == len(warnings(caplog)) == MAX_PEERS
    notes.clock.step(86_400)
    assert notes.note("10.9.9.9")[-1] == "10.9.9.9"
    for number in range(10_000):
        notes.note(f"10.1.{number // 256}.{number % 256}")
    assert len(notes.counted) == len(warnings(caplog)) == 2 * MAX_PEERS


# ---- the doctor


def proxy_row(commands: Commands, status: int = 1) -> dict[str, Any]:
    rows = [json.loads(line) for line in commands.run("doctor", "--json", status=status).stdout.splitlines()]
    [row] = [row for row in rows if row["id"] == "undeclared_proxy"]
    return dict(row)


def noted(commands: Commands, *addresses: str, **ago: int) -> None:
    with commands.database():
        add_counts(
            [(undeclared_proxy_count(each), Clock().now() - timedelta(**ago), 1) for each in addresses]
        )


def test_C30_doctor_names_the_proxy_until_it_is_declared(commands: Commands) -> None:
    commands.leads({})
    noted(commands, "10.0.0.9", days=2)
    assert proxy_row(commands)["state"] == "ok"
    noted(commands, "127.0.0.1", days=1)
    found = proxy_row(commands)
    assert found["state"] == "warning"
    assert "came through 127.0.0.1, undeclared" in found["found"] and "share one rate limit" in found["found"]
    assert "set LEADS_TRUSTED_PROXIES=127.0.0.1 and" in found["remedy"]
    commands.settings["trusted_proxies"] = "10.0.0.0/8"
    assert "set LEADS_TRUSTED_PROXIES=10.0.0.0/8,127.0.0.1 and" in proxy_row(commands)["remedy"]
    commands.settings["trusted_proxies"] = "127.0.0.0/8"
    assert proxy_row(commands)["state"] == "ok"


def test_C30_doctor_names_three_of_many_proxies(commands: Commands) -> None:
    commands.leads({})
    noted(commands, "10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", hours=0)
    assert "10.0.0.1, 10.0.0.2, 10.0.0.3 and 1 more, undeclared" in proxy_row(commands)["found"]


@pytest.mark.sqlite("it is about a folder without a file")
def test_C30_doctor_without_a_database_knows_no_proxy(tmp_path: Path) -> None:
    assert proxy_row(Commands(tmp_path / "data"), status=0)["state"] == "ok"
