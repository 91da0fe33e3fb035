"""Owns the trials of upgrades, backups and restores that are cut off, or made while leads come in."""

import asyncio
import json
import shutil
import time
from contextlib import closing
from pathlib import Path

import apsw
from disk import give_order, read_record
from disks import small_disk
from fault_run import FaultRun, fault, spread
from launched_server import LaunchedServer
from lead_client import Ledger
from load_clients import LoadClients
from power import Replay, cuts
from stored_leads import judge_storage, stored_leads

from models.storage.sqlite.migrations.steps import NEWEST

SCHEMAS = Path(__file__).parents[1] / "schemas"
OLD = SCHEMAS / f"schema-{NEWEST - 1}.db"
OLDEST = SCHEMAS / "schema-1.db"  # with the most to upgrade


def shape(database: Path) -> tuple[int, list[str], list[str]]:
    """The schema's version, its tables and columns, and what is in the leads."""
    with closing(apsw.Connection(str(database))) as connection:
        assert connection.execute("PRAGMA integrity_check(1)").get == "ok"
        tables = connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")
        schema = [sql for (sql,) in tables]
        leads = [json.dumps(row) for row in connection.execute("SELECT id, request_id, message FROM lead")]
        return int(connection.pragma("user_version")), schema, leads


async def operations(server: LaunchedServer, folder: Path, *command: str) -> int:
    """How many operations on files this command makes, when nothing stops it."""
    give_order(folder, die=10**9)
    status, _ = await server.command(*command)
    assert status == 0
    return 10**9 - int((folder / "left").read_text())


@fault(
    "upgrade-killed",
    "kill -9, and power cuts, in the middle of an upgrade of the schema",
    short=20,
    long=200,
    mutants=("upgrades without a transaction",),
)
async def upgrade_killed(run: FaultRun) -> None:
    old = shape(_copied(OLD, run.folder / "old.db"))
    async with LaunchedServer(run) as server:
        server.variables["FAULT_DISK"] = "recorded"
        database = server.data_dir / "leads.db"

        def start_over() -> None:
            shutil.rmtree(server.data_dir)
            server.data_dir.mkdir()
            shutil.copyfile(OLD, database)
            (run.folder / "record.pickle").unlink(missing_ok=True)

        start_over()
        count = await operations(server, run.folder, "lead", "list")
        new = shape(database)
        run.require(new[0] == NEWEST and new[2] == old[2], "an upgrade changes no lead")
        for after in spread(run.times, count):
            start_over()
            give_order(run.folder, die=after)
            status, _ = await server.command("lead", "list")
            run.require(status == -9, "it was killed")
            _judge(run, database, old, new, "killed")
            give_order(run.folder)
            began = time.monotonic()
            status, _ = await server.command("lead", "list")
            run.recovered_since(began)
            run.require(status == 0 and shape(database) == new, "the next start completes it")
            run.tried += 1
            if run.broken:
                return
        start_over()
        await server.command("lead", "list")
    events = list(read_record(run.folder))
    replay, cut = Replay(), run.folder / "cut"
    replay.place("leads.db", OLD.read_bytes())
    moments = list(cuts(events))
    for at, event in enumerate(events):
        replay.take(event)
        if at in moments:
            replay.cut(cut, run.seeded_random())
            _judge(run, cut / "leads.db", old, new, "cut off from power")
            run.tried += 1


def _copied(source: Path, target: Path) -> Path:
    shutil.copyfile(source, target)
    return target


def _judge(run: FaultRun, database: Path, old: object, new: object, how: str) -> None:
    try:
        found = shape(database)
    except (apsw.Error, AssertionError):
        found = None
    whole = found in (old, new)
    run.lost += not whole
    run.require(whole, f"{how}, it is the old schema or the new one, and never between")


FIRST_OPERATIONS = 12


@fault(
    "creation-killed",
    "kill -9 in the middle of the very first command, which makes the database",
    short=20,
    long=200,
    mutants=("cannot undo what was begun",),
)
async def creation_killed(run: FaultRun) -> None:
    first = ("building", "add", "--name=Maple", "--token=maple")
    async with LaunchedServer(run) as server:
        server.variables["FAULT_DISK"] = "plain"
        shutil.rmtree(server.data_dir)
        count = await operations(server, run.folder, *first)
        # All of those by which the file comes into being: of these few leave something to be undone.
        for after in sorted({*range(FIRST_OPERATIONS), *spread(run.times, count)}):
            shutil.rmtree(server.data_dir)
            give_order(run.folder, die=after)
            status, _ = await server.command(*first)
            run.require(status == -9, "it was killed")
            give_order(run.folder)
            began = time.monotonic()
            status, said = await server.command("building", "add", "--name=Oak", "--json")
            run.recovered_since(began)
            run.require(status == 0, "the next command works")
            run.tried += 1
            if run.broken:
                return


@fault(
    "restore-full",
    "a backup restored to a disk that has hardly room for it, or none",
    short=12,
    long=60,
    mutants=("takes its copy for whole",),
)
async def restore_full(run: FaultRun) -> None:
    """Either it is done, whole and with its outbox paused, or it is refused and all is as it was."""
    size = 4 * 2**20
    with small_disk(run.folder / "data", size // 2**20):
        async with LaunchedServer(run) as server:
            before = shape(server.data_dir / "leads.db")
            ballast = server.data_dir / "ballast"
            for number in range(run.times):
                with ballast.open("wb") as file:
                    free = shutil.disk_usage(server.data_dir).free
                    file.write(bytes(max(0, free - 100_000 - number * 300_000 // run.times)))
                began = time.monotonic()
                status, _ = await server.command("backup", "restore", str(OLDEST))
                ballast.unlink()
                leftovers = [path.name for path in server.data_dir.glob("leads.db.restoring*")]
                run.require(not leftovers, "nothing of it is left lying about")
                found = shape(server.data_dir / "leads.db")
                if status == 0:
                    with closing(apsw.Connection(str(server.data_dir / "leads.db"))) as connection:
                        paused = connection.execute("SELECT min(paused) FROM destination").get
                    whole = (
                        found[0] == NEWEST and found[2] == shape(_copied(OLDEST, run.folder / "old.db"))[2]
                    )
                    run.require(whole and paused, "what is said to be restored is whole, and waits")
                else:
                    run.require(found == before, "what is refused leaves all as it was")
                run.recovered_since(began)
                run.tried += 1
                if run.broken:
                    return
                for folder in server.data_dir.glob("replaced-*"):
                    shutil.rmtree(folder)
                before = found


@fault(
    "restore-killed",
    "kill -9 in the middle of putting a backup in the database's place",
    short=3,
    long=100,
    mutants=("restores without a mark", "restores without a pause"),
)
async def restore_killed(run: FaultRun) -> None:
    ledger = Ledger()
    async with LaunchedServer(run) as server:
        await server.start()
        clients = LoadClients(server, ledger, 4)
        await clients.reach(20)
        await clients.stop()
        backup = run.folder / "backup.db"
        await server.command("backup", "create", "--output", str(backup))
        in_backup = stored_leads(backup)
        clients = LoadClients(server, ledger, 4)
        await clients.reach(40)
        await clients.stop()
        await server.stop()
        before = run.folder / "before"
        shutil.copytree(server.data_dir, before)
        in_place = stored_leads(before / "leads.db")
        last_id = max(in_place)
        restore = ("backup", "restore", str(backup))
        server.variables["FAULT_DISK"] = "plain"
        count = await operations(server, run.folder, *restore)
        mails = len(server.mail.mails)
        await server.start()
        fresh = Ledger()
        await server.first_answer(fresh)
        run.require(min(fresh.acknowledged) > last_id, "no id is given out again")
        await asyncio.sleep(0.5)
        await server.stop()
        run.duplicated = len(server.mail.mails) - mails
        run.require(run.duplicated == 0, "nothing leaves until an operator says so")
        # Some anywhere, and some where the files change places, which is at the end.
        for after in sorted({*spread(run.times, count), *range(count - 8, count)}):
            shutil.rmtree(server.data_dir)
            shutil.copytree(before, server.data_dir)
            give_order(run.folder, die=after)
            status, _ = await server.command(*restore)
            run.require(status == -9, "it was killed")
            give_order(run.folder)
            status, _ = await server.command("building", "add", "--name=Oak")
            if status == 0:  # it can be used: then it is what was there, or all of the backup
                found = stored_leads(server.data_dir / "leads.db")
                whole = found in (in_place, in_backup)
                run.lost += not whole
                run.require(whole, "cut off, it is what was there or the backup, or refuses to be used")
            began = time.monotonic()
            status, _ = await server.command(*restore)
            run.recovered_since(began)
            run.require(
                status == 0 and stored_leads(server.data_dir / "leads.db") == in_backup,
                "run again it completes",
            )
            kept = [
                stored_leads(folder / "leads.db")
                for folder in server.data_dir.glob("replaced-*")
                if (folder / "leads.db").exists()
            ]
            run.require(in_place in kept, "what it replaced is kept")
            run.tried += 1
            if run.broken:
                return


@fault(
    "backup-under-load",
    "backups made while 400 leads a second come in",
    short=4,
    long=20,
    mutants=("copies the file",),
)
async def backup_under_load(run: FaultRun) -> None:
    ledger = Ledger()
    async with LaunchedServer(run, smtp_url="", june_homes_url="") as server:
        await server.start()
        clients = LoadClients(server, ledger, 40, pause=40 / 640)
        await clients.reach(400)
        # Somebody reads all the while, so that what is new stays in the journal, where a copy of the file
        # alone would not find it.
        reader = apsw.Connection(str(server.data_dir / "leads.db"))
        reader.execute("BEGIN; SELECT count(*) FROM lead").get
        await clients.reach(500)
        began = time.monotonic()
        for number in range(run.times):
            promised = Ledger(dict(ledger.acknowledged))
            backup = run.folder / f"backup-{number}.db"
            started = time.monotonic()
            status, _ = await server.command("backup", "create", "--output", str(backup))
            run.recovered_since(started)
            run.require(status == 0, "a backup is made and read back")
            run.require(backup.exists() and backup.stat().st_mode & 0o777 == 0o600, "for its owner alone")
            if backup.exists():
                judge_storage(run, promised, stored_leads(backup))
            run.tried += 1
        rate = (len(ledger.acknowledged) - 500) / (time.monotonic() - began)
        reader.close()
        await clients.stop()
        await server.stop()
        judge_storage(run, ledger, stored_leads(server.data_dir / "leads.db"))
    run.seen = f"{rate:.0f} leads a second meanwhile; recovery is the time for one backup"
