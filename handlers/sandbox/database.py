"""The sandbox's database: the demo building that it always holds, and the reset."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from models.audit import SANDBOX, Actor, AuditEntry
from models.building import (
    Building,
    BuildingDict,
    BuildingToken,
    BuildingWebsite,
    show_building,
)
from models.building_actions import add_building, issue_token, update_building
from models.customer import Customer
from models.daily_count import DailyCount
from models.deal import Deal
from models.idempotency import IdempotencyKey
from models.lead import Lead
from models.outbox.actions import resume
from models.outbox.delivery import Delivery, DeliveryAttempt
from models.outbox.destination import KINDS
from models.spam import RecentText
from models.storage.sqlite.connection import close_database, transaction
from models.storage.sqlite.folder import open_database

ACTOR = Actor(SANDBOX, "sandbox")
DEMO_TOKEN = "demo"
DEMO_BUILDING_ID = 1
DEMO_BUILDING: dict[str, str | None] = {
    "name": "The Maple",
    "address_line_one": "12 Maple Street",
    "unified_address_id": "maple-12",
    "agent_email": "agent@maple.test",
    "time_zone": "America/New_York",
    "spam_defence": "off",
}
DEMO_WEBSITES = ("http://localhost:3000",)


def seed_database(data_dir: Path, now: datetime) -> None:
    """Create the database in this folder, with the demo building in it."""
    open_database(data_dir)
    with transaction():
        add_building(ACTOR, DEMO_BUILDING, DEMO_TOKEN, now, DEMO_WEBSITES)
    close_database()


def register_building(fields: dict[str, str], websites: Sequence[str], now: datetime) -> BuildingDict:
    """Add a building with these fields and the token in them, or a new one; return it as a dict.

    Raises Invalid or Conflict.
    """
    columns: dict[str, str | None] = {"name": "", **fields}
    building, _ = add_building(ACTOR, columns, columns.pop("token", None), now, websites)
    return show_building(building.id, now)


def add_website(building_id: int, url: str, now: datetime) -> BuildingDict:
    """Add a website to a building, and return the building as a dict. Raises NotFound or Invalid."""
    update_building(ACTOR, building_id, {}, now, add_websites=[url])
    return show_building(building_id, now)


def reset_database(now: datetime) -> None:
    """Delete everything but the demo building, which gets its first values again. Ids are not reused."""
    # Each table before those that its rows refer to.
    for table in (
        DeliveryAttempt,
        Delivery,
        Deal,
        IdempotencyKey,
        RecentText,
        Lead,
        Customer,
        BuildingToken,
        BuildingWebsite,
        DailyCount,
    ):
        table.delete().execute()
    Building.delete().where(Building.id != DEMO_BUILDING_ID).execute()
    Building.update(**DEMO_BUILDING, removed_at=None).where(Building.id == DEMO_BUILDING_ID).execute()
    update_building(ACTOR, DEMO_BUILDING_ID, {}, now, DEMO_WEBSITES)
    issue_token(ACTOR, DEMO_BUILDING_ID, DEMO_TOKEN, now)
    for kind in KINDS:
        resume(ACTOR, kind, now)
    AuditEntry.delete().execute()
