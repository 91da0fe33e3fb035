"""Upgrades: a database of any released schema keeps all its data, or stays untouched."""

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import Commands
from conftest import SteppedClock, running_harness
from test_backup import content, query

from models.lead_record import list_leads, show_lead
from models.storage import DatabaseUnusable
from models.storage.sqlite.backup import verify_backup
from models.storage.sqlite.backup_files import list_backups
from models.storage.sqlite.connection import close_database
from models.storage.sqlite.folder import open_database
from models.storage.sqlite.locks import server_lock
from models.storage.sqlite.migrations import migrate
from models.storage.sqlite.migrations.steps import NEWEST, STEPS

pytestmark = pytest.mark.sqlite("these schemas are older than the first one of PostgreSQL")

SCHEMAS = Path(__file__).parent / "schemas"
RENAMED_STATES = {"held": "quarantined"}  # in schema 5
RELEASED = sorted(int(file.stem.removeprefix("schema-")) for file in SCHEMAS.glob("schema-*.db"))


def exported(schema: int) -> list[dict[str, Any]]:
    """Return the leads as the program of that schema exported them, with today's names of states."""
    lines = (SCHEMAS / f"schema-{schema}.jsonl").read_text(encoding="utf-8").splitlines()
    leads = [json.loads(line) for line in lines]
    for lead in leads:
        for delivery in lead["deliveries"]:
            delivery["state"] = RENAMED_STATES.get(delivery["state"], delivery["state"])
    return leads


def records() -> list[dict[str, Any]]:
    """Return the leads of the open database as this program exports them."""
    found = [show_lead(lead["id"]) for lead in list_leads(newest_first=False)]
    return [json.loads(json.dumps(record)) for record in found]


def without_new_keys(now: Any, then: Any) -> Any:
    """Return the current value without the keys that did not exist then."""
    if isinstance(now, dict) and isinstance(then, dict):
        return {key: without_new_keys(value, then[key]) for key, value in now.items() if key in then}
    if isinstance(now, list) and isinstance(then, list) and len(now) == len(then):
        return [without_new_keys(*pair) for pair in zip(now, then, strict=True)]
    return now


@pytest.fixture(params=[schema for schema in RELEASED if schema < NEWEST])
def schema(request: pytest.FixtureRequest) -> int:
    """Each released schema that an upgrade starts from."""
    return int(request.param)


@pytest.fixture
def old(schema: int, tmp_path: Path) -> Iterator[Path]:
    """Return a data folder with a database of that schema."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    shutil.copyfile(SCHEMAS / f"schema-{schema}.db", folder / "leads.db")
    yield folder
    close_database(checkpoint=True)


def version(folder: Path) -> object:
    return query(folder / "leads.db", "PRAGMA user_version")[0][0]


def test_each_released_schema_has_a_fixture() -> None:
    assert set(range(1, NEWEST)) <= set(RELEASED) <= set(range(1, NEWEST + 1))
    for schema in RELEASED:
        database = SCHEMAS / f"schema-{schema}.db"
        assert query(database, "PRAGMA user_version") == [(schema,)]
        assert query(database, "SELECT count(*) FROM lead") == [(len(exported(schema)),)]
        assert exported(schema)


def test_an_upgraded_database_keeps_all_data(old: Path, schema: int) -> None:
    open_database(old)
    then, now = exported(schema), records()
    assert without_new_keys(now, then) == then
    close_database(checkpoint=True)
    assert version(old) == NEWEST
    assert query(old / "leads.db", "PRAGMA integrity_check") == [("ok",)]
    assert query(old / "leads.db", "PRAGMA foreign_key_check") == []


def test_an_upgraded_database_has_the_schema_of_a_new_one(old: Path, tmp_path: Path) -> None:
    tables = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name"
    open_database(old)
    close_database(checkpoint=True)
    open_database(tmp_path / "new")
    close_database(checkpoint=True)
    assert query(old / "leads.db", tables) == query(tmp_path / "new" / "leads.db", tables)


def test_an_upgraded_quarantined_delivery_is_released(tmp_path: Path) -> None:
    commands = Commands(tmp_path / "data")
    commands.data_dir.mkdir(mode=0o700)
    shutil.copyfile(SCHEMAS / "schema-4.db", commands.data_dir / "leads.db")
    [lead] = [row["id"] for row in exported(4) if row["suspected"]]
    quarantined = commands.rows("outbox", "list", "--state", "quarantined")
    assert [(row["lead_id"], row["kind"]) for row in quarantined] == [(lead, "june_homes"), (lead, "email")]
    assert commands.row("lead", "release", lead) == {"id": lead, "released": 2}
    [shown] = [row for row in commands.rows("lead", "list") if row["id"] == lead]
    assert {delivery["state"] for delivery in shown["deliveries"]} == {"pending"}
    assert commands.rows("outbox", "list", "--state", "quarantined") == []


async def test_a_server_continues_with_an_upgraded_database(
    old: Path, schema: int, clock: SteppedClock, io_loop: object
) -> None:
    last = exported(schema)[-1]["id"]
    async with running_harness(old, clock) as harness:
        waited = [row["id"] for row in await harness.deliveries(kind="june_homes", state="pending")]
        assert (
            waited and (await harness.destination("june_homes"))["waits_because"] == "paused by the operator"
        )
        assert await harness.lead(token="maple", requestor_email="new@renter.test") == last + 1
        await harness.settled()
        assert harness.mail.mails[-1]["Reply-To"].addresses[0].addr_spec == "new@renter.test"


def test_an_upgrade_is_preceded_by_a_backup(old: Path, schema: int) -> None:
    open_database(old)
    [made] = list_backups(old / "backups")
    assert made.why == f"before-schema-{NEWEST}"
    backup = verify_backup(made.path)
    assert (backup.schema, backup.leads) == (schema, len(exported(schema)))
    assert backup.checksum is not None
    tables = "SELECT name, sql FROM sqlite_schema ORDER BY name"
    assert query(made.path, tables) == query(SCHEMAS / f"schema-{schema}.db", tables)


def test_a_new_or_current_database_gets_no_backup(tmp_path: Path) -> None:
    for _ in range(2):
        open_database(tmp_path / "data")
        close_database(checkpoint=True)
    assert not (tmp_path / "data" / "backups").exists()


def test_a_database_without_a_backup_is_not_upgraded(old: Path, schema: int) -> None:
    (old / "backups").write_text("not a folder")
    before = content(old)
    with pytest.raises(DatabaseUnusable) as refused:
        open_database(old)
    assert re.fullmatch(
        r"the database has to be upgraded, and could not be backed up before \(.+\); nothing was changed",
        str(refused.value),
    )
    assert content(old)["leads.db"] == before["leads.db"]
    assert version(old) == schema
    (old / "backups").unlink()
    open_database(old)
    assert records()


def test_a_command_does_not_upgrade_while_a_server_runs(old: Path, schema: int) -> None:
    commands = Commands(old)
    with server_lock(old):  # which a server of the old program holds
        before = content(old)
        for command in (("lead", "list"), ("building", "add", "--name", "Oak")):
            said = commands.refusal(*command)
            assert said.startswith(f"another server (process {os.getpid()}) is running on {old}; ")
        now = content(old)
        assert now["leads.db"] == before["leads.db"] and not (old / "backups").exists()
    assert version(old) == schema
    assert [row["id"] for row in commands.rows("lead", "list")] == [
        lead["id"] for lead in reversed(exported(schema))
    ]
    assert version(old) == NEWEST


async def test_a_second_server_does_not_upgrade(
    old: Path, schema: int, clock: SteppedClock, io_loop: object
) -> None:
    with server_lock(old):
        before = content(old)
        with pytest.raises(DatabaseUnusable, match="another server"):
            async with running_harness(old, clock):
                pass
        assert content(old) == before


@pytest.mark.parametrize(
    "failing",
    [
        "CREATE TABLE half (id);\nUPDATE lead SET message = 'half way';\nALTER TABLE nowhere ADD COLUMN x",
        "UPDATE lead SET message = 'half';\nINSERT INTO pipeline_stage (position, name) VALUES (1, 'new')",
        "DELETE FROM delivery_attempt;\nDELETE FROM customer",
    ],
    ids=["a wrong statement", "a row that is there", "rows that others need"],
)
def test_a_failed_migration_step_changes_nothing(
    old: Path, schema: int, failing: str, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.storage.sqlite.folder.Clock", lambda: clock)
    with monkeypatch.context() as patch:
        steps = [*STEPS]
        statements = f"{steps[schema].statements};\n{failing}"
        steps[schema] = dataclasses.replace(steps[schema], statements=statements)
        patch.setattr(migrate, "STEPS", tuple(steps))
        with pytest.raises(DatabaseUnusable, match=str(old / "leads.db")):
            open_database(old)
    tables = "SELECT type, name, sql FROM sqlite_schema ORDER BY type, name"
    assert version(old) == schema
    assert query(old / "leads.db", tables) == query(SCHEMAS / f"schema-{schema}.db", tables)
    clock.step(1)
    open_database(old)
    then = exported(schema)
    assert without_new_keys(records(), then) == then
