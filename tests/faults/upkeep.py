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
from fault_run import FaultRun, fault
from load_clients import Ledger, LoadClients, ServerProcess, judge_storage, seeded, spread, stored_leads
from power import Replay, cuts

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


async def operations(box: ServerProcess, folder: Path, *command: str) -> int:
    """How many operations on files this command makes, when nothing stops it."""
    give_order(folder, die=10**9)
    status, _ = await box.command(*command)
    assert status == 0
    return 10**9 - int((folder / "left").read_text())


@fault(
    "upgrade-killed",
    "kill -9, and power cuts, in the middle of an upgrade of the schema",
    short=20,
    long=200,
    mutants=("upgrades without a transaction",),
)
async def upgrade_killed(trial: FaultRun) -> None:
    old = shape(_copied(OLD, trial.folder / "old.db"))
    async with ServerProcess(trial) as box:
        box.variables["TRIAL_DISK"] = "recorded"
        database = box.data_dir / "leads.db"

        def start_over() -> None:
            shutil.rmtree(box.data_dir)
            box.data_dir.mkdir()
            shutil.copyfile(OLD, database)
            (trial.folder / "record.pickle").unlink(missing_ok=True)

        start_over()
        count = await operations(box, trial.folder, "lead", "list")
        new = shape(database)
        trial.require(new[0] == NEWEST and new[2] == old[2], "an upgrade changes no lead")
        for after in spread(trial.times, count):
            start_over()
            give_order(trial.folder, die=after)
            status, _ = await box.command("lead", "list")
            trial.require(status == -9, "it was killed")
            _judge(trial, database, old, new, "killed")
            give_order(trial.folder)
            began = time.monotonic()
            status, _ = await box.command("lead", "list")
            trial.recovered_since(began)
            trial.require(status == 0 and shape(database) == new, "the next start completes it")
            trial.tried += 1
            if trial.broken:
                return
        start_over()
        await box.command("lead", "list")
    events = list(read_record(trial.folder))
    replay, cut = Replay(), trial.folder / "cut"
    replay.place("leads.db", OLD.read_bytes())
    moments = list(cuts(events))
    for at, event in enumerate(events):
        replay.take(event)
        if at in moments:
            replay.cut(cut, seeded(trial))
            _judge(trial, cut / "leads.db", old, new, "cut off from power")
            trial.tried += 1


def _copied(source: Path, target: Path) -> Path:
    shutil.copyfile(source, target)
    return target


def _judge(trial: FaultRun, database: Path, old: object, new: object, how: str) -> None:
    try:
        found = shape(database)
    except (apsw.Error, AssertionError):
        found = None
    whole = found in (old, new)
    trial.lost += not whole
    trial.require(whole, f"{how}, it is the old schema or the new one, and never between")


FIRST_OPERATIONS = 12


@fault(
    "creation-killed",
    "kill -9 in the middle of the very first command, which makes the database",
    short=20,
    long=200,
    mutants=("cannot undo what was begun",),
)
async def creation_killed(trial: FaultRun) -> None:
    first = ("building", "add", "--name=Maple", "--token=maple")
    async with ServerProcess(trial) as box:
        box.variables["TRIAL_DISK"] = "plain"
        shutil.rmtree(box.data_dir)
        count = await operations(box, trial.folder, *first)
        # All of those by which the file comes into being: of these few leave something to be undone.
        for after in sorted({*range(FIRST_OPERATIONS), *spread(trial.times, count)}):
            shutil.rmtree(box.data_dir)
            give_order(trial.folder, die=after)
            status, _ = await box.command(*first)
            trial.require(status == -9, "it was killed")
            give_order(trial.folder)
            began = time.monotonic()
            status, said = await box.command("building", "add", "--name=Oak", "--json")
            trial.recovered_since(began)
            trial.require(status == 0, "the next command works")
            trial.tried += 1
            if trial.broken:
                return


@fault(
    "restore-full",
    "a backup restored to a disk that has hardly room for it, or none",
    short=12,
    long=60,
    mutants=("takes its copy for whole",),
)
async def restore_full(trial: FaultRun) -> None:
    """Either it is done, whole and with its outbox paused, or it is refused and all is as it was."""
    size = 4 * 2**20
    with small_disk(trial.folder / "data", size // 2**20):
        async with ServerProcess(trial) as box:
            before = shape(box.data_dir / "leads.db")
            ballast = box.data_dir / "ballast"
            for number in range(trial.times):
                with ballast.open("wb") as file:
                    free = shutil.disk_usage(box.data_dir).free
                    file.write(bytes(max(0, free - 100_000 - number * 300_000 // trial.times)))
                began = time.monotonic()
                status, _ = await box.command("backup", "restore", str(OLDEST))
                ballast.unlink()
                leftovers = [path.name for path in box.data_dir.glob("leads.db.restoring*")]
                trial.require(not leftovers, "nothing of it is left lying about")
                found = shape(box.data_dir / "leads.db")
                if status == 0:
                    with closing(apsw.Connection(str(box.data_dir / "leads.db"))) as connection:
                        paused = connection.execute("SELECT min(paused) FROM destination").get
                    whole = (
                        found[0] == NEWEST and found[2] == shape(_copied(OLDEST, trial.folder / "old.db"))[2]
                    )
                    trial.require(whole and paused, "what is said to be restored is whole, and waits")
                else:
                    trial.require(found == before, "what is refused leaves all as it was")
                trial.recovered_since(began)
                trial.tried += 1
                if trial.broken:
                    return
                for folder in box.data_dir.glob("replaced-*"):
                    shutil.rmtree(folder)
                before = found


@fault(
    "restore-killed",
    "kill -9 in the middle of putting a backup in the database's place",
    short=3,
    long=100,
    mutants=("restores without a mark", "restores without a pause"),
)
async def restore_killed(trial: FaultRun) -> None:
    ledger = Ledger()
    async with ServerProcess(trial) as box:
        await box.start()
        crowd = LoadClients(box, ledger, 4)
        await crowd.reach(20)
        await crowd.go_home()
        backup = trial.folder / "backup.db"
        await box.command("backup", "create", "--output", str(backup))
        in_backup = stored_leads(backup)
        crowd = LoadClients(box, ledger, 4)
        await crowd.reach(40)
        await crowd.go_home()
        await box.stop()
        before = trial.folder / "before"
        shutil.copytree(box.data_dir, before)
        in_place = stored_leads(before / "leads.db")
        last_id = max(in_place)
        restore = ("backup", "restore", str(backup))
        box.variables["TRIAL_DISK"] = "plain"
        count = await operations(box, trial.folder, *restore)
        mails = len(box.mail.mails)
        await box.start()
        fresh = Ledger()
        await box.first_answer(fresh)
        trial.require(min(fresh.acknowledged) > last_id, "no id is given out again")
        await asyncio.sleep(0.5)
        await box.stop()
        trial.duplicated = len(box.mail.mails) - mails
        trial.require(trial.duplicated == 0, "nothing leaves until an operator says so")
        # Some anywhere, and some where the files change places, which is at the end.
        for after in sorted({*spread(trial.times, count), *range(count - 8, count)}):
            shutil.rmtree(box.data_dir)
            shutil.copytree(before, box.data_dir)
            give_order(trial.folder, die=after)
            status, _ = await box.command(*restore)
            trial.require(status == -9, "it was killed")
            give_order(trial.folder)
            status, _ = await box.command("building", "add", "--name=Oak")
            if status == 0:  # it can be used: then it is what was there, or all of the backup
                found = stored_leads(box.data_dir / "leads.db")
                whole = found in (in_place, in_backup)
                trial.lost += not whole
                trial.require(whole, "cut off, it is what was there or the backup, or refuses to be used")
            began = time.monotonic()
            status, _ = await box.command(*restore)
            trial.recovered_since(began)
            trial.require(
                status == 0 and stored_leads(box.data_dir / "leads.db") == in_backup, "run again it completes"
            )
            kept = [
                stored_leads(folder / "leads.db")
                for folder in box.data_dir.glob("replaced-*")
                if (folder / "leads.db").exists()
            ]
            trial.require(in_place in kept, "what it replaced is kept")
            trial.tried += 1
            if trial.broken:
                return


@fault(
    "backup-under-load",
    "backups made while 400 leads a second come in",
    short=4,
    long=20,
    mutants=("copies the file",),
)
async def backup_under_load(trial: FaultRun) -> None:
    ledger = Ledger()
    async with ServerProcess(trial, smtp_url="", june_homes_url="") as box:
        await box.start()
        crowd = LoadClients(box, ledger, 40, pause=40 / 640)
        await crowd.reach(400)
        # Somebody reads all the while, so that what is new stays in the journal, where a copy of the file
        # alone would not find it.
        onlooker = apsw.Connection(str(box.data_dir / "leads.db"))
        onlooker.execute("BEGIN; SELECT count(*) FROM lead").get
        await crowd.reach(500)
        began = time.monotonic()
        for number in range(trial.times):
            promised = Ledger(dict(ledger.acknowledged))
            backup = trial.folder / f"backup-{number}.db"
            started = time.monotonic()
            status, _ = await box.command("backup", "create", "--output", str(backup))
            trial.recovered_since(started)
            trial.require(status == 0, "a backup is made and read back")
            trial.require(backup.exists() and backup.stat().st_mode & 0o777 == 0o600, "for its owner alone")
            if backup.exists():
                judge_storage(trial, promised, stored_leads(backup))
            trial.tried += 1
        rate = (len(ledger.acknowledged) - 500) / (time.monotonic() - began)
        onlooker.close()
        await crowd.go_home()
        await box.stop()
        judge_storage(trial, ledger, stored_leads(box.data_dir / "leads.db"))
    trial.seen = f"{rate:.0f} leads a second meanwhile; recovery is the time for one backup"
