"""Pages of the sandbox: the request log for people, and a JSON API for tests."""

import re
from pathlib import Path
from typing import Any

from tornado.web import RedirectHandler, RequestHandler

from handlers.api.leads import PATH
from handlers.base import Handler
from handlers.errors import ApiError, BadRequest
from handlers.sandbox.base import SandboxHandler
from handlers.sandbox.environment import SandboxEnvironment
from handlers.sandbox.faults import InvalidFault
from handlers.sandbox.request_log import MAILS, MAX_ENTRIES, OUTGOING, PARTNER_CALLS
from handlers.static import StaticFile, StaticFiles
from models.building import list_buildings
from models.clock import utc_text
from models.errors import ActionError, NotFound
from models.lead_record import list_leads, show_lead

STATIC = Path(__file__).parent / "static"
MAX_ADVANCE_SECONDS = 10 * 366 * 86_400.0
NO_LEAD = 0  # an id that no lead has


def sandbox_pages(environment: SandboxEnvironment) -> list[tuple[str, type[RequestHandler], dict[str, Any]]]:
    """Return the routes that only a sandbox has."""
    options = {"environment": environment}
    return [
        (r"/", StartHandler, {"url": "/sandbox", "permanent": False}),
        (r"/sandbox/?", StaticFile, {"name": "index.html", "folder": STATIC}),
        (r"/sandbox/static/(.*)", StaticFiles, {"folder": STATIC}),
        (r"/sandbox/api/?", IndexHandler, options),
        (r"/sandbox/api/requests", RequestsHandler, options),
        (r"/sandbox/api/requests/([0-9]{1,18})", RequestDetailHandler, options),
        (r"/sandbox/api/leads", StoredLeadsHandler, options),
        (r"/sandbox/api/mails", OutgoingHandler, {**options, "kind": MAILS}),
        (r"/sandbox/mails/([0-9]{1,18})\.html", MailHtmlHandler, options),
        (r"/sandbox/api/partner_calls", OutgoingHandler, {**options, "kind": PARTNER_CALLS}),
        (r"/sandbox/api/buildings", BuildingsHandler, options),
        (r"/sandbox/api/buildings/([0-9]{1,18})/websites", BuildingWebsitesHandler, options),
        (r"/sandbox/api/faults", FaultsHandler, options),
        (r"/sandbox/api/clock", ClockHandler, options),
        (r"/sandbox/api/reset", ResetHandler, options),
    ]


class StartHandler(Handler, RedirectHandler):
    """GET: a redirect to the page of the sandbox."""


class IndexHandler(SandboxHandler):
    """GET: the state of the sandbox, and its other addresses."""

    async def get(self) -> None:
        environment = self.environment
        buildings = await environment.context.storage.read(list_buildings, environment.clock.now())
        self.write_json(
            200,
            {
                "leads_url": self.own_url() + PATH,
                "buildings": buildings,
                "add_website": 'POST /sandbox/api/buildings/ID/websites {"url": URL}',
                "clock": _clock_as_dict(environment),
                "faults": environment.faults.as_dicts(),
                "requests": "/sandbox/api/requests?after=NUMBER&wait=SECONDS&count=N, one by its number",
                "leads": "/sandbox/api/leads?email=ADDRESS&wait=SECONDS&count=N",
                "mails": "/sandbox/api/mails?lead=ID&wait=SECONDS&count=N",
                "partner_calls": "/sandbox/api/partner_calls?lead=ID&wait=SECONDS&count=N",
                "reset": "POST /sandbox/api/reset",
            },
        )


class RequestsHandler(SandboxHandler):
    """GET: the recorded requests; ?after=NUMBER and ?status= select some."""

    async def get(self) -> None:
        after = self.number_argument("after", 0, 1e15)
        status = self.get_query_argument("status", None)

        async def query() -> list[Any]:
            requests = self.environment.request_log.requests
            # After a reset the numbers begin at 1 again, so a larger one is from before it.
            since = after if requests and after <= requests[-1].number else 0
            return [
                request.as_dict()
                for request in requests
                if request.number > since and (status is None or str(request.status) == status)
            ]

        await self.answer_list("requests", query)


class RequestDetailHandler(SandboxHandler):
    """GET: a recorded request with its stored lead, mails and partner calls."""

    async def get(self, number: str) -> None:
        request_log = self.environment.request_log
        request = next((r for r in request_log.requests if r.number == int(number)), None)
        if request is None:
            raise ApiError(404, f"there is no request {number}, or it is not among the last {MAX_ENTRIES}")
        stored = None
        if request.lead_id is not None:
            stored = await self.environment.context.storage.read(show_lead, request.lead_id)
        outgoing = {kind: request_log.outgoing(kind, request.lead_id or NO_LEAD) for kind in OUTGOING}
        self.write_json(200, {**request.as_dict(), "stored": stored, **outgoing})


class StoredLeadsHandler(SandboxHandler):
    """GET: the stored leads, the oldest first; ?email= selects some."""

    async def get(self) -> None:
        email = self.get_query_argument("email", None)

        async def query() -> list[Any]:
            newest = await self.environment.context.storage.read_slowly(lambda: list(list_leads(limit=1_000)))
            leads = reversed(newest)
            return [lead for lead in leads if email is None or lead["requestor_email"] == email]

        await self.answer_list("leads", query)


class OutgoingHandler(SandboxHandler):
    """GET: the mails, or the partner calls; ?lead=ID selects those about one lead."""

    def initialize(self, environment: SandboxEnvironment, kind: str) -> None:  # type: ignore[override]
        super().initialize(environment)
        self._kind = kind

    async def get(self) -> None:
        text = self.get_query_argument("lead", None)
        if text is not None and not re.fullmatch("[0-9]{1,18}", text):
            raise BadRequest("lead is the id of a lead")
        lead_id = None if text is None else int(text)

        async def query() -> list[Any]:
            return self.environment.request_log.outgoing(self._kind, lead_id)

        await self.answer_list(self._kind, query)


class MailHtmlHandler(SandboxHandler):
    """GET: a mail's HTML. Its policy lets it run no script and load nothing."""

    def get(self, number: str) -> None:
        mails = self.environment.request_log.outgoing(MAILS, None)
        mail = next((mail for mail in mails if mail["number"] == int(number)), None)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", "sandbox; default-src 'none'; style-src 'unsafe-inline'")
        self.set_status(200 if mail else 404)
        self.finish(mail["html"] or "" if mail else "")


class BuildingsHandler(SandboxHandler):
    """GET: the buildings. POST: register one, with name, website_urls, token, agent_email, time_zone etc."""

    async def get(self) -> None:
        read, now = self.environment.context.storage.read, self.environment.clock.now()
        self.write_json(200, {"buildings": await read(list_buildings, now)})

    async def post(self) -> None:
        fields = self.json_body()
        websites = fields.pop("website_urls", [])
        if not isinstance(websites, list) or any(not isinstance(url, str) for url in websites):
            raise BadRequest("website_urls is a list of strings")
        if any(not isinstance(value, str) for value in fields.values()):
            raise BadRequest("each field of a building but website_urls is a string")
        websites += [fields.pop("website_url")] if "website_url" in fields else []
        try:
            building = await self.environment.register(fields, websites)
        except ActionError as error:
            raise BadRequest(str(error)) from None
        self.write_json(201, building)


class BuildingWebsitesHandler(SandboxHandler):
    """POST: add the website {"url": …} to a building, so that its pages may send leads."""

    async def post(self, building_id: str) -> None:
        fields = self.json_body()
        url = fields.pop("url", None)
        if not isinstance(url, str) or not url.strip() or fields:
            raise BadRequest('a website is {"url": "https://…"}')
        try:
            building = await self.environment.add_website(int(building_id), url)
        except NotFound as error:
            raise ApiError(404, str(error)) from None
        except ActionError as error:
            raise BadRequest(str(error)) from None
        self.write_json(201, building)


class FaultsHandler(SandboxHandler):
    """GET: the remaining faults. POST: add {"on": "api", "what": 503, "next": 2}. DELETE: remove all.

    POST {"seed": 1}, alone or with a fault, restarts the random numbers of faults with a share.
    """

    def get(self) -> None:
        self.write_json(200, {"faults": self.environment.faults.as_dicts()})

    def post(self) -> None:
        fields = self.json_body()
        seed = fields.pop("seed", None)
        if seed is not None:
            if type(seed) is not int:
                raise BadRequest("seed is a whole number")
            self.environment.faults.seed(seed)
        try:
            if fields or seed is None:
                self.environment.faults.add(fields)
        except InvalidFault as error:
            raise BadRequest(str(error)) from None
        self.write_json(201, {"faults": self.environment.faults.as_dicts()})

    def delete(self) -> None:
        self.environment.faults.clear()
        self.get()


class ClockHandler(SandboxHandler):
    """GET: the clock's time. POST: {"freeze": true}, {"freeze": false} or {"advance": seconds}."""

    def get(self) -> None:
        self.write_json(200, _clock_as_dict(self.environment))

    def post(self) -> None:
        fields = self.json_body()
        freeze, seconds = fields.pop("freeze", None), fields.pop("advance", 0)
        if fields or freeze not in (None, True, False):
            raise BadRequest('the clock takes {"freeze": true or false} and {"advance": seconds}')
        if type(seconds) not in (int, float) or not 0 <= seconds <= MAX_ADVANCE_SECONDS:
            raise BadRequest(f"advance is a number of seconds, from 0 to {MAX_ADVANCE_SECONDS:.0f}")
        clock = self.environment.clock
        if freeze is not None:
            clock.freeze() if freeze else clock.thaw()
        clock.advance(seconds)
        self.environment.context.wake()
        self.get()


class ResetHandler(SandboxHandler):
    """POST: restore the sandbox's first state."""

    async def post(self) -> None:
        await self.environment.reset()
        self.write_json(200, {"reset": True})


def _clock_as_dict(environment: SandboxEnvironment) -> dict[str, Any]:
    return {"now": utc_text(environment.clock.now()), "frozen": environment.clock.frozen}
