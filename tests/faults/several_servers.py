"""Servers of the program that share one PostgreSQL, with one mail server, behind HAProxy if need be."""

import asyncio
import base64
import itertools
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
from balancers import SEARCH_PATH, running_balancer
from command_line import ACTOR, NOW
from fault_run import CannotTry, FaultRun
from launched_server import RECOVERY_TIMEOUT_SECONDS, LaunchedServer
from lead_client import Answer, Client, Disconnected, Ledger, new_email, post_lead
from mail_server import MailServer
from partner_server import PartnerServer
from postgresql import NOT_FOUND, Cluster, binaries, shared_cluster
from stored_leads import StoredLead, judge_storage

from models import settings
from models.building_actions import add_building
from models.database import command_storage

SECRET = base64.b64encode(b"of servers that share a database").decode()
MAILS_AT_ONCE = 4  # of one server
MUTANT_SECONDS = 5.0  # that a run waits for what a mutant may keep from coming

_numbers = itertools.count()


def own_cluster() -> Cluster:
    """Return the cluster that all runs of this process share, and may kill. Raises CannotTry."""
    if binaries() is None:
        raise CannotTry(NOT_FOUND)
    return shared_cluster()


class HeldMail(MailServer):
    """A mail server that can hold mails: each gets its reply once it is released, or loses its connection."""

    def __init__(self) -> None:
        super().__init__()
        self.is_holding = False
        self.held: list[asyncio.Future[bool]] = []

    def hold(self) -> None:
        """Hold each mail that comes from now on."""
        self.is_holding = True

    def release(self, *, accept: bool = True) -> None:
        """Accept the held mails, or break their connections."""
        held, self.held = self.held, []
        for reply in held:
            if not reply.done():  # else its client is gone
                reply.set_result(accept)

    def pass_on(self) -> None:
        """Hold no more mails, and accept those that are held."""
        self.is_holding = False
        self.release()

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.is_holding:
            reply = asyncio.get_running_loop().create_future()
            self.held.append(reply)
            if not await reply:
                server.transport.abort()
                return "451 4.3.0 try again later"
        return await super().handle_DATA(server, session, envelope)


class SharedServer(LaunchedServer):
    """One of several servers: its mail server, partner and database are those of the others."""

    def __init__(
        self, run: FaultRun, folder: Path, mail: MailServer, partner: PartnerServer, url: str
    ) -> None:
        super().__init__(
            run,
            folder,
            database_url=url,
            secret=SECRET,
            trusted_proxies="127.0.0.1",
        )
        self.mail, self.partner = mail, partner

    def keep_port(self) -> None:
        """Let the next start listen on the port of the first one."""
        self._settings["port"] = str(self.port)

    def set(self, **values: str) -> None:
        """Change settings of the next start."""
        self._settings |= values

    async def get(self, path: str) -> Answer:
        """GET this path. Raises Disconnected."""
        client = Client(self.port)
        try:
            return await client.send(f"GET {path} HTTP/1.1\r\nHost: leads.test\r\n\r\n".encode())
        finally:
            await client.close()

    async def is_ready(self) -> bool:
        """Return True if the server says that it can store leads."""
        with suppress(Disconnected):
            return (await self.get("/readyz")).status == 200
        return False

    async def until_ready(self) -> bool:
        """Wait until the server says that it can store leads. Return False if it does not."""
        deadline = time.monotonic() + (MUTANT_SECONDS if self._mutant else RECOVERY_TIMEOUT_SECONDS)
        while not await self.is_ready():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.05)
        return True


class Servers:
    """Servers on a database of their own in a cluster. A block of `async with` starts and ends them."""

    def __init__(
        self,
        run: FaultRun,
        cluster: Cluster,
        ports: Sequence[int] = (),
        *,
        count: int = 2,
        options: str = "",
        lease: float | None = None,
    ) -> None:
        """ports: of all clusters, if there are several. options: of the URL.

        lease: seconds of a claim's, in the short form; else as it is.
        """
        self.cluster = cluster
        self.database = f"fault_{next(_numbers)}"
        self.mail, self.partner = HeldMail(), PartnerServer()
        self.ledger = Ledger()
        self._run, self._count = run, count
        self._folder = run.folder / self.database
        self._folder.mkdir()
        self._ports, self._options = ports, options
        self._lease = None if run.timed else lease
        self.each: list[SharedServer] = []

    async def __aenter__(self) -> "Servers":
        self.cluster.create_database(self.database)
        own = self.cluster.url(self.database)
        with command_storage(settings.load({"database_url": own}, environment={})) as storage:
            fields = {"name": "The Maple", "agent_email": "agent@maple.test"}
            storage.write(add_building, ACTOR, fields, "maple", NOW)
        await self.mail.start()
        self.partner.start()
        url = self.url(*self._ports)
        for number in range(self._count):
            folder = self._folder / f"server{number + 1}"
            server = SharedServer(self._run, folder, self.mail, self.partner, url)
            if self._lease is not None:
                server.variables["FAULT_LEASE_SECONDS"] = str(self._lease)
            self.each.append(server)
        return self

    async def __aexit__(self, *exception: object) -> None:
        for server in self.each:
            await asyncio.gather(*(client.close() for client in server._clients))
            await server.kill()
        await self.partner.stop()
        await self.mail.stop()
        self.cluster.drop_database(self.database)

    def url(self, *ports: int) -> str:
        """Return the URL of the database. ports: in place of the cluster's own."""
        url = self.cluster.url(self.database, *ports)
        return url + ("&" if "?" in url else "?") * bool(self._options) + self._options

    def require_running(self) -> None:
        """Note a broken promise if a server has ended."""
        self._run.require(all(server.is_running for server in self.each), "no server exits")

    async def start(self) -> None:
        """Start every server, each on a port that it keeps."""
        await asyncio.gather(*(server.start() for server in self.each))
        for server in self.each:
            server.keep_port()

    @asynccontextmanager
    async def balanced(self) -> AsyncIterator[int]:
        """Run HAProxy with the sample of `deploy/` in front of the two servers, and give its port."""
        if shutil.which("haproxy", path=SEARCH_PATH) is None:
            raise CannotTry("HAProxy not found; install it with .ci/postgresql")
        with ExitStack() as stack:
            changes = [
                (r"(?m)^ +http-request redirect .*\n", "")
            ]  # without TLS, which costs the clients much
            ports = [server.port for server in self.each]
            port, _ = stack.enter_context(running_balancer("haproxy", self._folder, ports, changes))
            yield port

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a query, and return its rows. While PostgreSQL starts anew, wait for it."""
        deadline = time.monotonic() + RECOVERY_TIMEOUT_SECONDS
        while True:
            try:
                return self.cluster.query(sql, *values, database=self.database)
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def stored(self) -> dict[int, StoredLead]:
        """Return the leads that are stored, by id."""
        deliveries: dict[int, list[str]] = {}
        for lead_id, kind in self.rows("SELECT lead_id, kind FROM delivery ORDER BY kind"):
            deliveries.setdefault(lead_id, []).append(kind)
        deals = Counter(lead_id for (lead_id,) in self.rows("SELECT lead_id FROM deal"))
        keys = Counter(lead_id for (lead_id,) in self.rows("SELECT lead_id FROM idempotency_key"))
        return {
            lead_id: StoredLead(email, deals[lead_id], tuple(deliveries.get(lead_id, ())), keys[lead_id])
            for lead_id, email in self.rows("SELECT id, requestor_email FROM lead")
        }

    def unsent(self) -> int:
        """Return how many mails are not delivered."""
        return len(self.rows("SELECT FROM delivery WHERE kind = 'email' AND state <> 'delivered'"))

    def in_flight(self) -> list[int]:
        """Return the ids of the mails that are on their way, by their rows."""
        sql = "SELECT id FROM delivery WHERE kind = 'email' AND state = 'sending'"
        return [row_id for (row_id,) in self.rows(sql)]

    def are_sent(self, ids: list[int]) -> bool:
        """Return True if these mails are delivered."""
        return not self.rows("SELECT FROM delivery WHERE id = ANY(%s) AND state <> 'delivered'", ids)

    async def post(self, server: SharedServer, count: int) -> None:
        """Post leads to one server, which acknowledges each."""
        client = server.client()
        for _ in range(count):
            assert (await post_lead(client, self.ledger)).status == 201

    async def judge(self, *, may_be_twice: int = 0) -> None:
        """Wait until every mail is sent; compare leads and mails with what the clients were told.

        may_be_twice: how many mails may arrive twice, as they were in flight at the fault.
        """
        if self._run.mutant and self._run.broken:
            return  # it is caught
        while left := self.unsent():
            if not await self.until(lambda: self.unsent() < left):
                break  # no mail leaves
        stored = self.stored()
        judge_storage(self._run, self.ledger, stored)
        arrived = Counter(str(mail["Reply-To"]) for mail in self.mail.mails)
        unsent = sum(arrived[lead.email] == 0 for lead in stored.values())
        self._run.lost += unsent
        twice = sum(max(0, count - 1) for count in arrived.values())
        self._run.require(unsent == 0, f"every stored lead is mailed ({unsent} were not)")
        self._run.require(
            twice <= may_be_twice, f"at most the {may_be_twice} mails in flight are sent twice ({twice} were)"
        )
        ids = {str(mail["Message-ID"]) for mail in self.mail.mails}
        self._run.require(
            len(ids) == len(arrived), "a lead's mail has one Message-ID, however often it is sent"
        )

    async def until(self, condition: Callable[[], object]) -> bool:
        """Wait until this is true. Return False if that takes longer than any promise."""
        deadline = time.monotonic() + longest(self._run)
        while not condition():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.05)
        return True


def longest(run: FaultRun) -> float:
    """Return how many seconds a run waits for what is promised: with a mutant it may never come."""
    return MUTANT_SECONDS if run.mutant else RECOVERY_TIMEOUT_SECONDS


class AddressedClient(Client):
    """Client of HAProxy, whose address a PROXY header gives."""

    def __init__(self, port: int, address: str) -> None:
        super().__init__(port)
        self._header = f"PROXY TCP4 {address} 127.0.0.1 40000 80\r\n".encode()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await super().connect()
        writer.write(self._header)
        return reader, writer


class ManyClients:
    """Clients, of HAProxy each with an address of its own, that post one lead after the other.

    Every other one sends Idempotency-Keys, and repeats a request until it is answered 201. The others send
    each lead once.
    """

    def __init__(
        self, port: int, ledger: Ledger, count: int = 32, pause: float = 0.3, *, balanced: bool = True
    ) -> None:
        """port: of HAProxy; or of one server, if not `balanced`. pause: seconds after each lead."""
        self.ledger = ledger
        self.unanswered = 0
        self.slowest = 0.0  # seconds until an answer
        self.slowest_refusal = 0.0
        self.repeated = 0
        self.without_retry_after = 0
        self._pause, self._balanced = pause, balanced
        self._stopping = asyncio.Event()
        self._tasks = [asyncio.create_task(self._post(port, number)) for number in range(count)]

    async def _post(self, port: int, number: int) -> None:
        address = f"198.51.100.{number + 1}"
        client = AddressedClient(port, address) if self._balanced else Client(port)
        await asyncio.sleep(self._pause * number / len(self._tasks))
        while not self._stopping.is_set():
            email = new_email()
            if number % 2:
                await self._post_once(client, email)
            else:
                while not await self._post_once(client, email, Idempotency_Key=email):
                    self.repeated += 1
                    await asyncio.sleep(0.1)
                self.ledger.refused.discard(email)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._pause)
        await client.close()

    async def _post_once(self, client: Client, email: str, **headers: str) -> bool:
        began = time.monotonic()
        answer = None
        try:
            answer = await post_lead(client, self.ledger, email, **headers)
        except Disconnected:
            self.unanswered += 1
        took = time.monotonic() - began
        self.slowest = max(self.slowest, took)
        if answer is not None and answer.status == 503:
            self.slowest_refusal = max(self.slowest_refusal, took)
            self.without_retry_after += b'"error"' in answer.body and "retry-after" not in answer.headers
        return answer is not None and answer.status == 201

    @property
    def seen(self) -> str:
        """What the clients saw, for the table."""
        answers = ", ".join(f"{count} x {status}" for status, count in sorted(self.ledger.answers.items()))
        return f"{answers}, {self.unanswered} unanswered, slowest answer {self.slowest:.1f} s"

    async def reach(self, more: int) -> None:
        """Wait until so many more leads are acknowledged."""
        enough = len(self.ledger.acknowledged) + more
        while len(self.ledger.acknowledged) < enough:
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Let each client receive the answers to its last lead, and stop."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)
