"""Restores: the replaced database is kept, deliveries are paused, and ids are never reused."""

import asyncio
import json
import shutil
import signal
import stat
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from command_line import ACTOR, NOW, Commands
from conftest import LEADS, ServerHarness
from server_process import started
from test_backup import content, query
from test_process import curl, damage_header, damage_inside

from models.lead_record import list_leads
from models.outbox.actions import SKIPPED_BY_HAND, pause_after_restore, resume
from models.outbox.delivery import Delivery
from models.outbox.destination import EMAIL, JUNE_HOMES
from models.storage.sqlite.backup import create_backup
from models.storage.sqlite.backup_files import checksum_file
from models.storage.sqlite.inspect import RESTORING
from models.storage.sqlite.locks import command_lock, restore_lock
from models.storage.sqlite.migrations.steps import NEWEST
from models.storage.sqlite.restore import restore_backup

pytestmark = pytest.mark.sqlite("backups of PostgreSQL are restored by its own programs")

SCHEMAS = Path(__file__).parent / "schemas"
UNKNOWN = 1_000_000  # how far ids skip ahead if the last id is unknown


def back_up(commands: Commands, name: str = "backup.db") -> Path:
    file = commands.data_dir.parent / "away" / name
    create_backup(commands.data_dir, file)
    return file


def restore(commands: Commands, file: Path) -> dict[str, Any]:
    """Run `backup restore`; return its JSON output."""
    return commands.row("backup", "restore", file)


def restore_here(commands: Commands, file: Path) -> Path:
    """Restore in this process, which is faster; return the folder with the replaced database."""
    replaced = restore_backup(
        commands.data_dir, file, NOW, lambda step: None, partial(pause_after_restore, ACTOR)
    ).replaced
    assert replaced is not None
    return replaced


def leads(commands: Commands) -> list[dict[str, Any]]:
    with commands.database():
        return [dict(lead) for lead in list_leads(newest_first=False)]


def ids(commands: Commands) -> list[int]:
    return [lead["id"] for lead in leads(commands)]


def test_restore_brings_back_leads_and_keeps_the_replaced_database(commands: Commands) -> None:
    commands.leads({"name": "Zoë"}, {"message": "m" * 10_000})
    before, file = leads(commands), back_up(commands)
    commands.leads({"email": "bob@renter.test", "phone": None})
    there = content(commands.data_dir)["leads.db"]

    said = restore(commands, file)
    assert (said["path"], said["leads"], said["schema"]) == (str(file), 2, NEWEST)
    assert leads(commands) == before
    kept = Path(said["replaced"])
    assert kept.parent == commands.data_dir and kept.name.startswith("replaced-")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert (kept / "leads.db").read_bytes() == there
    assert stat.S_IMODE((commands.data_dir / "leads.db").stat().st_mode) == 0o600
    assert not [name for name in content(commands.data_dir) if RESTORING in name]


def test_restore_leaves_the_backup_folder_unchanged(commands: Commands) -> None:
    commands.leads({})
    file = back_up(commands)
    before = content(file.parent)
    said = commands.run("backup", "restore", file).stdout
    assert content(file.parent) == before
    assert f"{file} is in place: 1 leads, the newest of 2026-11-23T15:00:00.000000Z." in said
    assert "'outbox resume email'" in said


def test_restore_of_a_wal_mode_file_leaves_its_folder_unchanged(commands: Commands) -> None:
    commands.leads({})
    file = commands.data_dir.parent / "away" / "copy.db"
    file.parent.mkdir()
    shutil.copyfile(commands.data_dir / "leads.db", file)
    assert file.read_bytes()[18:20] == b"\2\2"  # it would take a journal
    before = content(file.parent)
    restore(commands, file)
    assert content(file.parent) == before
    assert ids(commands) == [1]


def test_replaced_database_can_be_restored(commands: Commands) -> None:
    commands.leads({}, {})
    file = back_up(commands)
    commands.leads({}, {}, {})
    everything = leads(commands)
    first = restore_here(commands, file)
    assert ids(commands) == [1, 2]
    second = restore_here(commands, first / "leads.db")  # in the same second, too
    assert leads(commands) == everything
    assert first != second
    assert stat.S_IMODE(first.stat().st_mode) == stat.S_IMODE(second.stat().st_mode) == 0o700
    assert query(second / "leads.db", "SELECT count(*) FROM lead") == [(2,)]
    assert commands.leads({}) == [6]


def test_C4_ids_continue_after_a_restore(commands: Commands) -> None:
    commands.leads({}, {}, {})
    file = back_up(commands)
    commands.leads({}, {"email": "bob@renter.test", "phone": None})
    restore_here(commands, file)
    assert commands.leads({"email": "eve@renter.test", "phone": None}) == [6]
    last = leads(commands)[-1]
    assert (last["customer"]["id"], last["deal"]["id"]) == (3, 6)


def test_C4_ids_continue_after_an_older_backup(commands: Commands) -> None:
    with commands.database():
        pass  # that made it
    file = back_up(commands)
    commands.leads({}, {})
    restore_here(commands, file)
    assert ids(commands) == []
    assert commands.leads({}) == [3]
    assert [lead["building_id"] for lead in leads(commands)] == [2]


def test_C4_ids_in_the_wal_alone_are_not_reused(commands: Commands) -> None:
    commands.leads({})
    file = back_up(commands)
    lead = {"token": "maple", "tour_request": {"requestor_email": "jane@renter.test"}}
    with started("serve", data_dir=str(commands.data_dir)) as server:
        for number in (2, 3):
            assert curl(server.url + LEADS, lead) == (201, b'{"id": %d}' % number)
        server.process.kill()
        server.process.wait()
    assert (commands.data_dir / "leads.db-wal").stat().st_size
    kept = restore_here(commands, file)
    assert commands.leads({}) == [4]
    again = Commands(kept)
    assert ids(again) == [1, 2, 3]


@pytest.mark.parametrize("damage", [damage_header, damage_inside])
def test_C4_ids_skip_ahead_after_a_damaged_database(commands: Commands, damage: Any) -> None:
    commands.leads({}, {}, {"message": "m" * 10_000})
    file = back_up(commands)
    there = commands.data_dir / "leads.db"
    damage(there)
    damaged = there.read_bytes()
    kept = restore_here(commands, file)
    assert (kept / "leads.db").read_bytes() == damaged
    assert ids(commands) == [1, 2, 3]
    assert commands.leads({}) == [3 + UNKNOWN + 1]


def test_C4_ids_skip_ahead_even_with_an_empty_backup(commands: Commands) -> None:
    with commands.database():
        pass  # that made it
    file = back_up(commands)
    damage_header(commands.data_dir / "leads.db")
    restore_here(commands, file)
    assert commands.leads({}) == [UNKNOWN + 1]


def test_restore_creates_a_missing_data_folder(commands: Commands) -> None:
    commands.leads({}, {})
    before, file = leads(commands), back_up(commands)
    other = Commands(commands.data_dir.parent / "new machine" / "data")
    other.data_dir.parent.mkdir()
    assert restore(other, file)["replaced"] is None
    assert leads(other) == before
    assert other.leads({}) == [2 + UNKNOWN + 1]
    assert stat.S_IMODE(other.data_dir.stat().st_mode) == 0o700


def test_restore_is_refused_while_a_server_runs(commands: Commands) -> None:
    commands.leads({})
    file = back_up(commands)
    lead = {"token": "maple", "tour_request": {"requestor_email": "jane@renter.test"}}
    with started("serve", data_dir=str(commands.data_dir)) as server:
        assert curl(server.url + LEADS, lead) == (201, b'{"id": 2}')
        said = commands.refusal("backup", "restore", file)
        assert said.startswith(f"another server (process {server.process.pid}) is running on ")
        assert curl(server.url + LEADS, lead) == (201, b'{"id": 3}')
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
    assert ids(commands) == [1, 2, 3]
    assert not list(commands.data_dir.glob("replaced-*"))


@pytest.mark.parametrize("damage", [damage_header, damage_inside, Path.unlink])
def test_damaged_backup_is_refused_and_the_database_unchanged(commands: Commands, damage: Any) -> None:
    commands.leads({}, {"message": "m" * 10_000})
    file = back_up(commands)
    commands.leads({})
    checksum_file(file).unlink()
    damage(file)
    before = content(commands.data_dir)
    assert str(file) in commands.refusal("backup", "restore", file)
    assert content(commands.data_dir) == before
    assert ids(commands) == [1, 2, 3]


async def test_deliveries_stay_paused_after_a_restore_until_resumed(harness: ServerHarness) -> None:
    harness.mail.gate.clear()
    for name in ("one", "two", "three"):
        await harness.lead(token="maple", message=name, listing_source="june_homes")
    commands = Commands(harness.data_dir)
    file = Path((await asyncio.to_thread(commands.row, "backup", "create"))["path"])
    harness.mail.gate.set()
    await harness.settled()
    assert len(harness.mail.mails) == 3
    calls = len(harness.partner.calls)

    await harness.server.stop()
    await asyncio.to_thread(restore, commands, file)
    await harness.start(rate_limit="100000/1")
    await harness.lead(token="maple", message="after the restore", listing_source="june_homes")
    await harness.settled()
    assert (len(harness.mail.mails), len(harness.partner.calls)) == (3, calls)
    for kind in (EMAIL, JUNE_HOMES):
        place = await harness.destination(kind)
        assert place["paused"] and place["waits_because"].startswith("paused by a restore at 20")
        assert place["waits_because"].endswith("Z: what waits may have left already")

    waiting = [row["id"] for row in await harness.deliveries(kind="email", state="pending")]
    assert len(waiting) == 4
    assert (await asyncio.to_thread(commands.row, "outbox", "skip", *waiting[:3]))["skipped"] == waiting[:3]
    await asyncio.to_thread(commands.run, "outbox", "resume", "email")
    await harness.settled()
    [mail] = harness.mail.mails[3:]
    assert "after the restore" in str(mail)
    assert len(harness.partner.calls) == calls  # June Homes is another destination
    skipped = await harness.deliveries(state="skipped")
    assert [row["reason"] for row in skipped] == [SKIPPED_BY_HAND] * 3

    await harness.change(lambda: resume(ACTOR, JUNE_HOMES, harness.clock.now()))
    await harness.settled()
    assert b"after the restore" in b"".join(body for _, body in harness.partner.calls[calls:])


def test_skipped_delivery_is_retried_but_delivered_one_not_skipped(commands: Commands) -> None:
    commands.leads({}, {}, {"listing_source": "june_homes"})
    with commands.database():
        Delivery.update(state="delivered").where(Delivery.id == 2).execute()
        Delivery.update(state="failed").where(Delivery.id == 3).execute()
    assert commands.refusal("outbox", "skip", 1, 2) == "delivery 2 is delivered already"
    assert commands.refusal("outbox", "skip", 1, 99) == "there is no delivery 99; see 'outbox list'"
    assert commands.run("outbox", "skip", 3, 4).stdout == (
        "Not to leave: deliveries 3, 4; 'outbox retry' would have them leave still.\n"
    )
    assert commands.row("outbox", "retry", 4) == {"retried": [4]}
    with commands.database():
        states = [row.state for row in Delivery.select().order_by(Delivery.id)]
    assert states == ["pending", "delivered", "skipped", "pending"]  # a refusal has changed none


def test_restore_upgrades_a_backup_of_an_older_schema(commands: Commands) -> None:
    file = commands.data_dir.parent / "away" / "old.db"
    file.parent.mkdir()
    shutil.copyfile(SCHEMAS / "schema-1.db", file)
    before = file.read_bytes()
    commands.leads({})
    assert restore(commands, file)["schema"] == 1
    assert file.read_bytes() == before
    database = commands.data_dir / "leads.db"
    assert query(database, "PRAGMA user_version") == [(NEWEST,)]
    expected = [json.loads(line)["id"] for line in (SCHEMAS / "schema-1.jsonl").read_text().splitlines()]
    assert ids(commands) == expected
    assert not list((commands.data_dir / "backups").glob("*"))  # the backup is the backup
    assert {place for (place,) in query(database, "SELECT pause_reason FROM destination")} != {None}


@pytest.mark.parametrize("moved", [False, True], ids=["what was there still there", "and moved away"])
def test_interrupted_restore_blocks_the_folder_until_it_is_repeated(commands: Commands, moved: bool) -> None:
    commands.leads({})
    file = back_up(commands)
    commands.leads({})
    database = commands.data_dir / "leads.db"
    shutil.copyfile(file, commands.data_dir / RESTORING)
    if moved:
        (commands.data_dir / "replaced-before").mkdir()
        database.rename(commands.data_dir / "replaced-before" / "leads.db")
    before = content(commands.data_dir)
    for command in (
        ("lead", "list"),
        ("building", "add", "--name", "Oak"),
        ("serve", "--port", "0"),
        ("backup", "create"),
    ):
        assert commands.refusal(*command) == (
            f"a restore into {commands.data_dir} was begun and not finished; run 'backup restore' again"
        )
    assert content(commands.data_dir) == before

    restore(commands, file)
    assert not (commands.data_dir / RESTORING).exists()
    assert commands.leads({}) == [1 + UNKNOWN + 1 if moved else 3]
    assert len(list(commands.data_dir.glob("replaced-*/leads.db"))) == 1


def test_partial_copy_of_an_interrupted_restore_is_ignored(commands: Commands) -> None:
    commands.leads({})
    file = back_up(commands)
    for suffix in ("", "-journal", "-wal", "-shm"):
        (commands.data_dir / f"{RESTORING}.partial{suffix}").write_bytes(b"left by a crash" * 1_000)
    assert ids(commands) == [1]  # a restore that has not come to replacing anything hinders nobody
    restore_here(commands, file)
    assert ids(commands) == [1]
    assert not list(commands.data_dir.glob(f"{RESTORING}*"))


def test_restore_is_refused_while_a_command_runs(commands: Commands) -> None:
    commands.leads({})
    file = back_up(commands)
    before = content(commands.data_dir)
    with command_lock(commands.data_dir):
        said = commands.refusal("backup", "restore", file)
        assert commands.rows("lead", "list")  # beside other commands it can be
    assert said == f"another command is at work in {commands.data_dir}; let it come to its end first"
    assert content(commands.data_dir)["leads.db"] == before["leads.db"]


def test_commands_are_refused_during_a_restore(commands: Commands) -> None:
    commands.leads({})
    with restore_lock(commands.data_dir):
        said = commands.refusal("building", "add", "--name", "Oak")
    assert said == f"a restore into {commands.data_dir}, or a move, is under way; let it come to its end"


def test_database_is_refused_as_its_own_backup(commands: Commands) -> None:
    commands.leads({})
    said = commands.refusal("backup", "restore", commands.data_dir / "leads.db")
    assert said == f"{commands.data_dir}/leads.db is the database itself; name a backup of it"


def test_backup_is_found_by_its_listed_name(commands: Commands) -> None:
    commands.leads({})
    made = Path(commands.row("backup", "create")["path"])
    commands.leads({})
    assert commands.row("backup", "verify", made.name)["leads"] == 1
    said = commands.run("backup", "restore", made.name).stdout
    assert "is in place: 1 leads" in said and "What was there, with 2 leads, is kept in" in said
    assert ids(commands) == [1]
