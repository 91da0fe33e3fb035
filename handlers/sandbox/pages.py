"""Owns the sandbox's pages: the request log for people, and JSON for tests."""

import ipaddress
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from tornado.web import RedirectHandler, RequestHandler

from handlers.api.leads import PATH
from handlers.base import Handler
from handlers.errors import ApiError, BadRequest
from handlers.sandbox.faults import BadFault
from handlers.sandbox.request_log import MAILS, PARTNER_CALLS
from handlers.static import StaticFile, StaticFiles
from models.building import list_buildings
from models.clock import utc_text
from models.errors import ActionError
from models.lead_record import list_leads, show_lead

if TYPE_CHECKING:
    from handlers.sandbox.environment import SandboxEnvironment

NO_LEAD = 0  # an id that no lead has
STATIC = Path(__file__).parent / "static"
LONGEST_WAIT_SECONDS = 60.0
LONGEST_ADVANCE_SECONDS = 10 * 366 * 86_400.0


def sandbox_pages(
    environment: "SandboxEnvironment",
) -> list[tuple[str, type[RequestHandler], dict[str, Any]]]:
    """The routes of the sandbox, beside those of every server."""
    options = {"environment": environment}
    return [
        (r"/", RedirectHandler, {"url": "/sandbox", "permanent": False}),
        (r"/sandbox/?", StaticFile, {"name": "index.html", "folder": STATIC}),
        (r"/sandbox/static/(.*)", StaticFiles, {"folder": STATIC}),
        (r"/sandbox/api/?", Index, options),
        (r"/sandbox/api/requests", Requests, options),
        (r"/sandbox/api/requests/([0-9]{1,18})", OneRequest, options),
        (r"/sandbox/api/leads", Leads, options),
        (r"/sandbox/api/mails", WhatLeft, {**options, "kind": MAILS}),
        (r"/sandbox/mails/([0-9]{1,18})\.html", MailAsHtml, options),
        (r"/sandbox/api/partner_calls", WhatLeft, {**options, "kind": PARTNER_CALLS}),
        (r"/sandbox/api/buildings", Buildings, options),
        (r"/sandbox/api/faults", FaultsHandler, options),
        (r"/sandbox/api/clock", ClockHandler, options),
        (r"/sandbox/api/reset", Reset, options),
    ]


class SandboxHandler(Handler):
    """A page of the sandbox that answers in JSON."""

    def initialize(self, environment: "SandboxEnvironment") -> None:
        self.environment = environment
        self.route = re.sub("[0-9]+", "N", self.request.path)

    def prepare(self) -> None:
        # A page of some website must not reach into it through the developer's browser, and none that has its
        # own name lead here either.
        if not names_this_network(self.request.host_name):
            raise ApiError(403, "the sandbox is called by an address, localhost, or a name without dots")
        origin = self.request.headers.get("Origin")
        if origin is not None and origin != f"{self.request.protocol}://{self.request.host}":
            raise ApiError(403, "the sandbox's own API is not for other websites' pages")

    def body(self) -> dict[str, Any]:
        """The request's JSON object; {} if there is no body. Raises BadRequest."""
        try:
            body = orjson.loads(self.request.body or b"{}")
        except orjson.JSONDecodeError as error:
            raise BadRequest(f"malformed JSON: {error}") from None
        if not isinstance(body, dict):
            raise BadRequest("the body is a JSON object")
        return body

    def number(self, name: str, default: float, most: float) -> float:
        """The query's argument of this name. Raises BadRequest."""
        text = self.get_query_argument(name, "")
        try:
            value = float(text) if text else default
        except ValueError:
            value = -1.0
        if not 0 <= value <= most:
            raise BadRequest(f"{name} is a number from 0 to {most:g}")
        return value

    async def answer_list(self, name: str, look: Callable[[], Awaitable[list[Any]]]) -> None:
        """Answer with what is there; with ?wait=SECONDS once there are ?count= of them, or 404."""
        await self.environment.diagnosed()
        seconds = self.number("wait", 0, LONGEST_WAIT_SECONDS)
        count = int(self.number("count", 1 if seconds else 0, 1_000))
        found = await self.environment.request_log.wait_for(look, count, seconds)
        if found is None:
            there = len(await look())
            raise ApiError(
                404, f"after {seconds:g} s there are {there} {name.replace('_', ' ')}, not {count}"
            )
        self.write_json(200, {name: found, "era": self.environment.request_log.generation})


def names_this_network(host: str) -> bool:
    """False of a name that anybody could have in the Internet, and point here."""
    try:
        ipaddress.ip_address(host.strip("[]"))
        return True
    except ValueError:
        return "." not in host or host.endswith(".localhost")


class Index(SandboxHandler):
    """GET: what the sandbox is, and what can be asked of it."""

    async def get(self) -> None:
        self.write_json(
            200,
            {
                "leads_url": f"{self.request.protocol}://{self.request.host}{PATH}",
                "buildings": await self.environment.context.storage.read(
                    list_buildings, self.environment.clock.now()
                ),
                "clock": _clock(self.environment),
                "faults": self.environment.faults.as_dicts(),
                "requests": "/sandbox/api/requests?after=NUMBER&wait=SECONDS&count=N, one by its number",
                "leads": "/sandbox/api/leads?email=ADDRESS&wait=SECONDS&count=N",
                "mails": "/sandbox/api/mails?lead=ID&wait=SECONDS&count=N",
                "partner_calls": "/sandbox/api/partner_calls?lead=ID&wait=SECONDS&count=N",
                "reset": "POST /sandbox/api/reset",
            },
        )


class Requests(SandboxHandler):
    """GET: the attempts, after this number, with this status."""

    async def get(self) -> None:
        after = self.number("after", 0, 1e15)
        status = self.get_query_argument("status", None)

        async def look() -> list[Any]:
            attempts = self.environment.request_log.attempts
            since = after if attempts and after <= attempts[-1].number else 0  # after a reset they begin anew
            return [
                attempt.as_dict()
                for attempt in attempts
                if attempt.number > since and (status is None or str(attempt.status) == status)
            ]

        await self.answer_list("requests", look)


class OneRequest(SandboxHandler):
    """GET: an attempt with all that came of it."""

    async def get(self, number: str) -> None:
        request_log = self.environment.request_log
        attempt = next((a for a in request_log.attempts if a.number == int(number)), None)
        if attempt is None:
            raise ApiError(404, f"there is no request {number}, or it was long ago")
        stored = None
        if attempt.lead_id is not None:
            stored = await self.environment.context.storage.read(show_lead, attempt.lead_id)
        self.write_json(
            200,
            {
                **attempt.as_dict(),
                "stored": stored,
                **{
                    kind: request_log.about(kind, attempt.lead_id or NO_LEAD)
                    for kind in (MAILS, PARTNER_CALLS)
                },
            },
        )


class Leads(SandboxHandler):
    """GET: the leads that are stored, the oldest first."""

    async def get(self) -> None:
        email = self.get_query_argument("email", None)

        async def look() -> list[Any]:
            newest = await self.environment.context.storage.read_slowly(lambda: list(list_leads(limit=1_000)))
            leads = reversed(newest)
            return [lead for lead in leads if email is None or lead["requestor_email"] == email]

        await self.answer_list("leads", look)


class WhatLeft(SandboxHandler):
    """GET: the mails that were taken, or the calls that the partner had; about this lead, if one is named."""

    def initialize(self, environment: "SandboxEnvironment", kind: str) -> None:  # type: ignore[override]
        super().initialize(environment)
        self._kind = kind

    async def get(self) -> None:
        text = self.get_query_argument("lead", None)
        if text is not None and not text.isdecimal():
            raise BadRequest("lead is the id of a lead")
        lead = None if text is None else int(text)

        async def look() -> list[Any]:
            return self.environment.request_log.about(self._kind, lead)

        await self.answer_list(self._kind, look)


class MailAsHtml(SandboxHandler):
    """GET: how a mail looks, for a frame in which nothing of it can run or call home."""

    def get(self, number: str) -> None:
        found = [
            mail for mail in self.environment.request_log.about(MAILS, None) if mail["number"] == int(number)
        ]
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", "sandbox; default-src 'none'; style-src 'unsafe-inline'")
        self.set_status(200 if found else 404)
        self.finish(found[0]["html"] or "" if found else "")


class Buildings(SandboxHandler):
    """GET: the buildings. POST: register one: name, website_url, token, agent_email, time_zone and so on."""

    async def get(self) -> None:
        read, now = self.environment.context.storage.read, self.environment.clock.now()
        self.write_json(200, {"buildings": await read(list_buildings, now)})

    async def post(self) -> None:
        fields = self.body()
        if any(not isinstance(value, str) for value in fields.values()):
            raise BadRequest("each field of a building is a string")
        try:
            building = await self.environment.register(fields)
        except ActionError as error:
            raise BadRequest(str(error)) from None
        self.write_json(201, building)


class FaultsHandler(SandboxHandler):
    """GET: the faults to come. POST: one more, {"on": "api", "what": 503, "next": 2}, or a {"seed": 1} for
    those with a share. DELETE: none.
    """

    def get(self) -> None:
        self.write_json(200, {"faults": self.environment.faults.as_dicts()})

    def post(self) -> None:
        wish = self.body()
        seed = wish.pop("seed", None)
        if seed is not None:
            if type(seed) is not int:
                raise BadRequest("seed is a whole number")
            self.environment.faults.seed(seed)
        try:
            if wish or seed is None:
                self.environment.faults.add(wish)
        except BadFault as error:
            raise BadRequest(str(error)) from None
        self.write_json(201, {"faults": self.environment.faults.as_dicts()})

    def delete(self) -> None:
        self.environment.faults.clear()
        self.get()


class ClockHandler(SandboxHandler):
    """GET: what time it is. POST: {"freeze": true}, {"freeze": false}, {"advance": seconds}."""

    def get(self) -> None:
        self.write_json(200, _clock(self.environment))

    def post(self) -> None:
        wish = self.body()
        freeze, seconds = wish.pop("freeze", None), wish.pop("advance", 0)
        if wish or freeze not in (None, True, False):
            raise BadRequest('the clock takes {"freeze": true or false} and {"advance": seconds}')
        if type(seconds) not in (int, float) or not 0 <= seconds <= LONGEST_ADVANCE_SECONDS:
            raise BadRequest(f"advance is a number of seconds, from 0 to {LONGEST_ADVANCE_SECONDS:.0f}")
        clock = self.environment.clock
        if freeze is not None:
            clock.freeze() if freeze else clock.thaw()
        clock.advance(seconds)
        self.environment.context.wake()
        self.get()


class Reset(SandboxHandler):
    """POST: as it was at the start."""

    async def post(self) -> None:
        await self.environment.reset()
        self.write_json(200, {"reset": True})


def _clock(environment: "SandboxEnvironment") -> dict[str, Any]:
    return {"now": utc_text(environment.clock.now()), "frozen": environment.clock.frozen}
