"""Owns the demo's world: a folder to throw away, a building, a mailbox and a partner that are told of."""

import secrets
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from handlers.sandbox.mailbox import Mailbox
from handlers.sandbox.partner import Partner
from models.building import add_building
from models.clock import Clock
from models.data_folder import open_database
from models.database import close_database, transaction
from models.settings import Settings, SmtpServer

TOKEN = "demo"
BUILDING: dict[str, str | None] = {
    "name": "The Maple",
    "address_line_one": "12 Maple Street",
    "unified_address_id": "maple-12",
    "website_url": "http://localhost:3000",
    "agent_email": "agent@maple.test",
    "time_zone": "America/New_York",
}
LEAD = """{"token": "demo", "tour_request": {
  "requestor_name": "Jane Doe", "requestor_email": "jane@example.com", "requestor_phone": "(555) 123-4567",
  "message": "Is 4B still free?", "unit_preference": "4B", "slot": "2026-12-01T10:00",
  "listing_source": "june_homes", "utm_data": "utm_source=newsletter", "sms_consent": "true"}}"""


@asynccontextmanager
async def demo_world(settings: Settings) -> AsyncIterator[Settings]:
    """Make a world and give the settings that lead into it; nothing of it is left afterwards."""
    mailbox, partner = Mailbox(_tell_mail), Partner(_tell_partner)
    with tempfile.TemporaryDirectory(prefix="leads-demo-") as folder:
        await mailbox.start()
        partner.start()
        seed(Path(folder))
        yield replace(
            settings,
            data_dir=Path(folder),
            smtp_url=SmtpServer("127.0.0.1", mailbox.port, False, "never", None, None),
            june_homes_url=partner.url,
            june_homes_secret=secrets.token_bytes(),
        )
        await partner.stop()
        await mailbox.stop()


def seed(data_dir: Path) -> None:
    """Register the building whose token is always 'demo'."""
    open_database(data_dir)
    with transaction():
        add_building(BUILDING, TOKEN, Clock().now())
    close_database()


def banner(url: str, data_dir: Path) -> str:
    """What a newcomer needs: where it is, and a lead to send."""
    leads_url = f"{url}/api/v1/website_leads"
    return f"""
  Website leads, a demo. Nothing leaves this machine; all of it is gone when you stop it with Ctrl-C.

  POST leads to   {leads_url}
  building token  {TOKEN}
  from a page at  {BUILDING["website_url"]}
  look inside     .venv/bin/python server.py lead list --data-dir {data_dir}
  health          {url}/livez  {url}/readyz

  Send one from another terminal:

curl -sS {leads_url} -H 'Content-Type: application/json' -d '{LEAD}'

  What leaves because of it is told here:
"""


def _tell_mail(message: EmailMessage) -> None:
    print(f"  mail     to {message['To']}: {message['Subject']}", flush=True)


def _tell_partner(call: dict[str, Any]) -> None:
    lead = call["data"]
    print(f"  partner  June Homes got lead {lead['id']} ({call['type']})", flush=True)
