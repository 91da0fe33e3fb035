"""Owns the pytest plugin for those who integrate with the API: `leads_sandbox`, a sandbox to test against.

In your own project: `pytest_plugins = ["leads_sandbox"]` in conftest.py, with this folder on the path
(`pythonpath` in your pytest settings). It takes nothing but pytest and Python's own library; the server runs
on the Python of the repository's .venv, or by LEADS_SANDBOX_COMMAND: the one-file program, say.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 10.0
Json = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What the server answered. body: of JSON its value, else its text."""

    status: int
    headers: Mapping[str, str]
    body: Any


class Listing:
    """A list in the sandbox that grows: leads, mails, partner_calls or requests."""

    def __init__(self, sandbox: "Sandbox", name: str) -> None:
        self._sandbox, self._name = sandbox, name

    def all(self, **only: object) -> list[Json]:
        """What is there now. only: lead=1, email="…", status=201, after=3, where the list knows of it."""
        return self._get(only)

    def wait(self, count: int = 1, seconds: float = WAIT_SECONDS, **only: object) -> list[Json]:
        """What is there once there are so many. Raises AssertionError if there aren't, in so many seconds."""
        return self._get({**only, "count": count, "wait": seconds})

    def one(self, seconds: float = WAIT_SECONDS, **only: object) -> Json:
        """The last that is there once there is one."""
        return self.wait(1, seconds, **only)[-1]

    def _get(self, query: Json) -> list[Json]:
        answer = self._sandbox.call("GET", f"{self._name}?{urlencode(query)}")
        found: list[Json] = answer[self._name]
        return found


class Faults:
    """What goes wrong in the sandbox: on "api", "smtp" or "partner"."""

    def __init__(self, sandbox: "Sandbox") -> None:
        self._sandbox = sandbox

    def next(self, on: str, what: int | str, times: int = 1, seconds: float = 1) -> None:
        """Have the next so many calls answered with this status or SMTP reply, or be "slow" or "cut"."""
        self._add({"on": on, "what": what, "next": times, "seconds": seconds})

    def share(self, on: str, what: int | str, share: float, seed: int = 0, seconds: float = 1) -> None:
        """The same for a share of all calls, the same ones for the same seed."""
        self._add({"on": on, "what": what, "share": share, "seed": seed, "seconds": seconds})

    def clear(self) -> None:
        """Have none."""
        self._sandbox.call("DELETE", "faults")

    def _add(self, fault: Json) -> None:
        self._sandbox.call("POST", "faults", fault)


class Clock:
    """The sandbox's clock: limits, retries, holds and keys all go by it."""

    def __init__(self, sandbox: "Sandbox") -> None:
        self._sandbox = sandbox

    def freeze(self) -> None:
        """Stand still."""
        self._sandbox.call("POST", "clock", {"freeze": True})

    def go_on(self) -> None:
        """Go on from there."""
        self._sandbox.call("POST", "clock", {"freeze": False})

    def advance(self, seconds: float) -> None:
        """Be so much later at once."""
        self._sandbox.call("POST", "clock", {"advance": seconds})

    def now(self) -> str:
        """What time it is there: 2026-11-23T10:00:00.000000Z."""
        now: str = self._sandbox.call("GET", "clock")["now"]
        return now


class Sandbox:
    """A running sandbox. leads_url: where leads are POSTed to; token: of the building that is there."""

    token = "demo"

    def __init__(self, url: str) -> None:
        self.url = url
        self.leads_url = f"{url}/api/v1/website_leads"
        self.leads = Listing(self, "leads")
        self.mails = Listing(self, "mails")
        self.partner_calls = Listing(self, "partner_calls")
        self.requests = Listing(self, "requests")
        self.faults = Faults(self)
        self.clock = Clock(self)

    def post(self, body: Json | bytes, **headers: str) -> Answer:
        """POST a lead, as JSON unless Content_Type says otherwise; what was answered, whatever it was."""
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return _request("POST", self.leads_url, sent, {"Content-Type": "application/json", **given})

    def lead(self, **fields: object) -> int:
        """POST a lead of the building that is there; its id. Raises AssertionError if it was refused."""
        fields.setdefault("requestor_email", "jane@renter.test")
        answer = self.post({"token": self.token, "tour_request": fields})
        assert answer.status == 201, answer
        lead_id: int = answer.body["id"]
        return lead_id

    def diagnosis(self, seconds: float = WAIT_SECONDS) -> dict[str, str]:
        """What there is to say of the last request, by code."""
        return {found["code"]: found["says"] for found in self.requests.one(seconds)["diagnosis"]}

    def delivery(
        self, lead: int, kind: str = "email", attempts: int = 1, seconds: float = WAIT_SECONDS
    ) -> Json:
        """How far the lead's mail, or its "june_homes" copy, has got, once it was tried so often: state,
        attempts, reason. Raises AssertionError if it wasn't, in so many seconds.
        """
        until = time.monotonic() + seconds
        while True:
            stored = next(one for one in self.leads.all() if one["id"] == lead)
            found: Json = next(one for one in stored["deliveries"] if one["kind"] == kind)
            if found["attempts"] >= attempts and found["state"] != "sending":
                return found
            if time.monotonic() > until:
                raise AssertionError(f"after {seconds} s it is {found}")
            time.sleep(0.02)

    def register(self, **building: str) -> Json:
        """Register another building: name, website_url, token, agent_email, time_zone and so on."""
        return self.call("POST", "buildings", {"name": "Another building", **building})

    def reset(self) -> None:
        """As it was at the start."""
        self.call("POST", "reset", {})

    def call(self, method: str, path: str, body: Json | None = None) -> Json:
        """Call the sandbox's own API. Raises AssertionError with what it said if it refused."""
        sent = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        answer = _request(method, f"{self.url}/sandbox/api/{path}", sent, headers)
        if answer.status >= 300:
            raise AssertionError(answer.body["error"])
        value: Json = answer.body
        return value


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        return None  # what a form is led on to is somebody else's website


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)


def _request(method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
    request = urllib.request.Request(url, body, dict(headers), method=method)
    try:
        with _OPENER.open(request, timeout=90) as response:
            status, answered, content = response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        with error:
            status, answered, content = error.code, error.headers, error.read()
    is_json = answered.get_content_type() == "application/json"
    return Answer(status, answered, json.loads(content) if is_json and content else content.decode())


def _command() -> list[str]:
    if given := os.environ.get("LEADS_SANDBOX_COMMAND"):
        return shlex.split(given)
    python = ROOT / ".venv" / "bin" / "python"
    return [str(python) if python.exists() else sys.executable, str(ROOT / "server.py")]


@pytest.fixture(scope="session")
def leads_sandbox_process() -> Iterator[str]:
    """The URL of a sandbox that runs for as long as the tests do."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LEADS_")}
    process = subprocess.Popen(
        [*_command(), "sandbox", "--port", "0"], stdout=subprocess.PIPE, text=True, env=clean
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.match(r"Sandbox at (\S+)", said)
        assert found, f"the sandbox did not start; it said {said!r}"
        yield found[1]
    finally:
        process.terminate()
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def leads_sandbox(leads_sandbox_process: str) -> Sandbox:
    """A sandbox as it is at its start."""
    sandbox = Sandbox(leads_sandbox_process)
    sandbox.reset()
    return sandbox
