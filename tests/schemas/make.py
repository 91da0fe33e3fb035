"""Make the fixture of a released schema: a small database with every kind of row, and its export.

Run it once, with the released program, from the project's root:

    .venv/bin/python tests/schemas/make.py

It writes schema-N.db, schema-N.jsonl and schema-N.sql, which never change afterwards: the SQLite file, its
export, and a dump of a PostgreSQL with the same rows. tests/test_migrations.py and
tests/test_postgresql_migrations.py upgrade the databases and compare them with what they had.
"""

import asyncio
import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from command_line import ACTOR  # noqa: E402
from conftest import ServerHarness, SteppedClock, running_harness  # noqa: E402
from postgresql import Cluster, copy_folder, dump  # noqa: E402

from models.building_actions import issue_token, remove_building, update_building  # noqa: E402
from models.customer import flag_spam  # noqa: E402
from models.erasure import erase_customer  # noqa: E402
from models.lead_record import list_leads, show_lead  # noqa: E402
from models.outbox.actions import pause  # noqa: E402
from models.storage.sqlite.connection import close_database  # noqa: E402
from models.storage.sqlite.folder import open_database  # noqa: E402
from models.storage.sqlite.migrations.steps import NEWEST  # noqa: E402

HERE = Path(__file__).parent


async def fill(harness: ServerHarness, clock: SteppedClock) -> None:
    await harness.building(websites=["https://maple.test"], address_line_one="12 Maple Street")
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
    harness.mail.replies = ["554 5.6.0 no"]
    await harness.lead(token="maple", requestor_email="failed@renter.test")
    await harness.settled()
    clock.step(60)
    await harness.lead(token="mute", requestor_email="mute@renter.test", slot="2026-12-01T10:00")
    await harness.lead(requestor_email="unassigned@renter.test", address_line_one="9 Nowhere")
    await harness.lead(token="gone", requestor_email="erased@renter.test", requestor_name="To Be Erased")
    await harness.lead(token="maple", requestor_email="spam@renter.test")
    await harness.settled()
    spam = await harness.server.storage.read(lambda: next(list_leads())["customer"]["id"])
    await harness.change(lambda: flag_spam(ACTOR, spam, True, clock.now()))
    await harness.lead(token="maple", requestor_email="spam@renter.test")
    await harness.change(lambda: erase_customer(ACTOR, spam - 1, clock.now()))
    await harness.change(lambda: remove_building(ACTOR, 3, clock.now()))
    await harness.change(lambda: issue_token(ACTOR, 1, "second", clock.now()))
    await harness.change(lambda: pause(ACTOR, "june_homes", clock.now()))
    await harness.lead(token="maple", requestor_email="paused@renter.test", listing_source="june_homes")
    await harness.settled()
    await harness.change(lambda: update_building(ACTOR, 1, {"spam_defence": "hold"}, clock.now()))
    await harness.lead(
        token="maple",
        requestor_email="trap@renter.test",
        message="Buy this",
        listing_source="june_homes",
        homepage="https://pills.test",
    )
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
        with Cluster() as cluster:
            url = cluster.create_database("leads")
            copy_folder(folder, url)
            (HERE / f"schema-{NEWEST}.sql").write_text(dump(url), encoding="utf-8")
