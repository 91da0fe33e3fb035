"""The nightly backup: one a night, at once if the last is too old, and rotation."""

import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from command_line import Commands
from conftest import StartHarness, SteppedClock, until
from test_failed_commits import failing_writes

from jobs.backup import NightlyBackup
from models.storage.sqlite.backup import create_backup, verify_backup
from models.storage.sqlite.backup_files import checksum_file, installation_of, list_backups, new_path

pytestmark = pytest.mark.sqlite("backups of PostgreSQL are made by its own programs")

HOUR = 3_600
OFFICE = ZoneInfo("America/New_York")


@pytest.fixture(autouse=True)
def office_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the machine's time zone to New York, where a SteppedClock begins at ten in the morning."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", OFFICE.key)
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "backups"


Nightly = Callable[..., NightlyBackup]


@pytest.fixture
def nightly(commands: Commands, folder: Path, clock: SteppedClock) -> Nightly:
    """A function that makes the job, on a database with a lead in it."""
    commands.leads({})
    return lambda keep=14: NightlyBackup(commands.data_dir, folder, keep, clock)


def set_to(clock: SteppedClock, day: int, hour: int, minute: int = 0) -> None:
    """Set the clock to a time of this November in New York."""
    clock.step((datetime(2026, 11, day, hour, minute, tzinfo=OFFICE) - clock.now()).total_seconds())


def times(folder: Path, of: str | None = None) -> list[datetime]:
    """Return when the nightly backups there (of this database) were made, in New York time."""
    made = [backup.made_at for backup in list_backups(folder, of) if backup.why == "nightly"]
    return sorted(at.astimezone(OFFICE) for at in made)


async def each_hour(job: NightlyBackup, clock: SteppedClock, hours: int) -> None:
    """Call the job every hour for so many hours."""
    for _ in range(hours):
        clock.step(HOUR)
        await job.make_if_due()


async def test_first_backup_is_made_at_once_whole_and_private(
    nightly: Nightly, folder: Path, clock: SteppedClock, commands: Commands
) -> None:
    await nightly().make_if_due()
    [made] = list_backups(folder)
    assert made.path.name == f"leads-{made.of}-nightly-20261123T150000Z.db"
    assert made.of == installation_of(commands.data_dir)
    backup = verify_backup(made.path)
    assert (backup.leads, backup.checksum is None) == (1, False)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, made.path, checksum_file(made.path))]
    assert modes == [0o700, 0o600, 0o600]


async def test_one_backup_is_made_each_night_at_three(
    nightly: Nightly, folder: Path, clock: SteppedClock
) -> None:
    set_to(clock, 20, 3, 10)
    job = nightly()
    await job.make_if_due()
    await each_hour(job, clock, 3 * 24)
    assert [(at.day, at.hour) for at in times(folder)] == [(20, 3), (21, 3), (22, 3), (23, 3)]


async def test_server_started_by_day_makes_its_next_backup_at_three(
    nightly: Nightly, folder: Path, clock: SteppedClock
) -> None:
    set_to(clock, 20, 10)
    job = nightly()
    await job.make_if_due()
    await each_hour(job, clock, 2 * 24)
    assert [(at.day, at.hour) for at in times(folder)] == [(20, 10), (21, 3), (22, 3)]


async def test_backup_missed_at_three_is_made_later(
    nightly: Nightly, folder: Path, clock: SteppedClock
) -> None:
    job = nightly()
    for day in (20, 21):
        set_to(clock, day, 8)
        await job.make_if_due()
        await each_hour(job, clock, 10)
    assert [(at.day, at.hour) for at in times(folder)] == [(20, 8), (21, 8)]


@pytest.mark.parametrize("day", [datetime(2026, 3, 8), datetime(2026, 11, 1)])  # of 23 hours, and of 25
async def test_night_of_a_daylight_saving_change_has_one_backup(
    nightly: Nightly, folder: Path, clock: SteppedClock, day: datetime
) -> None:
    began = day.replace(tzinfo=OFFICE) - timedelta(hours=6)
    clock.step((began.astimezone(UTC) - clock.now()).total_seconds())
    job = nightly()
    await job.make_if_due()
    await each_hour(job, clock, 20)
    assert [(at.day, at.hour) for at in times(folder)] == [(began.day, 18), (day.day, 3)]


async def test_manual_backup_counts(
    nightly: Nightly, folder: Path, clock: SteppedClock, commands: Commands
) -> None:
    create_backup(commands.data_dir, new_path(commands.data_dir, folder, "manual", clock.now()))
    await nightly().make_if_due()
    assert times(folder) == []


async def test_backup_from_the_future_does_not_count(
    nightly: Nightly, folder: Path, clock: SteppedClock
) -> None:
    clock.set_time_of_day(400 * 24 * HOUR)
    job = nightly()
    await job.make_if_due()
    clock.set_time_of_day(-400 * 24 * HOUR)
    await job.make_if_due()
    assert times(folder)[0] == clock.now()
    await job.make_if_due()
    assert len(times(folder)) == 2


async def test_backup_from_the_future_displaces_no_other(
    nightly: Nightly, folder: Path, clock: SteppedClock
) -> None:
    job = nightly(keep=2)
    clock.set_time_of_day(400 * 24 * HOUR)
    await each_hour(job, clock, 3 * 24)
    clock.set_time_of_day(-400 * 24 * HOUR)
    before = clock.now()
    await job.make_if_due()
    clock.step(60)
    await job.make_if_due()
    assert [at for at in times(folder) if at <= clock.now()] == [before]


async def test_rotation_keeps_the_newest_and_removes_only_nightly_backups(
    nightly: Nightly, folder: Path, clock: SteppedClock, commands: Commands
) -> None:
    folder.mkdir()
    job = nightly(keep=3)
    of = installation_of(commands.data_dir)
    others = [
        f"leads-{of}-manual-20200101T000000Z.db",
        f"leads-{of}-manual-20200101T000000Z.db.sha256",
        f"leads-{of}-before-schema-2-20200101T000000Z.db",
        "leads-0a0a0a0a-nightly-20200101T000000Z.db",
        "leads-nightly-20200101T000000Z.db",
        "leads-nightly.db",
        "my leads-nightly-20200101T000000Z.db",
        "notes.txt",
    ]
    for name in others:
        (folder / name).write_text("to be kept")
    for _ in range(5):
        await job.make_if_due()
        clock.step(27 * HOUR)
    made = times(folder, of)
    assert [clock.now() - at for at in made] == [timedelta(hours=27 * n) for n in (3, 2, 1)]
    kept = [f"leads-{of}-nightly-{at.astimezone(UTC):%Y%m%dT%H%M%SZ}.db" for at in made]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*others, *kept, *(f"{name}.sha256" for name in kept)]
    )


async def test_only_partial_files_of_interrupted_nightly_backups_are_removed(
    nightly: Nightly, folder: Path, commands: Commands
) -> None:
    folder.mkdir()
    job = nightly()
    of = installation_of(commands.data_dir)
    left = f"leads-{of}-nightly-20261122T080000Z.db.partial"
    others = [
        f"leads-{of}-manual-20261122T080000Z.db.partial",
        "leads-0a0a0a0a-nightly-20261122T080000Z.db.partial",
    ]
    for name in (left, f"{left}-journal", f"{left}-wal", f"{left}-shm", *others):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (0, 0))
    written_to_now = f"leads-{of}-nightly-20261123T140000Z.db.partial"
    (folder / written_to_now).write_bytes(b"half")
    await job.make_if_due()
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [
            *others,
            written_to_now,
            f"leads-{of}-nightly-20261123T150000Z.db",
            f"leads-{of}-nightly-20261123T150000Z.db.sha256",
        ]
    )


async def test_backup_without_its_checksum_does_not_count(
    nightly: Nightly, folder: Path, commands: Commands, clock: SteppedClock
) -> None:
    folder.mkdir()
    job = nightly()
    new_path(commands.data_dir, folder, "manual", clock.now()).touch()
    await job.make_if_due()
    assert len(times(folder)) == 1


async def test_two_databases_can_share_a_backup_folder(
    nightly: Nightly, folder: Path, clock: SteppedClock, tmp_path: Path
) -> None:
    other = Commands(tmp_path / "other")
    other.leads({})
    jobs = [nightly(keep=1), NightlyBackup(other.data_dir, folder, 1, clock)]
    for _ in range(2):
        for job in jobs:
            await job.make_if_due()
        clock.step(24 * HOUR)
    assert len(list_backups(folder)) == 2 and len(list_backups(folder, installation_of(other.data_dir))) == 1


async def test_failure_is_logged_and_retried_an_hour_later(
    nightly: Nightly, folder: Path, clock: SteppedClock, caplog: pytest.LogCaptureFixture
) -> None:
    folder.write_text("not a folder")
    job = nightly()
    for _ in range(2):
        for _ in range(60):
            await job.make_if_due()
            clock.step(60)
    logged = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage() for record in logged] == ["the backup failed"] * 2
    assert all(str(folder) in record.__dict__["reason"] for record in logged)
    folder.unlink()
    await job.make_if_due()
    assert len(times(folder)) == 1


async def test_damaged_database_displaces_no_backup(
    nightly: Nightly, folder: Path, clock: SteppedClock, commands: Commands, caplog: pytest.LogCaptureFixture
) -> None:
    job = nightly(keep=1)
    await job.make_if_due()
    [good] = list_backups(folder)
    (commands.data_dir / "leads.db").write_bytes(b"garbage" * 1_000)
    clock.step(27 * HOUR)
    await job.make_if_due()
    assert "the backup failed" in caplog.text
    assert list_backups(folder) == [good] and verify_backup(good.path).leads == 1


async def test_log_says_why_the_disk_failed(
    nightly: Nightly, folder: Path, commands: Commands, caplog: pytest.LogCaptureFixture
) -> None:
    job = nightly()
    with commands.database(), failing_writes():  # open, as beside a server
        await job.make_if_due()
    [logged] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert logged.getMessage() == "the backup failed"
    assert f"to {folder} failed: disk I/O error" in logged.__dict__["reason"]
    assert list(folder.iterdir()) == []


async def test_running_server_makes_backups(
    start_harness: StartHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.BACKUP_CHECK_MINUTES", 0.001)
    harness = await start_harness()
    await harness.lead()
    backups = harness.data_dir / "backups"
    [made] = await until(lambda: list_backups(backups))
    assert verify_backup(made.path).leads == 1
    assert await harness.lead() == 2
