"""Owns the making of a released schema's fixture: a small database with every kind of row, and its export.

Run it once, with the program that is released, from the project's root:

    .venv/bin/python tests/schemas/make.py

It writes schema-N.db and schema-N.jsonl, which are then never written again: tests/test_migrations.py
upgrades the one and compares it with the other.
"""

import asyncio
import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from conftest import ServerHarness, SteppedClock, running_harness  # noqa: E402

from models.building import find_building, issue_token, remove_building  # noqa: E402
from models.customer import find_customer, flag_spam  # noqa: E402
from models.erasure import erase_customer  # noqa: E402
from models.lead_record import list_leads, show_lead  # noqa: E402
from models.outbox.destination import pause  # noqa: E402
from models.storage.sqlite.connection import close_database  # noqa: E402
from models.storage.sqlite.folder import open_database  # noqa: E402
from models.storage.sqlite.migrations.steps import NEWEST  # noqa: E402

HERE = Path(__file__).parent


async def fill(harness: ServerHarness, clock: SteppedClock) -> None:
    await harness.building(website_url="https://maple.test", address_line_one="12 Maple Street")
    await harness.building(token="mute", name="The Mute", agent_email=None, time_zone="America/New_York")
    await harness.building(token="gone", name="The Gone")
    await harness.lead(
        token="maple",
        requestor_name="Zoë Ünal",
        requestor_phone="+15551234567",
        message="Two lines,\nand a 🌻",
        slot="2026-12-01T10:00",
        unit_preference="4B",
        utm_data="?utm_source=newsletter&ref=x",
        listing_source="june_homes",
        listing_source_original_id="JH-1",
        sms_consent="true",
    )
    harness.mail.replies = ["554 no"]
    await harness.lead(token="maple", requestor_email="failed@renter.test")
    await harness.settled()
    clock.step(60)
    await harness.lead(token="mute", requestor_email="mute@renter.test", slot="2026-12-01T10:00")
    await harness.lead(requestor_email="unassigned@renter.test", address_line_one="9 Nowhere")
    await harness.lead(token="gone", requestor_email="erased@renter.test", requestor_name="To Be Erased")
    await harness.lead(token="maple", requestor_email="spam@renter.test")
    await harness.settled()
    spam = await harness.server.storage.read(lambda: next(list_leads())["customer"]["id"])
    await harness.change(lambda: flag_spam(find_customer(spam), True))
    await harness.lead(token="maple", requestor_email="spam@renter.test")
    await harness.change(lambda: erase_customer(find_customer(spam - 1), clock.now()))
    await harness.change(lambda: remove_building(find_building(3), clock.now()))
    await harness.change(lambda: issue_token(find_building(1), "second", clock.now()))
    await harness.change(lambda: pause("june_homes"))
    await harness.lead(token="maple", requestor_email="paused@renter.test", listing_source="june_homes")
    await harness.settled()
    harness.mail.replies = ["451 later"]
    await harness.lead(token="maple", requestor_email="waits@renter.test")
    await harness.settled()


async def make(folder: Path) -> None:
    clock = SteppedClock()
    async with running_harness(folder, clock, rate_limit="100000/1") as harness:
        await fill(harness, clock)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "data"
        asyncio.run(make(folder))
        open_database(folder)
        records = [show_lead(lead["id"]) for lead in list_leads(newest_first=False)]
        close_database(checkpoint=True)
        (HERE / f"schema-{NEWEST}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        shutil.copyfile(folder / "leads.db", HERE / f"schema-{NEWEST}.db")
