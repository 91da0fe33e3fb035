"""Load on a server: leads as fast as it answers, or at a steady rate."""

import json
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LEADS = "/api/v1/website_leads"
WRK = shutil.which("wrk")
WARM_UP_SECONDS = 1


@dataclass(frozen=True)
class Load:
    """A client's measurements: answers a second, and latencies in milliseconds."""

    rate: float
    p50: float
    p99: float


def send_at_full_speed(url: str, connections: int, seconds: int, refused: bool = False) -> Load:
    """Send leads over so many connections; each sends its next lead once it has an answer.

    refused: every answer is to be an error; else none. Raises AssertionError otherwise.
    """
    for length in (WARM_UP_SECONDS, seconds):
        seen = (_wrk if WRK else _pace)(url, connections, length)
        wrong = seen["requests"] - seen["refused"] if refused else seen["refused"]
        assert wrong == 0 and seen["requests"] > 0, f"{wrong} of {seen['requests']} got another answer"
    return Load(seen["requests"] / seen["seconds"], seen["p50"], seen["p99"])


def _wrk(url: str, connections: int, seconds: int) -> dict[str, Any]:
    script = str(HERE / "lead.lua")
    command = [str(WRK), "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script, url + LEADS]
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
    seen = send_at_rate(url, 0, seconds, connections)
    count = len(seen.latencies)
    return {
        "requests": count,
        "refused": count - seen.statuses.get("201", 0),
        "seconds": seconds,
        "p50": statistics.median(seen.latencies),
        "p99": quantile(seen.latencies, 0.99),
    }


@dataclass(frozen=True)
class PacedLoad:
    """A paced client's measurements. latencies: in ms; accepted: the moment of each 201, by renter."""

    statuses: dict[str, int]
    latencies: list[float]
    accepted: dict[str, float]


def send_at_rate(url: str, rate: float, seconds: float, connections: int = 64) -> PacedLoad:
    """Send so many leads a second."""
    client = str(HERE / "pace.py")
    command = [sys.executable, client, url + LEADS, str(rate), str(seconds), str(connections)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout)
    return PacedLoad(seen["statuses"], seen["ms"], seen["accepted"])


def quantile(values: list[float], part: float) -> float:
    """Return the value below which this part of the values lies."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]
