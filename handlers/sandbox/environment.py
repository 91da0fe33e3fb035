"""The sandbox around a server: a throwaway folder, a mailbox, a partner, a clock, a request log."""

import asyncio
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from handlers import AppContext, Router, pages
from handlers.api.leads import PATH
from handlers.sandbox.clock import SandboxClock
from handlers.sandbox.diagnosis import TWICE_WITHIN, Facts, body_key, diagnose
from handlers.sandbox.faults import Faults
from handlers.sandbox.mailbox import Mailbox
from handlers.sandbox.pages import sandbox_pages
from handlers.sandbox.partner import Partner
from handlers.sandbox.recording import RecordedHandler, RecordedLeadsHandler, Recorder
from handlers.sandbox.request_log import MAILS, PARTNER_CALLS, Attempt, RequestLog
from models.audit import SANDBOX, Actor, AuditEntry
from models.building import (
    Building,
    BuildingDict,
    BuildingToken,
    add_building,
    building_as_dict,
    issue_token,
)
from models.building_match import match_buildings
from models.clock import Clock, utc_text_or_none
from models.customer import Customer
from models.deal import Deal
from models.errors import Invalid
from models.idempotency import IdempotencyKey
from models.intake import Submission, in_utc, property_type, why_not_told
from models.lead import Lead
from models.outbox.actions import resume
from models.outbox.delivery import Delivery, DeliveryAttempt
from models.outbox.destination import KINDS
from models.settings import Settings, SmtpServer
from models.spam import RecentText, why_quarantined
from models.storage import StorageError
from models.storage.sqlite.connection import close_database, transaction
from models.storage.sqlite.folder import open_database

# How it is called, so that what is shown can be typed.
PROGRAM = sys.executable if getattr(sys, "frozen", False) else ".venv/bin/python server.py"
TOKEN = "demo"
ACTOR = Actor(SANDBOX, "sandbox")
FIRST = 1  # the id of the building that is always there
BUILDING: dict[str, str | None] = {
    "name": "The Maple",
    "address_line_one": "12 Maple Street",
    "unified_address_id": "maple-12",
    "website_url": "http://localhost:3000",
    "agent_email": "agent@maple.test",
    "time_zone": "America/New_York",
    "spam_defence": "off",
}
LEAD = """{"token": "demo", "tour_request": {
  "requestor_name": "Jane Doe", "requestor_email": "jane@example.com", "requestor_phone": "(555) 123-4567",
  "message": "Is 4B still free?", "unit_preference": "4B", "slot": "2026-12-01T10:00",
  "listing_source": "june_homes", "utm_data": "utm_source=newsletter", "sms_consent": "true"}}"""


class SandboxEnvironment:
    """All that is around the server in a sandbox. tell: is told in a line of what leaves."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self.clock = SandboxClock()
        self.faults = Faults()
        self.request_log = RequestLog(self.clock)
        self.mailbox = Mailbox(self._is_known, self._mail_came, self.faults)
        self.partner = Partner(self._is_known, self._partner_called, self.faults)
        self._diagnosing: set[asyncio.Task[None]] = set()

    def make_router(self, context: AppContext) -> Router:
        """The server's way in, watched, with the sandbox's own pages beside it."""
        self.context = context
        watch = Recorder(
            self.request_log, self.faults, self._over, lambda lead: context.storage.read(_preview, lead)
        )
        return Router(
            context.api,
            [*pages(context, TOKEN), *sandbox_pages(self)],
            leads=partial(RecordedLeadsHandler, watch),
            unknown=partial(RecordedHandler, watch),
        )

    async def reset(self) -> None:
        """As it was at the start: no lead, nothing remembered, no fault, the machine's time, one building."""
        self.faults.clear()
        self.clock.reset()
        await self.context.storage.write(_forget_all, self.clock.now())
        self.context.api.limiter.refill()
        self.context.api.allowlist.forget()
        self.context.readiness.forget()
        self.request_log.clear()

    async def register(self, fields: dict[str, str]) -> BuildingDict:
        """Register a building, with this token or a new one. Raises Invalid or Conflict."""
        if unknown := fields.keys() - {*BUILDING, "token"}:
            raise Invalid(
                f"a building has no {', '.join(sorted(unknown))}; it has token, {', '.join(BUILDING)}"
            )
        building = await self.context.storage.write(_register, fields, self.clock.now())
        self.context.api.allowlist.forget()
        return building

    def _is_known(self, request_id: str | None) -> bool:
        return self.request_log.lead_of(request_id) is not None

    async def diagnosed(self) -> None:
        """Wait until each attempt that was answered by now is in the request_log."""
        if self._diagnosing:
            await asyncio.wait(self._diagnosing)

    def _mail_came(self, mail: dict[str, Any]) -> None:
        self.request_log.add(MAILS, mail)
        self._tell(f"mail     to {', '.join(mail['to'])}: {mail['subject']}")

    def _partner_called(self, call: dict[str, Any]) -> None:
        self.request_log.add(PARTNER_CALLS, call)
        self._tell(f"partner  June Homes got lead {call['body']['data']['id']} ({call['body']['type']})")

    def _over(self, attempt: Attempt) -> None:
        diagnosing = asyncio.create_task(self._diagnose(attempt))
        self._diagnosing.add(diagnosing)
        diagnosing.add_done_callback(self._diagnosing.discard)

    async def _diagnose(self, attempt: Attempt) -> None:
        earlier = next(
            (
                (other.number, other.lead_id)
                for other in reversed(self.request_log.attempts)
                if other.lead_id is not None
                and body_key(other)
                and body_key(other) == body_key(attempt)
                and attempt.at - other.at <= TWICE_WITHIN
            ),
            None,
        )
        facts = Facts(earlier=earlier)
        if attempt.preview is not None:
            facts = Facts(attempt.preview["building"], attempt.preview["nobody_told_because"], earlier)
        if attempt.lead_id is not None:
            try:
                building, not_told = await self.context.storage.read(_facts_of, attempt.lead_id)
                facts = Facts(building, not_told, earlier)
            except StorageError:
                pass  # then there is less to say
        attempt.diagnosis = diagnose(attempt, facts)
        self.request_log.add_attempt(attempt)


def _facts_of(lead_id: int) -> tuple[BuildingDict | None, str | None]:
    lead = Lead.get_by_id(lead_id)
    building = lead.building
    not_told = why_not_told(lead.customer, building) or why_quarantined(lead.suspected, building)
    return None if building is None else building_as_dict(building), not_told


def _preview(submission: Submission) -> dict[str, Any]:
    """What would be stored of it. The customer that it would be of is not looked for."""
    matched = match_buildings([submission.building_keys], submission.received_at).get(
        submission.building_keys
    )
    building = None if matched is None else Building.get_by_id(matched.id)
    return {
        "building": building and building_as_dict(building),
        "nobody_told_because": why_not_told(Customer(spam=False), building),
        "requestor_name": submission.renter.name,
        "requestor_email": submission.renter.email,
        "requestor_phone": submission.renter.phone,
        "message": submission.message,
        "slot": utc_text_or_none(in_utc(submission.slot, building)),
        "unit_preference": submission.unit_preference,
        "property_type": property_type(submission),
        "utm_data": submission.utm_data,
        "listing_source": submission.listing_source,
        "listing_source_original_id": submission.listing_source_original_id,
        "request_host": submission.request_host,
        "sms_consent": submission.sms_consent is not None,
    }


def _register(fields: dict[str, str], now: datetime) -> BuildingDict:
    columns: dict[str, str | None] = {"name": "", **fields}
    building, token = add_building(ACTOR, columns, columns.pop("token", None), now)
    return building_as_dict(building, [token])


def _forget_all(now: datetime) -> None:
    # In an order that leaves nothing behind that points to what is gone. Ids are not used again.
    for table in (DeliveryAttempt, Delivery, Deal, IdempotencyKey, RecentText, Lead, Customer, BuildingToken):
        table.delete().execute()
    Building.delete().where(Building.id != FIRST).execute()
    Building.update(**BUILDING, removed_at=None).where(Building.id == FIRST).execute()
    issue_token(ACTOR, FIRST, TOKEN, now)
    for kind in KINDS:
        resume(ACTOR, kind, now)
    AuditEntry.delete().execute()


@asynccontextmanager
async def sandbox_environment(
    settings: Settings, tell: Callable[[str], None]
) -> AsyncIterator[tuple[SandboxEnvironment, Settings]]:
    """Make a environment, and the settings that lead a server into it; nothing of it is left afterwards."""
    environment = SandboxEnvironment(tell)
    with tempfile.TemporaryDirectory(prefix="leads-sandbox-") as folder:
        await environment.mailbox.start()
        environment.partner.start()
        _seed(Path(folder), environment.clock)
        yield (
            environment,
            replace(
                settings,
                data_dir=Path(folder),
                backup_keep=0,
                smtp_url=SmtpServer("127.0.0.1", environment.mailbox.port, False, "never", None, None),
                june_homes_url=environment.partner.url,
                june_homes_secret=secrets.token_bytes(),
            ),
        )
        await environment.partner.stop()
        await environment.mailbox.stop()


def _seed(data_dir: Path, clock: Clock) -> None:
    """Register the building whose token is always 'demo'."""
    open_database(data_dir)
    with transaction():
        add_building(ACTOR, BUILDING, TOKEN, clock.now())
    close_database()


def greeting(url: str, data_dir: Path) -> str:
    """Where it is, on one line for programs."""
    return f"Sandbox at {url} (token {TOKEN}; watch it at {url}/sandbox; data in {data_dir})"


def banner(url: str, data_dir: Path) -> str:
    """What a newcomer needs: where it is, and a lead to send."""
    leads_url = url + PATH
    return f"""
  Website leads, a sandbox. Nothing leaves this machine; all of it is gone when you stop it with Ctrl-C.

  watch it at     {url}/sandbox
  POST leads to   {leads_url}
  building token  {TOKEN}
  from a page at  {BUILDING["website_url"]}
  look inside     {PROGRAM} lead list --data-dir {data_dir}
  health          {url}/livez  {url}/readyz

  Send one from another terminal:

curl -sS {leads_url} -H 'Content-Type: application/json' -d '{LEAD}'

  What leaves because of it is told here:
"""
