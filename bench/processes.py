"""Owns what is measured and what measures it: each a process of its own, started and ended here."""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
LEADS = "/api/v1/website_leads"
WRK = shutil.which("wrk")
WARM_UP_SECONDS = 1


@dataclass(frozen=True)
class Process:
    """A program that was started, and where it listens. sink: where its mail goes."""

    url: str
    process: "subprocess.Popen[str]"
    output: Path
    started_in: float  # seconds, from the command to its being ready
    sink: "Process | None" = None

    @property
    def resident_mb(self) -> float:
        """The memory it has, in units of a million bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found[1]) * 1024 / 1e6


@contextmanager
def started(*command: str, program: Sequence[str] = (sys.executable,), **variables: str) -> Iterator[Process]:
    """Start a program that says 'at URL' once it is ready; it is ended with the block."""
    rest = {name: value for name, value in os.environ.items() if not name.startswith("LEADS_")}
    with tempfile.TemporaryDirectory(prefix="leads-bench-") as folder:
        output, log = Path(folder) / "output", Path(folder) / "log"
        began = time.monotonic()
        with output.open("w") as out, log.open("w") as err:
            process = subprocess.Popen(
                [*program, *command],
                cwd=ROOT,
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
def bare() -> Iterator[Process]:
    """The yardstick."""
    with started("bench/bare.py") as process:
        yield process


@contextmanager
def mail_sink() -> Iterator[Process]:
    """A mail server that takes all."""
    with started("bench/sink.py") as process:
        yield process


@contextmanager
def leads_server(data_dir: Path | None = None, /, **settings: str) -> Iterator[Process]:
    """The server as it is used, all of it on, with mail going to a sink; on this folder, or an empty one."""
    with tempfile.TemporaryDirectory(prefix="leads-bench-", dir=ROOT.parent) as folder, mail_sink() as sink:
        variables = {
            "LEADS_DATA_DIR": str(data_dir or Path(folder) / "data"),
            "LEADS_PORT": "0",
            "LEADS_RATE_LIMIT": "1000000/1",
            "LEADS_BACKUP_KEEP": "0",
            "LEADS_SMTP_URL": sink.url,
            "LEADS_LOG_FORMAT": "text",
            **settings,
        }
        if data_dir is None:
            register_building(Path(folder) / "data")
        with started("server.py", "serve", **variables) as process:
            began = time.monotonic()
            urllib.request.urlopen(process.url + "/readyz").close()  # raises HTTPError unless it is 200
            ready = time.monotonic() - began
            yield replace(process, started_in=process.started_in + ready, sink=sink)


def register_building(data_dir: Path) -> None:
    """Make a database with the building that the leads are for."""
    add = ["building", "add", "--name=Bench", "--token=bench", "--agent-email=agent@bench.example"]
    command = [sys.executable, "server.py", *add, f"--data-dir={data_dir}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


@dataclass(frozen=True)
class Load:
    """What a client saw: answers a second, and their latency in milliseconds."""

    rate: float
    p50: float
    p99: float


def as_fast_as_it_can(url: str, connections: int, seconds: int, refused: bool = False) -> Load:
    """Send leads over so many connections, each the next one when it has its answer.

    refused: all are to be answered with an error; else none. Raises AssertionError if they are not.
    """
    for length in (WARM_UP_SECONDS, seconds):
        seen = (_wrk if WRK else _pace)(url, connections, length)
        wrong = seen["requests"] - seen["refused"] if refused else seen["refused"]
        assert wrong == 0 and seen["requests"] > 0, f"{wrong} of {seen['requests']} got another answer"
    return Load(seen["requests"] / seen["seconds"], seen["p50"], seen["p99"])


def _wrk(url: str, connections: int, seconds: int) -> dict[str, Any]:
    command = [
        str(WRK),
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "-s",
        str(HERE / "lead.lua"),
        url + LEADS,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout.splitlines()[-1])
    assert not seen["failed"], seen
    return {
        "requests": seen["requests"],
        "refused": seen["statuses_over_399"],
        "seconds": seen["microseconds"] / 1e6,
        "p50": seen["p50_us"] / 1e3,
        "p99": seen["p99_us"] / 1e3,
    }


def _pace(url: str, connections: int, seconds: int) -> dict[str, Any]:
    seen = at_a_rate(url, 0, seconds, connections)
    count = len(seen.latencies)
    return {
        "requests": count,
        "refused": count - seen.statuses.get("201", 0),
        "seconds": seconds,
        "p50": statistics.median(seen.latencies),
        "p99": quantile(seen.latencies, 0.99),
    }


@dataclass(frozen=True)
class Paced:
    """What a client that sends at a steady rate saw. Latencies in ms; accepted: by renter, when."""

    statuses: dict[str, int]
    latencies: list[float]
    accepted: dict[str, float]


def at_a_rate(url: str, rate: float, seconds: float, connections: int = 64) -> Paced:
    """Send so many leads a second."""
    command = [sys.executable, "bench/pace.py", url + LEADS, str(rate), str(seconds), str(connections)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout)
    return Paced(seen["statuses"], seen["ms"], seen["accepted"])


def quantile(values: list[float], part: float) -> float:
    """The value below which this part of them lies."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]
