"""pytest plugin for integrations with the API: the fixture `leads_sandbox`, a server to test against.

To use it, write `pytest_plugins = ["leads_sandbox"]` in your conftest.py, and put this folder on the path
(`pythonpath` in the settings of pytest). The plugin needs only pytest and Python's standard library. The
server runs on the Python of the repository's .venv. LEADS_SANDBOX_COMMAND names another command to start it,
such as the one-file program.
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
    """HTTP response of the server. body: the value of a JSON body, else the text."""

    status: int
    headers: Mapping[str, str]
    body: Any


class Listing:
    """A growing list of the sandbox: leads, mails, partner_calls or requests."""

    def __init__(self, sandbox: "Sandbox", name: str) -> None:
        self._sandbox, self._name = sandbox, name

    def all(self, **only: object) -> list[Json]:
        """Return the present items, the oldest first.

        only: a filter. leads take email="…", mails and partner_calls take lead=1 (an id), requests take
        status=201 and after=3 (a number).
        """
        return self._get(only)

    def wait(self, count: int = 1, seconds: float = WAIT_SECONDS, **only: object) -> list[Json]:
        """Wait until there are this many items, and return all of them. only: a filter, as of `all`.

        Raises AssertionError if there are fewer after the seconds given.
        """
        return self._get({**only, "count": count, "wait": seconds})

    def one(self, seconds: float = WAIT_SECONDS, **only: object) -> Json:
        """Wait until there is an item, and return the latest. Raises AssertionError, as `wait`."""
        return self.wait(1, seconds, **only)[-1]

    def _get(self, query: Json) -> list[Json]:
        answer = self._sandbox.call("GET", f"{self._name}?{urlencode(query)}")
        found: list[Json] = answer[self._name]
        return found


class Faults:
    """Faults that the sandbox injects. on: "api", "smtp" (the mail server) or "partner" (June Homes).

    what: an HTTP status or SMTP reply to send instead, "slow" or "cut" (the connection). seconds: the delay
    of a slow reply, or the value of Retry-After.
    """

    def __init__(self, sandbox: "Sandbox") -> None:
        self._sandbox = sandbox

    def next(self, on: str, what: int | str, times: int = 1, seconds: float = 1) -> None:
        """Inject the fault into the next calls. times: how many."""
        self._add({"on": on, "what": what, "next": times, "seconds": seconds})

    def share(self, on: str, what: int | str, share: float, seed: int = 0, seconds: float = 1) -> None:
        """Inject the fault into a share (0 to 1) of all calls. The same seed picks the same calls."""
        self._add({"on": on, "what": what, "share": share, "seed": seed, "seconds": seconds})

    def clear(self) -> None:
        """Remove all faults."""
        self._sandbox.call("DELETE", "faults")

    def _add(self, fault: Json) -> None:
        self._sandbox.call("POST", "faults", fault)


class Clock:
    """The sandbox's clock. Rate limit, retries, open circuit breakers and Idempotency-Keys use its time."""

    def __init__(self, sandbox: "Sandbox") -> None:
        self._sandbox = sandbox

    def freeze(self) -> None:
        """Stop the clock."""
        self._sandbox.call("POST", "clock", {"freeze": True})

    def go_on(self) -> None:
        """Let the clock run again, from the time at which it was stopped."""
        self._sandbox.call("POST", "clock", {"freeze": False})

    def advance(self, seconds: float) -> None:
        """Set the clock forward."""
        self._sandbox.call("POST", "clock", {"advance": seconds})

    def now(self) -> str:
        """Return the time of the clock, like 2026-11-23T10:00:00.000000Z."""
        now: str = self._sandbox.call("GET", "clock")["now"]
        return now


class Sandbox:
    """A running sandbox. leads_url: the URL to POST leads to. token: the demo building's token."""

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
        """POST a lead, and return the response, whatever its status.

        headers: with _ for -, such as Content_Type (default application/json).
        """
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return _request("POST", self.leads_url, sent, {"Content-Type": "application/json", **given})

    def lead(self, **fields: object) -> int:
        """POST a lead for the demo building, and return its id. fields: of its tour_request.

        Raises AssertionError if the server refuses the lead.
        """
        fields.setdefault("requestor_email", "jane@renter.test")
        answer = self.post({"token": self.token, "tour_request": fields})
        assert answer.status == 201, answer
        lead_id: int = answer.body["id"]
        return lead_id

    def diagnosis(self, seconds: float = WAIT_SECONDS) -> dict[str, str]:
        """Return the diagnosis of the latest request: its sentences by code. Empty if there is no mistake."""
        return {found["code"]: found["says"] for found in self.requests.one(seconds)["diagnosis"]}

    def delivery(
        self, lead: int, kind: str = "email", attempts: int = 1, seconds: float = WAIT_SECONDS
    ) -> Json:
        """Wait until a delivery of the lead was attempted this often; return its state, attempts and reason.

        kind: "email" or "june_homes". Raises AssertionError if there are fewer attempts after the seconds.
        """
        deadline = time.monotonic() + seconds
        while True:
            stored = next(one for one in self.leads.all() if one["id"] == lead)
            found: Json = next(one for one in stored["deliveries"] if one["kind"] == kind)
            if found["attempts"] >= attempts and found["state"] != "sending":
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"after {seconds} s the delivery is {found}")
            time.sleep(0.02)

    def register(self, **building: str | list[str]) -> Json:
        """Register another building, with name, website_urls, token, agent_email, time_zone etc.

        website_urls: a list. website_url: one URL. The other values are strings.
        """
        return self.call("POST", "buildings", {"name": "Another building", **building})

    def add_website(self, url: str, building: int = 1) -> Json:
        """Add a website to a building, so that its pages may send leads. building: an id; 1 is the demo's."""
        return self.call("POST", f"buildings/{building}/websites", {"url": url})

    def reset(self) -> None:
        """Restore the first state: the demo building alone, the machine's time, no leads and no faults."""
        self.call("POST", "reset", {})

    def call(self, method: str, path: str, body: Json | None = None) -> Json:
        """Call the sandbox's own API, and return its JSON.

        Raises AssertionError with the error message if the API refuses the request.
        """
        sent = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        answer = _request(method, f"{self.url}/sandbox/api/{path}", sent, headers)
        if answer.status >= 300:
            raise AssertionError(answer.body["error"])
        value: Json = answer.body
        return value


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        return None  # a form's redirect leads to another website


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
    """URL of a sandbox that runs until the tests end."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LEADS_")}
    process = subprocess.Popen(
        [*_command(), "sandbox", "--port", "0"], stdout=subprocess.PIPE, text=True, env=clean
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.match(r"Sandbox at (\S+)", line)
        assert match, f"the sandbox did not start; it printed {line!r}"
        yield match[1]
    finally:
        process.terminate()
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def leads_sandbox(leads_sandbox_process: str) -> Sandbox:
    """A sandbox that was just reset."""
    sandbox = Sandbox(leads_sandbox_process)
    sandbox.reset()
    return sandbox
