"""The environment of a sandbox server: clock, faults, request log, mailbox and partner."""

from collections.abc import Callable, Sequence
from typing import Any

from handlers import AppContext
from handlers.sandbox.clock import SandboxClock
from handlers.sandbox.database import add_website, register_building, reset_database
from handlers.sandbox.faults import Faults
from handlers.sandbox.mailbox import Mailbox
from handlers.sandbox.partner import Partner
from handlers.sandbox.recording import Recorder
from handlers.sandbox.request_log import MAILS, PARTNER_CALLS, RequestLog
from models.building import BuildingDict
from models.building_actions import FIELDS, WEBSITES
from models.errors import Invalid
from models.shown_text import printable


class SandboxEnvironment:
    """Everything around a sandbox server that a test can observe or control."""

    def __init__(self, notify: Callable[[str], None]) -> None:
        """notify: is called with one printable line for each mail and each partner call."""
        self._notify = notify
        self.clock = SandboxClock()
        self.faults = Faults()
        self.request_log = RequestLog(self.clock)
        self.mailbox = Mailbox(self._has_lead, self._on_mail, self.faults)
        self.partner = Partner(self._has_lead, self._on_partner_call, self.faults)

    def connect(self, context: AppContext) -> None:
        """Connect the environment to its server. The mailbox and the partner run before there is one."""
        self.context = context
        self.recorder = Recorder(self.request_log, self.faults, context.storage)

    async def reset(self) -> None:
        """Restore the first state: the demo building alone, the machine's time, empty logs and no fault."""
        self.faults.clear()
        self.clock.reset()
        await self.context.storage.write(reset_database, self.clock.now())
        self.context.api.limiter.refill()
        self.context.api.space_budget.forget()
        self.context.api.allowlist.forget()
        self.context.readiness.forget()
        self.request_log.clear()

    async def register(self, fields: dict[str, str], websites: Sequence[str]) -> BuildingDict:
        """Register a building, and return it with its token. Raises Invalid or Conflict."""
        if unknown := fields.keys() - {*FIELDS, "token"}:
            names, known = ", ".join(sorted(unknown)), ", ".join(("token", WEBSITES, *FIELDS))
            raise Invalid(f"a building has no {names}; it has {known}")
        building = await self.context.storage.write(register_building, fields, websites, self.clock.now())
        self.context.api.allowlist.forget()
        return building

    async def add_website(self, building_id: int, url: str) -> BuildingDict:
        """Add a website to a building, and return the building. Raises NotFound or Invalid."""
        building = await self.context.storage.write(add_website, building_id, url, self.clock.now())
        self.context.api.allowlist.forget()
        return building

    def _has_lead(self, request_id: str | None) -> bool:
        return self.request_log.lead_id_of(request_id) is not None

    def _on_mail(self, mail: dict[str, Any]) -> None:
        self.request_log.add_outgoing(MAILS, mail)
        self._notify(printable(f"mail     to {', '.join(mail['to'])}: {mail['subject']}"))

    def _on_partner_call(self, call: dict[str, Any]) -> None:
        self.request_log.add_outgoing(PARTNER_CALLS, call)
        self._notify(f"partner  June Homes got lead {call['body']['data']['id']} ({call['body']['type']})")
