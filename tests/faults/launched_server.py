"""The program as a process of a fault run: started by the launcher, with a mail server and a partner."""

import asyncio
import os
import re
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from fault_run import FaultRun
from lead_client import Client, Disconnected, Ledger, post_lead
from mail_server import MailServer
from partner_server import PartnerServer
from server_process import ROOT, environment

LAUNCHER = Path(__file__).parent / "launcher.py"
RECOVERY_TIMEOUT_SECONDS = 60.0  # only a broken promise takes this long


class LaunchedServer:
    """The program on one data folder. An asyncio process, as its mail server and partner run on this loop."""

    def __init__(self, run: FaultRun, folder: Path | None = None, **settings: str) -> None:
        """folder: of the data, the log and the disk's orders; by default the run's own."""
        self.folder = folder or run.folder
        self.folder.mkdir(exist_ok=True)
        self.data_dir = self.folder / "data"
        self.log = self.folder / "log"
        self.mail, self.partner = MailServer(), PartnerServer()
        self._settings = settings
        self._mutant = run.mutant
        self.variables: dict[str, str] = {}  # of the launcher
        self.process: asyncio.subprocess.Process | None = None
        self.port = 0
        self._clients: list[Client] = []

    async def __aenter__(self) -> "LaunchedServer":
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

    def _environment(self) -> dict[str, str]:
        settings = {
            "data_dir": str(self.data_dir),
            "port": "0",
            "rate_limit": "1000000/1",
            "smtp_url": self.mail.url,
            "mail_from": "leads@office.test",
            "mails_per_source": "0",
            "mails_per_address": "0",
            "june_homes_url": self.partner.url,
            "june_homes_secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            **self._settings,
        }
        launcher = {"FAULT_FOLDER": str(self.folder), "FAULT_MUTANT": self._mutant or "", **self.variables}
        return environment(**settings) | {"PYTHONUNBUFFERED": "1"} | launcher

    async def _launch(self, *command: str, stderr: int | None = None) -> asyncio.subprocess.Process:
        with self.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *command,
                stdout=asyncio.subprocess.PIPE,
                stderr=log if stderr is None else stderr,
                stdin=asyncio.subprocess.DEVNULL,
                env=self._environment(),
                cwd=ROOT,
            )

    async def command(self, *args: str) -> tuple[int, str]:
        """Run a command to its end, and return its exit status and output."""
        process = await self._launch(sys.executable, str(LAUNCHER), *args)
        output, _ = await process.communicate()
        return process.returncode or 0, output.decode()

    async def start(self, limit_descriptors: int | None = None, log: int | None = None) -> None:
        """Start `serve` and wait until it listens. Raises AssertionError, with its log, if it ends first.

        log: the descriptor that it logs to, in place of the file.
        """
        prefix = ["prlimit", f"--nofile={limit_descriptors}"] if limit_descriptors else []
        self.process = await self._launch(*prefix, sys.executable, str(LAUNCHER), "serve", stderr=log)
        assert self.process.stdout
        line = (await self.process.stdout.readline()).decode()
        found = re.search(r"leads at http://\S+:(\d+) ", line)
        if found is None:
            status = await self.process.wait()
            self.process = None
            raise AssertionError(f"it did not start ({status}): {self.log.read_text()[-2_000:]}")
        self.port = int(found[1])

    async def start_again(self) -> None:
        """Start `serve` as a supervisor does: again after each start that fails."""
        deadline = time.monotonic() + RECOVERY_TIMEOUT_SECONDS
        while True:
            try:
                return await self.start()
            except AssertionError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)

    async def kill(self) -> None:
        """Kill the process with SIGKILL, if it runs."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """Send SIGTERM and return the exit status."""
        return await self._end(signal.SIGTERM)

    @property
    def is_running(self) -> bool:
        """True from a start until the process has ended."""
        return self.process is not None and self.process.returncode is None

    async def exit_status(self, *, wait: bool = True) -> int | None:
        """Return the exit status of a process that ends by itself, or None if it goes on.

        wait: for up to 30 seconds, and kill it after that; else not at all.
        """
        process = self.process
        assert process
        timeout = 4.0 if self._mutant else 30.0  # a mutant may go on for ever
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), timeout if wait else 0.001)
        status = process.returncode
        if wait or status is not None:
            await self._end(signal.SIGKILL)
        return status

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

    def client(self, address: str | None = None) -> Client:
        """Return a new client, at this address. It is closed with this server, at the latest."""
        self._clients.append(Client(self.port, address))
        return self._clients[-1]

    def log_lines(self, event: str) -> int:
        """Return how many log lines contain this event."""
        return sum(event in line for line in self.log.read_text().splitlines())

    async def first_answer(self, ledger: Ledger) -> None:
        """Post leads until the server acknowledges one: it has recovered."""
        deadline = time.monotonic() + RECOVERY_TIMEOUT_SECONDS
        client = self.client()
        while time.monotonic() < deadline:
            with suppress(Disconnected):
                if (await post_lead(client, ledger)).status == 201:
                    break
            await asyncio.sleep(0.02)
        await client.close()


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_memory(pid: int) -> int:
    """Return the most memory that a process has had, in bytes."""
    return 1024 * int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0])
