"""The processes of the bench: the server of a checkout, bare Tornado, and the mail sink."""

import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Process:
    """A running program, and the URL on which it listens. sink: the mail sink of a server."""

    url: str
    process: "subprocess.Popen[str]"
    output: Path
    started_in: float  # seconds from the command until it listens
    sink: "Process | None" = None

    @property
    def resident_mb(self) -> float:
        """The resident memory of the process, in millions of bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found[1]) * 1024 / 1e6


@contextmanager
def started(
    *command: str, program: Sequence[str] = (sys.executable,), cwd: Path = ROOT, **variables: str
) -> Iterator[Process]:
    """Run a program that prints 'at URL' once it listens, until the block is left.

    Its output goes to files, so that a long one never blocks it. Raises RuntimeError if the program ends
    before it listens.
    """
    rest = {name: value for name, value in os.environ.items() if not name.startswith("LEADS_")}
    with tempfile.TemporaryDirectory(prefix="leads-bench-") as folder:
        output, log = Path(folder) / "output", Path(folder) / "log"
        began = time.monotonic()
        with output.open("w") as out, log.open("w") as err:
            process = subprocess.Popen(
                [*program, *command],
                cwd=cwd,
                env=rest | variables,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                text=True,
            )
        try:
            while not (found := re.search(r"\bat (\w+://[\w.:]+)", output.read_text())):
                if process.poll() is not None:
                    raise RuntimeError(f"{' '.join(command)} did not start:\n{log.read_text()[-2_000:]}")
                time.sleep(0.002)
            yield Process(found[1], process, output, time.monotonic() - began)
        finally:
            process.terminate()
            process.wait(60)


@contextmanager
def bare_tornado() -> Iterator[Process]:
    """Run the yardstick."""
    with started("bench/bare.py") as process:
        yield process


@contextmanager
def mail_sink() -> Iterator[Process]:
    """Run a mail server that accepts every mail."""
    with started("bench/sink.py") as process:
        yield process


@contextmanager
def leads_server(checkout: Path, data_dir: Path | None = None, /, **variables: str) -> Iterator[Process]:
    """Run the server of a checkout with everything on but nightly backups; its mail goes to a sink.

    data_dir: by default an empty one, with the bench's building. variables: LEADS_* and others.
    """
    with tempfile.TemporaryDirectory(prefix="leads-bench-", dir=ROOT.parent) as folder, mail_sink() as sink:
        if data_dir is None:
            data_dir = Path(folder) / "data"
            register_building(checkout, data_dir)
        settings = {
            "LEADS_DATA_DIR": str(data_dir),
            "LEADS_PORT": "0",
            "LEADS_RATE_LIMIT": "1000000/1",
            "LEADS_BACKUP_KEEP": "0",
            "LEADS_SMTP_URL": sink.url,
            "LEADS_MAIL_FROM": "leads@bench.example",
            "LEADS_LOG_FORMAT": "text",
            **_without_digests(checkout),
            **variables,
        }
        with started("server.py", "serve", cwd=checkout, **settings) as process:
            began = time.monotonic()
            urllib.request.urlopen(process.url + "/readyz").close()  # raises HTTPError unless it is 200
            ready = time.monotonic() - began
            yield replace(process, started_in=process.started_in + ready, sink=sink)


def _without_digests(checkout: Path) -> dict[str, str]:
    """Return the settings by which each lead has a mail of its own. An older server does not know them."""
    names = ("mails_per_source", "mails_per_address")
    known = (checkout / "models" / "settings.py").read_text(encoding="utf-8")
    return {f"LEADS_{name.upper()}": "0" for name in names if name in known}


def register_building(checkout: Path, data_dir: Path, **variables: str) -> None:
    """Make a database with the building that the bench's leads name. variables: LEADS_* and others."""
    add = ["building", "add", "--name=Bench", "--token=bench", "--agent-email=agent@bench.example"]
    command = [sys.executable, "server.py", *add, f"--data-dir={data_dir}"]
    subprocess.run(command, cwd=checkout, env=os.environ | variables, check=True, capture_output=True)
