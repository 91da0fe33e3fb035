"""Two servers behind the samples of `deploy/` for HAProxy and nginx, run by the real programs."""

import asyncio
import re
import shutil
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from balancers import BalancedClient, free_ports, running_balancer
from lead_client import Answer, Disconnected, lead_body, new_email
from server_process import ROOT, Program, run, started

StartServers = Callable[..., "Servers"]

pytestmark = pytest.mark.sqlite("a balancer knows no database")
LIMIT = 5
CLIENTS = [f"203.0.113.{number}" for number in range(1, 13)]
HASHING = {"haproxy": r"balance hash .*", "nginx": r"hash \$client consistent;"}
STOP_DELAY = {"haproxy": "3", "nginx": "0"}  # nginx asks for no /readyz
ROUND_ROBIN = {"haproxy": "balance roundrobin", "nginx": ""}


class Servers:
    """Two servers, each on a data folder and a port of its own, that trust a balancer of this machine."""

    def __init__(self, folder: Path, data_dir: Path, **settings: str) -> None:
        """data_dir: each server gets a copy of it."""
        self.ports = free_ports(2)
        self._folders = [folder / f"data{number}" for number in range(2)]
        self._settings = {"rate_limit": "100000/1", "trusted_proxies": "127.0.0.1", **settings}
        self._running = [ExitStack(), ExitStack()]
        self._programs: list[Program | None] = [None, None]
        for each in self._folders:
            shutil.copytree(data_dir, each)
        with ThreadPoolExecutor() as threads:
            list(threads.map(self.start, range(2)))

    def start(self, number: int) -> None:
        self._programs[number] = self._running[number].enter_context(
            started(
                "serve",
                cwd=ROOT,
                data_dir=str(self._folders[number]),
                port=str(self.ports[number]),
                **self._settings,
            )
        )

    def kill(self, number: int) -> None:
        self._running[number].close()

    def restart(self, number: int) -> None:
        """Stop a server by SIGTERM, and start it again."""
        program = self._programs[number]
        assert program is not None and program.process.stdout is not None
        program.process.send_signal(signal.SIGTERM)
        program.process.stdout.read()
        assert program.process.wait() == 0
        self.kill(number)
        self.start(number)

    def close(self) -> None:
        for number in range(2):
            self.kill(number)

    def renters(self, number: int) -> list[str]:
        """Return the e-mail address of each lead that a server has stored."""
        with closing(sqlite3.connect(self._folders[number] / "leads.db")) as database:
            return [email for (email,) in database.execute("SELECT requestor_email FROM lead")]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with one building, whose token is 'maple'."""
    folder = tmp_path_factory.mktemp("balanced") / "data"
    building = ("--name=Maple", "--token=maple", "--agent-email=agent@maple.test")
    assert run("building", "add", *building, data_dir=str(folder)).returncode == 0
    return folder


@dataclass
class Balancer:
    """A balancer that is not started yet."""

    name: str
    folder: Path

    def run(
        self, ports: Sequence[int], changes: Sequence[tuple[str, str]] = ()
    ) -> AbstractContextManager[tuple[int, int]]:
        """Run it in front of these ports, as `running_balancer` does."""
        return running_balancer(self.name, self.folder, ports, changes)


@pytest.fixture(params=["haproxy", "nginx"])
def balancer(request: pytest.FixtureRequest, tmp_path: Path) -> Balancer:
    return Balancer(request.param, tmp_path)


@pytest.fixture
def start_servers(tmp_path: Path, data_dir: Path) -> Iterator[StartServers]:
    """Starts two servers with the settings given; they are killed after the test."""
    with ExitStack() as opened:

        def start(**settings: str) -> Servers:
            pair = Servers(tmp_path, data_dir, **settings)
            opened.callback(pair.close)
            return pair

        yield start


async def answers(port: int, address: str, count: int, **headers: str) -> Counter[int]:
    """POST leads from an address, each on a connection of its own; return the answers by status."""
    found: Counter[int] = Counter()
    for _ in range(count):
        client = BalancedClient(port, address)
        found[(await client.post(lead_body(new_email()), **headers)).status] += 1
        await client.close()
    return found


async def test_C28_address_has_one_limit_over_two_servers(
    balancer: Balancer, start_servers: StartServers
) -> None:
    pair = start_servers(rate_limit=f"{LIMIT}/36000")
    with balancer.run(pair.ports) as (_, port):
        for address in CLIENTS:
            assert await answers(port, address, 2 * LIMIT + 1) == {201: LIMIT, 429: LIMIT + 1}
    stored = [len(pair.renters(number)) for number in range(2)]
    assert sum(stored) == LIMIT * len(CLIENTS) and all(stored)


async def test_C28_without_hashing_an_address_has_two_limits(
    balancer: Balancer, start_servers: StartServers
) -> None:
    pair = start_servers(rate_limit=f"{LIMIT}/36000")
    with balancer.run(pair.ports, [(HASHING[balancer.name], ROUND_ROBIN[balancer.name])]) as (_, port):
        assert (await answers(port, CLIENTS[0], 4 * LIMIT))[201] > LIMIT


async def test_C28_balancer_counts_ipv6_by_64_and_mapped_as_ipv4(
    balancer: Balancer, start_servers: StartServers
) -> None:
    pair = start_servers(rate_limit=f"{LIMIT}/36000")
    with balancer.run(pair.ports) as (_, port):
        for number in range(6):
            network = f"2001:db8:{number}:a0{number}"  # 0x0a is a line feed
            one_client = [f"{network}::1", f"{network}:ffff:0:0a0a:1", f"{network}:a:b:c:d", f"{network}::"]
            found = sum([await answers(port, each, LIMIT - 1) for each in one_client], Counter[int]())
            assert found[201] == LIMIT
            found = await answers(port, f"203.0.113.{number}", LIMIT - 1)
            assert (found + await answers(port, f"::ffff:203.0.113.{number}", LIMIT - 1))[201] == LIMIT
    assert all(pair.renters(number) for number in range(2))


async def test_C30_forwarded_address_of_a_client_counts_nothing(
    balancer: Balancer, start_servers: StartServers
) -> None:
    pair = start_servers(rate_limit=f"{LIMIT}/36000")
    spoofs = [
        {"X_Forwarded_For": "198.51.100.{n}"},
        {"X_Forwarded_For": "198.51.100.{n}, 127.0.0.1"},
        {"X_Forwarded_For": "198.51.100.{n}", "x_forwarded_for": "127.0.0.1"},
        {"X_Forwarded_For": "127.0.0.1, " * 40 + "198.51.100.{n}"},
        {"X_Forwarded_For": "2001:db8:{n}::1", "X_Real_Ip": "198.51.100.{n}"},
        {"Forwarded": "for=198.51.100.{n}", "X_Client_Ip": "198.51.100.{n}"},
        {"X_Forwarded_For": ""},
        {"Connection": "X-Forwarded-For"},
        {"Proxy_Connection": "close", "X_Forwarded_For": '"[2001:db8:{n}::]:1"'},
    ]
    with balancer.run(pair.ports) as (_, port):
        for number, spoof in enumerate(spoofs):
            address, found = CLIENTS[number], Counter[int]()
            for n in range(2 * LIMIT):
                headers = {name: value.replace("{n}", str(n)) for name, value in spoof.items()}
                found += await answers(port, address, 1, **headers)
            assert found == {201: LIMIT, 429: LIMIT}, spoof
        # The addresses that were named have their whole limits.
        assert (await answers(port, "198.51.100.1", LIMIT))[201] == LIMIT


async def test_clients_of_a_killed_server_are_served_by_the_other(
    balancer: Balancer, start_servers: StartServers
) -> None:
    pair = start_servers()
    with balancer.run(pair.ports) as (_, port):
        pair.kill(0)
        for address in CLIENTS:
            assert await answers(port, address, 2) == {201: 2}
        pair.start(0)
        while not pair.renters(0):  # until the balancer has noticed
            for address in CLIENTS:
                assert await answers(port, address, 1) == {201: 1}
        pair.kill(1)
        for address in CLIENTS:
            assert await answers(port, address, 2) == {201: 2}


async def test_restart_of_each_server_refuses_and_repeats_no_lead(
    balancer: Balancer, start_servers: StartServers
) -> None:
    pair, stopping = start_servers(stop_delay=STOP_DELAY[balancer.name]), asyncio.Event()
    taken: list[str] = []
    refused: list[str] = []

    async def post_until_stopped(client: BalancedClient) -> None:
        while not stopping.is_set():
            email = new_email()
            try:
                is_taken = (await client.post(lead_body(email))).status == 201
            except Disconnected:
                is_taken = False
            (taken if is_taken else refused).append(email)
            await asyncio.sleep(0.01)  # leaves the server that starts a processor
        await client.close()

    with balancer.run(pair.ports) as (_, port):
        clients = [asyncio.create_task(post_until_stopped(BalancedClient(port, each))) for each in CLIENTS]
        for number in range(2):
            await asyncio.to_thread(pair.restart, number)
        stopping.set()
        await asyncio.gather(*clients)
    assert Counter(pair.renters(0) + pair.renters(1)) == Counter(taken)
    # nginx can't be told of a stop: a connection made in the instant in which the socket is closed is reset.
    assert len(refused) <= {"haproxy": 0, "nginx": 1}[balancer.name]


@asynccontextmanager
async def silent_server(requests: list[bytes]) -> AsyncIterator[int]:
    """A server that reads a whole lead, and closes the connection without an answer; gives its port."""

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/readyz" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        else:
            requests.append(head)
        writer.close()

    async with await asyncio.start_server(receive, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_post_that_was_sent_is_never_sent_again(balancer: Balancer) -> None:
    requests: list[bytes] = []
    async with silent_server(requests) as first, silent_server(requests) as second:
        context = balancer.run([first, second])
        _, port = await asyncio.to_thread(context.__enter__)
        try:
            for count, address in enumerate(CLIENTS, start=1):
                assert (await BalancedClient(port, address).post(lead_body(new_email()))).status == 502
                assert len(requests) == count
        finally:
            await asyncio.to_thread(context.__exit__, None, None, None)


@asynccontextmanager
async def unready_server() -> AsyncIterator[int]:
    """A server whose database is down; gives its port."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        writer.write(
            b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nContent-Type: application/json\r\n"
            b"Connection: close\r\nContent-Length: 2\r\n\r\n{}"
        )
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_C32_answer_of_the_servers_passes_while_none_is_ready(balancer: Balancer) -> None:
    async with unready_server() as first, unready_server() as second:
        context = balancer.run([first, second])
        _, port = await asyncio.to_thread(context.__enter__)
        try:
            output = balancer.folder / f"{balancer.name}.output"
            while balancer.name == "haproxy" and output.read_text().count(" is DOWN") < 2:
                await asyncio.sleep(0.05)
            for address in CLIENTS:
                answer = await BalancedClient(port, address).post(lead_body(new_email()))
                assert (answer.status, answer.headers["retry-after"]) == (503, "2")
        finally:
            await asyncio.to_thread(context.__exit__, None, None, None)


async def test_C16_large_bodies_reach_the_server(balancer: Balancer, start_servers: StartServers) -> None:
    pair = start_servers()
    with balancer.run(pair.ports) as (_, port):
        for size, status in ((9_900, 201), (10_001, 400), (63_000, 400), (65_600, 413), (900_000, 413)):
            client = BalancedClient(port, CLIENTS[0])
            answer: Answer = await client.post(lead_body(new_email(), message="x" * size))
            assert answer.status == status and answer.headers["content-type"] == "application/json"
            await client.close()


def test_plain_http_is_redirected_with_its_method(balancer: Balancer) -> None:
    with balancer.run(free_ports(2)) as (plain, _):
        done = subprocess.run(
            ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", "--haproxy-protocol"]
            + ["-d", "{}", "-H", "Host: leads.test", f"http://127.0.0.1:{plain}/api/v1/website_leads?a=b"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    assert done.stdout == "308 https://leads.test/api/v1/website_leads?a=b"
