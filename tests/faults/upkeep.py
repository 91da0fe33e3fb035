"""Fault runs of upgrades, backups and restores: interrupted, on a full disk, or under load."""

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


def schema_and_leads(database: Path) -> tuple[int, list[str], list[str]]:
    """Return the version and the statements of the schema, and the leads."""
    with closing(apsw.Connection(str(database))) as connection:
        assert connection.execute("PRAGMA integrity_check(1)").get == "ok"
        tables = connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")
        schema = [sql for (sql,) in tables]
        leads = [json.dumps(row) for row in connection.execute("SELECT id, request_id, message FROM lead")]
        return int(connection.pragma("user_version")), schema, leads


async def count_operations(server: LaunchedServer, folder: Path, *command: str) -> int:
    """Return how many file operations a command makes if it is not interrupted."""
    give_order(folder, die=10**9)
    status, _ = await server.command(*command)
    assert status == 0
    return 10**9 - int((folder / "left").read_text())


@fault(
    "upgrade-killed",
    "kill -9 and power cuts during an upgrade of the schema",
    short=8,
    long=200,
    mutants=("upgrades without a transaction",),
)
async def upgrade_killed(run: FaultRun) -> None:
    old = schema_and_leads(_copied(OLD, run.folder / "old.db"))
    async with LaunchedServer(run) as server:
        server.variables["FAULT_DISK"] = "recorded"
        database = server.data_dir / "leads.db"

        def start_over() -> None:
            shutil.rmtree(server.data_dir)
            server.data_dir.mkdir()
            shutil.copyfile(OLD, database)
            (run.folder / "record.pickle").unlink(missing_ok=True)

        start_over()
        count = await count_operations(server, run.folder, "lead", "list")
        new = schema_and_leads(database)
        run.require(new[0] == NEWEST and new[2] == old[2], "an upgrade changes no lead")
        # The backup before the upgrade comes first, and the schema's steps at the end.
        names = [event[1] if len(event) > 1 else "" for event in read_record(run.folder)]
        first = names.index("leads.db-wal")
        steps = [first + at for at in spread(run.times, count - first)]
        for after in sorted({*spread(run.times, count), *steps}):
            start_over()
            give_order(run.folder, die=after)
            status, _ = await server.command("lead", "list")
            run.require(status == -9, "the command is killed")
            _judge(run, database, old, new, "after kill -9")
            give_order(run.folder)
            began = time.monotonic()
            status, _ = await server.command("lead", "list")
            run.recovered_since(began)
            run.require(status == 0 and schema_and_leads(database) == new, "the next start completes it")
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
            _judge(run, cut / "leads.db", old, new, "after a power cut")
            run.tried += 1


def _copied(source: Path, target: Path) -> Path:
    shutil.copyfile(source, target)
    return target


def _judge(run: FaultRun, database: Path, old: object, new: object, how: str) -> None:
    try:
        found = schema_and_leads(database)
    except (apsw.Error, AssertionError):
        found = None
    whole = found in (old, new)
    run.lost += not whole
    run.require(whole, f"{how} the schema is the old one or the new one, and whole")


FIRST_OPERATIONS = 12  # in which the file comes into being: few of them leave a hot journal


@fault(
    "creation-killed",
    "kill -9 during the first command, which makes the database",
    short=20,
    long=200,
    mutants=("opens an interrupted creation read only",),
)
async def creation_killed(run: FaultRun) -> None:
    first = ("building", "add", "--name=Maple", "--token=maple")
    async with LaunchedServer(run) as server:
        server.variables["FAULT_DISK"] = "plain"
        shutil.rmtree(server.data_dir)
        count = await count_operations(server, run.folder, *first)
        for after in sorted({*range(FIRST_OPERATIONS), *spread(run.times, count)}):
            shutil.rmtree(server.data_dir)
            give_order(run.folder, die=after)
            status, _ = await server.command(*first)
            run.require(status == -9, "the command is killed")
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
    "a backup restored to a disk with little room, or none",
    short=12,
    long=60,
    mutants=("restores without reading back",),
)
async def restore_full(run: FaultRun) -> None:
    """A restore is complete, with its outbox paused, or it fails and changes nothing."""
    size = 4 * 2**20
    with small_disk(run.folder / "data", size // 2**20):
        async with LaunchedServer(run) as server:
            before = schema_and_leads(server.data_dir / "leads.db")
            ballast = server.data_dir / "ballast"
            for number in range(run.times):
                with ballast.open("wb") as file:
                    free = shutil.disk_usage(server.data_dir).free
                    file.write(bytes(max(0, free - 100_000 - number * 600_000 // run.times)))
                began = time.monotonic()
                status, _ = await server.command("backup", "restore", str(OLDEST))
                ballast.unlink()
                leftovers = [path.name for path in server.data_dir.glob("leads.db.restoring*")]
                run.require(not leftovers, "a restore leaves no partial file")
                found = schema_and_leads(server.data_dir / "leads.db")
                if status == 0:
                    with closing(apsw.Connection(str(server.data_dir / "leads.db"))) as connection:
                        paused = connection.execute("SELECT min(paused) FROM destination").get
                    whole = (
                        found[0] == NEWEST
                        and found[2] == schema_and_leads(_copied(OLDEST, run.folder / "old.db"))[2]
                    )
                    run.require(whole and paused, "a restore that succeeds is whole, and paused")
                else:
                    run.require(found == before, "a restore that fails changes nothing")
                run.recovered_since(began)
                run.tried += 1
                if run.broken:
                    return
                for folder in server.data_dir.glob("replaced-*"):
                    shutil.rmtree(folder)
                before = found


@fault(
    "restore-killed",
    "kill -9 while a restore replaces the database",
    short=3,
    long=100,
    mutants=("restores without a marker", "restores without a pause"),
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
        count = await count_operations(server, run.folder, *restore)
        mails = len(server.mail.mails)
        await server.start()
        fresh = Ledger()
        await server.first_answer(fresh)
        run.require(min(fresh.acknowledged) > last_id, "no id is given twice")
        await asyncio.sleep(0.5)
        await server.stop()
        run.duplicated = len(server.mail.mails) - mails
        run.require(run.duplicated == 0, "no mail is sent until an operator resumes the outbox")
        # Evenly spread, and all of the last operations, where the files are exchanged.
        for after in sorted({*spread(run.times, count), *range(count - 8, count)}):
            shutil.rmtree(server.data_dir)
            shutil.copytree(before, server.data_dir)
            give_order(run.folder, die=after)
            status, _ = await server.command(*restore)
            run.require(status == -9, "the command is killed")
            give_order(run.folder)
            status, _ = await server.command("building", "add", "--name=Oak")
            if status == 0:  # the folder is usable: it has the previous database, or the whole backup
                found = stored_leads(server.data_dir / "leads.db")
                whole = found in (in_place, in_backup)
                run.lost += not whole
                run.require(whole, "after kill -9 it is the old database or the backup, or is refused")
            began = time.monotonic()
            status, _ = await server.command(*restore)
            run.recovered_since(began)
            run.require(
                status == 0 and stored_leads(server.data_dir / "leads.db") == in_backup,
                "a second restore completes",
            )
            kept = [
                stored_leads(folder / "leads.db")
                for folder in server.data_dir.glob("replaced-*")
                if (folder / "leads.db").exists()
            ]
            run.require(in_place in kept, "the replaced database is kept")
            run.tried += 1
            if run.broken:
                return


@fault(
    "backup-under-load",
    "backups while 400 leads a second arrive",
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
        # An open read transaction keeps new leads in the WAL, where a copy of the file alone misses them.
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
            run.require(
                backup.exists() and backup.stat().st_mode & 0o777 == 0o600, "only its owner can read it"
            )
            if backup.exists():
                judge_storage(run, promised, stored_leads(backup))
            run.tried += 1
        rate = (len(ledger.acknowledged) - 500) / (time.monotonic() - began)
        reader.close()
        await clients.stop()
        await server.stop()
        judge_storage(run, ledger, stored_leads(server.data_dir / "leads.db"))
    run.seen = f"{rate:.0f} leads a second meanwhile; recovery is the time of one backup"
