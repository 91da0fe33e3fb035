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

from conftest import House, SteppedClock, running_house  # noqa: E402

from models.building import find_building, issue_token, remove_building  # noqa: E402
from models.customer import find_customer, flag_spam  # noqa: E402
from models.data_folder import open_database  # noqa: E402
from models.database import close_database  # noqa: E402
from models.destination import pause  # noqa: E402
from models.erasure import erase_customer  # noqa: E402
from models.lead_record import list_leads, show_lead  # noqa: E402
from models.migrations import NEWEST  # noqa: E402

HERE = Path(__file__).parent


async def fill(house: House, clock: SteppedClock) -> None:
    await house.building(website_url="https://maple.test", address_line_one="12 Maple Street")
    await house.building(token="mute", name="The Mute", agent_email=None, time_zone="America/New_York")
    await house.building(token="gone", name="The Gone")
    await house.lead(
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
    house.mail.replies = ["554 no"]
    await house.lead(token="maple", requestor_email="failed@renter.test")
    await house.settled()
    clock.step(60)
    await house.lead(token="mute", requestor_email="mute@renter.test", slot="2026-12-01T10:00")
    await house.lead(requestor_email="unassigned@renter.test", address_line_one="9 Nowhere")
    await house.lead(token="gone", requestor_email="erased@renter.test", requestor_name="To Be Erased")
    await house.lead(token="maple", requestor_email="spam@renter.test")
    await house.settled()
    spam = await house.server.reader.read(lambda: next(list_leads())["customer"]["id"])
    await house.change(lambda: flag_spam(find_customer(spam), True))
    await house.lead(token="maple", requestor_email="spam@renter.test")
    await house.change(lambda: erase_customer(find_customer(spam - 1), clock.now()))
    await house.change(lambda: remove_building(find_building(3), clock.now()))
    await house.change(lambda: issue_token(find_building(1), "second", clock.now()))
    await house.change(lambda: pause("june_homes"))
    await house.lead(token="maple", requestor_email="paused@renter.test", listing_source="june_homes")
    await house.settled()
    house.mail.replies = ["451 later"]
    await house.lead(token="maple", requestor_email="waits@renter.test")
    await house.settled()


async def make(folder: Path) -> None:
    clock = SteppedClock()
    async with running_house(folder, clock, rate_limit="100000/1") as house:
        await fill(house, clock)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "data"
        asyncio.run(make(folder))
        open_database(folder)
        records = [show_lead(lead["id"]) for lead in list_leads(newest_first=False)]
        close_database(moves_journal=True)
        (HERE / f"schema-{NEWEST}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        shutil.copyfile(folder / "leads.db", HERE / f"schema-{NEWEST}.db")
