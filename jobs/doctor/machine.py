"""Checks of this machine: the database in its data folder, its clock, the room on its disks, its backups."""

import os
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from jobs.doctor.content import CHECKS, check_content, without_content
from jobs.doctor.database import check_database, check_schema, in_use_since, newest_lead_at
from jobs.doctor.traffic import check_refused_for_space
from jobs.doctor.units import duration_text, size_text
from models.check_result import (
    CLOCK,
    DATABASE,
    DISK_SPACE,
    LAST_BACKUP,
    OK,
    PROBLEM,
    SCHEMA,
    WARNING,
    CheckResult,
    reporting_failure,
)
from models.clock import Clock
from models.disk_space import BUDGET_BYTES, MAX_RESERVE_BYTES, measure_disk
from models.settings import Settings
from models.storage import DatabaseUnusable
from models.storage.sqlite.backup import Progress, verify_backup
from models.storage.sqlite.backup_files import checksum_file, installation_in, list_backups
from models.storage.sqlite.connection import FILE_NAME, size_with_wal
from models.storage.sqlite.inspect import ask_at_rest_or_in_use

MIN_FREE_BYTES = 100 * 2**20
MIN_FREE_FILES = 1_000
COPIES = 2  # of the database that need room beside it: a backup, an erasure and a restore make one each
BACKUP_TOO_OLD = timedelta(hours=48)  # two nightly backups failed
CLOCK_TOLERANCE = timedelta(seconds=60)
SET_THE_CLOCK = "have it kept right by NTP, such as with 'timedatectl set-ntp true'"


def check_machine(settings: Settings, clock: Clock, progress: Progress) -> list[CheckResult]:
    """Run the checks of this machine, beside a running server or without one. Changes and raises nothing."""
    path = settings.data_dir.absolute() / FILE_NAME
    progress("reading the database")
    results: list[CheckResult] = []
    with reporting_failure(DATABASE, results):
        results.append(check_database(path))
    has_problem = results[0].state == PROBLEM
    readable = not has_problem and path.exists()
    if readable:
        results += _check_inside(path, settings, clock)
    else:
        results += without_content(SCHEMA, *CHECKS, has_problem=has_problem)
        results.append(check_clock(None, clock.now()))
    with reporting_failure(DISK_SPACE, results):
        results += _check_disks(settings)
    progress("reading the newest backup")
    with reporting_failure(LAST_BACKUP, results):
        results.append(_check_last_backup(settings, path if readable else None, clock.now()))
    return results


def _check_inside(path: Path, settings: Settings, clock: Clock) -> list[CheckResult]:
    results: list[CheckResult] = []
    with reporting_failure(SCHEMA, results):
        results.append(ask_at_rest_or_in_use(path, check_schema))
    with reporting_failure(CLOCK, results):
        # The lead first, then the time: a new lead may be stored at any moment.
        newest = ask_at_rest_or_in_use(path, newest_lead_at)
        results.append(check_clock(newest, clock.now()))
    now = clock.now()
    results += check_content(partial(ask_at_rest_or_in_use, path), settings, now)
    with reporting_failure(DISK_SPACE, results):
        refused = ask_at_rest_or_in_use(path, lambda database: check_refused_for_space(database, now))
        if refused is not None:
            results.append(refused)
    return results


def check_clock(newest_lead: datetime | None, now: datetime) -> CheckResult:
    """Check that the clock is not behind the time at which the newest lead was stored, if there is one."""
    reads = f"it reads {now:%Y-%m-%d %H:%M:%S}Z"
    if newest_lead is None or newest_lead <= now:
        return CheckResult(CLOCK, OK, reads)
    behind = newest_lead - now
    return CheckResult(
        CLOCK,
        WARNING if behind <= CLOCK_TOLERANCE else PROBLEM,
        f"{reads}, {duration_text(behind)} before the newest lead came: it was set back, or was ahead then",
        f"compare it with another; {SET_THE_CLOCK}; if it is right now, the next lead clears this",
    )


def _check_disks(settings: Settings) -> list[CheckResult]:
    size = size_with_wal(settings.data_dir / FILE_NAME)
    data, backups = _existing(settings.data_dir), _existing(settings.backup_dir)
    space = measure_disk(data)
    is_one = data.stat().st_dev == backups.stat().st_dev
    place = f"{'the data and backups' if is_one else 'the data'}, in {data}"
    results = [check_space(place, space.free_bytes, size, _free_files(data), space.reserve_bytes)]
    if not is_one:
        free = measure_disk(backups).free_bytes
        results.append(check_space(f"backups, in {backups}", free, size, _free_files(backups)))
    return results


def _free_files(folder: Path) -> int | None:
    """Return how many more files its file system can hold; None if it sets no limit."""
    status = os.statvfs(folder)
    return status.f_favail if status.f_files else None


def check_space(
    place: str, free: int, database_size: int, free_files: int | None = None, reserve: int = 0
) -> CheckResult:
    """Check a disk's free bytes, and how many more files it can hold, beside a database of this size.

    place: what the disk is for, as text. free_files: None if there is no limit. reserve: bytes that the
    server keeps for addresses that have stored little.
    """
    if free_files is not None and free_files < MIN_FREE_FILES:
        found = f"room for only {free_files} more files for {place}, whatever their size"
        return CheckResult(
            DISK_SPACE, PROBLEM, found, "remove files there that are not needed, even small ones"
        )
    # Never below a reserve, so the warning comes before the server refuses a lead.
    enough = max(MAX_RESERVE_BYTES, COPIES * database_size)
    found = f"{size_text(free)} free for {place}"
    if free < enough and reserve:
        when = "now" if free < reserve else f"below {size_text(reserve)}"
        found += f"; {when} the server refuses leads of addresses with over {size_text(BUDGET_BYTES)} today"
    if free < MIN_FREE_BYTES:
        fix = "make room now: on a full disk no lead is stored; 'backup list' shows what could go elsewhere"
        return CheckResult(DISK_SPACE, PROBLEM, found, fix)
    if free < enough:
        fix = f"make room, to {size_text(enough)}: a backup or an erasure takes as much as the database"
        return CheckResult(DISK_SPACE, WARNING, found, fix)
    return CheckResult(DISK_SPACE, OK, found)


def _check_last_backup(settings: Settings, database: Path | None, now: datetime) -> CheckResult:
    """database: None if it can't be read."""
    folder = settings.backup_dir.absolute()
    installation = ask_at_rest_or_in_use(database, installation_in) if database else None
    since = ask_at_rest_or_in_use(database, in_use_since) if database else None
    # A backup from the future was made while the clock was wrong, so it does not count.
    newest = next((b for b in list_backups(folder, installation) if b.made_at <= now), None)
    if newest is None and not (settings.data_dir / FILE_NAME).exists():
        return CheckResult(LAST_BACKUP, OK, "there is nothing to back up yet")
    found = f"there is none in {folder}"
    if newest is None and settings.backup_keep and since is not None and now - since <= BACKUP_TOO_OLD:
        fix = "run 'backup create', or check again tomorrow: the server makes one each night"
        return CheckResult(LAST_BACKUP, WARNING, f"{found} yet", fix)
    if newest is not None:
        found = f"{duration_text(now - newest.made_at)} ago, {newest.path}"
        if folder.stat().st_dev == _existing(settings.data_dir).stat().st_dev:
            found += ", on the same disk as the data"
    if newest is None or now - newest.made_at > BACKUP_TOO_OLD:
        if settings.backup_keep:
            fix = "run 'backup create'; the server makes one each night, and its log says why it could not"
            return CheckResult(LAST_BACKUP, PROBLEM, found, fix)
        fix = "run 'backup create', or set LEADS_BACKUP_KEEP to have one each night"
        return CheckResult(LAST_BACKUP, WARNING, f"{found}; none is made at night", fix)
    try:
        verify_backup(newest.path)
    except DatabaseUnusable as error:
        fix = "run 'backup create' for another, and look for errors of that disk in the system's log"
        return CheckResult(
            LAST_BACKUP, PROBLEM, f"{duration_text(now - newest.made_at)} ago, but {error}", fix
        )
    if not newest.complete:
        found += f"; {checksum_file(newest.path).name} is missing, so damage to the file would not be noticed"
        return CheckResult(LAST_BACKUP, WARNING, found, "run 'backup create' for another")
    return CheckResult(LAST_BACKUP, OK, found)


def _existing(folder: Path) -> Path:
    """Return the folder, or its nearest parent that exists."""
    folder = folder.absolute()
    return next(each for each in (folder, *folder.parents) if each.exists())
