"""Owns the world of a trial: the server as a process, clients that remember what they were answered, and what
is found on the disk afterwards, read without the program's own code.
"""

import asyncio
import itertools
import json
import os
import random
import re
import signal
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
from conftest import LEADS, MailServer, PartnerServer
from fault_run import FaultRun
from server_process import ROOT, environment

LAUNCHER = Path(__file__).parent / "launcher.py"
LINGER_SECONDS = (
    60.0  # how long a trial waits for what must come; only a promise that is broken takes as long
)


class Gone(Exception):
    """The server closed the connection, or isn't there."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """A client with one connection, which it opens anew when it has to."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, request: bytes) -> Answer:
        """Send these bytes and read one answer. Raises Gone."""
        try:
            if self._writer is None:
                self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
            self._writer.write(request)
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in head[1:-2])}
            body = await self._reader.readexactly(int(headers.get("content-length", 0)))
            if headers.get("connection") == "close":
                await self.close()
            return Answer(int(head[0].split()[1]), headers, body)
        except (OSError, EOFError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            await self.close()
            raise Gone from error

    async def post(self, body: bytes, media_type: str = "application/json", **headers: str) -> Answer:
        """POST this body to the leads. Raises Gone."""
        lines = [f"POST {LEADS} HTTP/1.1", "Host: leads.test", f"Content-Type: {media_type}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        lines += [f"Content-Length: {len(body)}", "", ""]
        return await self.send("\r\n".join(lines).encode() + body)

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            with suppress(OSError):
                await self._writer.wait_closed()
            self._writer = None


@dataclass
class Ledger:
    """What clients were promised: the e-mail address of each acknowledged lead, by its id."""

    acknowledged: dict[int, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)  # the addresses of those that were said not to be stored
    answers: Counter[int] = field(default_factory=Counter)
    twice: int = 0  # ids that two different leads were given

    def acknowledge(self, lead_id: int, email: str) -> None:
        if self.acknowledged.setdefault(lead_id, email) != email:
            self.twice += 1


numbers = itertools.count()


def lead_body(email: str, **fields: Any) -> bytes:
    """A lead of this renter, to the building of the token 'maple'."""
    return json.dumps({"token": "maple", "tour_request": {"requestor_email": email, **fields}}).encode()


def new_email() -> str:
    """An e-mail address that no other lead has."""
    return f"renter{next(numbers)}@renter.test"


async def post_lead(client: Client, ledger: Ledger, email: str | None = None, **headers: str) -> Answer:
    """POST a lead and remember what was answered. Raises Gone."""
    email = email or new_email()
    answer = await client.post(lead_body(email, listing_source="june_homes"), **headers)
    ledger.answers[answer.status] += 1
    if answer.status == 201:
        ledger.acknowledge(json.loads(answer.body)["id"], email)
    elif b"the lead was not stored" in answer.body:
        ledger.refused.add(email)
    return answer


class ServerProcess:
    """The server as a process of its own, on one data folder, with a mail server and a partner beside it."""

    def __init__(self, trial: FaultRun, folder: Path | None = None, **settings: str) -> None:
        self.folder = folder or trial.folder
        self.folder.mkdir(exist_ok=True)
        self.data_dir = self.folder / "data"
        self.log = self.folder / "log"
        self.mail, self.partner = MailServer(), PartnerServer()
        self._settings = settings
        self._mutant = trial.mutant
        self.variables: dict[str, str] = {}
        self.process: asyncio.subprocess.Process | None = None
        self.port = 0
        self._clients: list[Client] = []

    async def __aenter__(self) -> "ServerProcess":
        await self.mail.start()
        self.partner.start()
        await self.command(
            "building", "add", "--name=Maple", "--token=maple", "--agent-email=agent@maple.test"
        )
        return self

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.gather(*(client.close() for client in self._clients))
        await self.kill()
        await self.partner.stop()
        await self.mail.stop()

    def environment(self) -> dict[str, str]:
        """What the program is started with."""
        settings = {
            "data_dir": str(self.data_dir),
            "port": "0",
            "rate_limit": "1000000/1",
            "smtp_url": self.mail.url,
            "june_homes_url": self.partner.url,
            "june_homes_secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            **self._settings,
        }
        trial = {"TRIAL_FOLDER": str(self.folder), "TRIAL_MUTANT": self._mutant or "", **self.variables}
        return environment(**settings) | {"PYTHONUNBUFFERED": "1"} | trial

    async def command(self, *args: str) -> tuple[int, str]:
        """Run a command to its end: its exit status, and what it said."""
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(LAUNCHER),
                *args,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                stdin=asyncio.subprocess.DEVNULL,
                env=self.environment(),
                cwd=ROOT,
            )
            output, _ = await process.communicate()
        return process.returncode or 0, output.decode()

    async def start(self, limit_descriptors: int | None = None) -> None:
        """Start serving; raises AssertionError, with what it said, if it doesn't."""
        prefix = ["prlimit", f"--nofile={limit_descriptors}"] if limit_descriptors else []
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *prefix,
                sys.executable,
                str(LAUNCHER),
                "serve",
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                stdin=asyncio.subprocess.DEVNULL,
                env=self.environment(),
                cwd=ROOT,
            )
        assert self.process.stdout
        line = (await self.process.stdout.readline()).decode()
        found = re.search(r"leads at http://\S+:(\d+) ", line)
        if found is None:
            status = await self.process.wait()
            self.process = None
            raise AssertionError(f"it did not start ({status}): {self.log.read_text()[-2_000:]}")
        self.port = int(found[1])

    async def start_again(self) -> None:
        """Start serving, as a supervisor does: until it stays."""
        deadline = time.monotonic() + LINGER_SECONDS
        while True:
            try:
                return await self.start()
            except AssertionError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)

    async def kill(self) -> None:
        """kill -9, if it still runs."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """SIGTERM; answers with the exit status."""
        return await self._end(signal.SIGTERM)

    @property
    def runs(self) -> bool:
        """Whether it was started and has not ended."""
        return self.process is not None and self.process.returncode is None

    async def ended(self, *, wait: bool = True) -> int | None:
        """Its exit status if it has ended by itself, or does so in good time; None if it still runs."""
        process = self.process
        assert process
        patience = 4.0 if self._mutant else 30.0  # a mutant may well go on for ever
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), patience if wait else 0.001)
        if process.returncode is not None:
            await self._end(signal.SIGKILL)
        return process.returncode

    async def _end(self, number: signal.Signals) -> int:
        process, self.process = self.process, None
        if process is None:
            return 0
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.send_signal(number)
        assert process.stdout
        await process.stdout.read()
        return await process.wait()

    def client(self) -> Client:
        """A new client; it is closed with the box, if not before."""
        self._clients.append(Client(self.port))
        return self._clients[-1]

    def log_lines(self, event: str) -> int:
        """How often this event is in the log."""
        return sum(event in line for line in self.log.read_text().splitlines())

    async def first_answer(self, ledger: Ledger) -> None:
        """Post leads until one is acknowledged: then all is as it was."""
        deadline = time.monotonic() + LINGER_SECONDS
        client = self.client()
        while time.monotonic() < deadline:
            with suppress(Gone):
                if (await post_lead(client, ledger)).status == 201:
                    break
            await asyncio.sleep(0.02)
        await client.close()


class LoadClients:
    """Clients that post leads one after the other, each on its own connection, until they are sent home."""

    def __init__(
        self,
        box: ServerProcess,
        ledger: Ledger,
        clients: int = 16,
        *,
        pause: float = 0.0,
        keyed: bool = False,
    ) -> None:
        """keyed: each lead comes with an Idempotency-Key."""
        self._box, self._ledger, self._pause, self._keyed = box, ledger, pause, keyed
        self._home = asyncio.Event()
        self._tasks = [asyncio.create_task(self._post(number)) for number in range(clients)]

    async def _post(self, number: int) -> None:
        client = self._box.client()
        while not self._home.is_set():
            try:
                email = new_email()
                key = {"Idempotency_Key": email} if self._keyed else {}
                answer = await post_lead(client, self._ledger, email, **key)
            except Gone:
                break
            await asyncio.sleep(0.02 if answer.status != 201 else self._pause)
        await client.close()

    async def reach(self, count: int) -> None:
        """Wait until so many leads are acknowledged, or nobody posts any more."""
        while len(self._ledger.acknowledged) < count and not all(task.done() for task in self._tasks):
            await asyncio.sleep(0.002)

    async def go_home(self) -> None:
        """Let each finish what it waits for."""
        self._home.set()
        await asyncio.gather(*self._tasks)


@dataclass(frozen=True)
class StoredLead:
    """What the disk has of a lead."""

    email: str
    deals: int
    deliveries: tuple[str, ...]
    keys: int  # Idempotency-Keys that it was sent under

    @property
    def whole(self) -> bool:
        return self.deals == 1 and self.deliveries == ("email", "june_homes")


def stored_leads(database: Path) -> dict[int, StoredLead]:
    """The leads in this file and its journal, by id."""
    with closing(apsw.Connection(str(database))) as connection:
        verdict = connection.execute("PRAGMA integrity_check(1)").get
        assert verdict == "ok", verdict
        deliveries: dict[int, list[str]] = {}
        for lead_id, kind in connection.execute("SELECT lead_id, kind FROM delivery ORDER BY kind"):
            deliveries.setdefault(lead_id, []).append(kind)
        deals = Counter(lead_id for (lead_id,) in connection.execute("SELECT lead_id FROM deal"))
        keys = Counter(lead_id for (lead_id,) in connection.execute("SELECT lead_id FROM idempotency_key"))
        return {
            lead_id: StoredLead(email, deals[lead_id], tuple(deliveries.get(lead_id, ())), keys[lead_id])
            for lead_id, email in connection.execute("SELECT id, requestor_email FROM lead")
        }


def judge_storage(trial: FaultRun, ledger: Ledger, stored: dict[int, StoredLead]) -> None:
    """Compare what was promised with what is there."""
    gone = sum(
        1
        for lead_id, email in ledger.acknowledged.items()
        if lead_id not in stored or stored[lead_id].email != email
    )
    half = sum(not lead.whole for lead in stored.values())
    trial.lost += gone + half
    trial.duplicated += sum(n - 1 for n in Counter(lead.email for lead in stored.values()).values())
    trial.require(half == 0, "no lead is stored without its deal and outbox rows")
    kept = ledger.refused & {lead.email for lead in stored.values()}
    trial.require(not kept, "what was said not to be stored isn't")
    trial.require(ledger.twice == 0, "no id is given to two leads")
    trial.require(set(ledger.answers) <= {201, 503}, "a lead is answered 201 or 503")


def spread(times: int, most: int, first: int = 0) -> list[int]:
    """So many different moments of `most`, from the first on to the last."""
    if times >= most:
        return list(range(first, first + most))
    return sorted({first + round(at * (most - 1) / (times - 1)) for at in range(times)})


def seeded(trial: FaultRun) -> random.Random:
    """The same chances at every run."""
    return random.Random(f"{trial.times}")


def cpu_seconds(pid: int) -> float:
    """The processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
