"""Owns the look at this machine: the database, the room on its disks, its clock, its backups."""

import os
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from jobs.doctor.database import (
    check_database,
    check_outbox,
    check_schema,
    check_unnotified,
    in_use_since,
    newest_lead_at,
)
from models.check_result import (
    CLOCK,
    DATABASE,
    DISK_SPACE,
    LAST_BACKUP,
    OK,
    OUTBOX,
    PROBLEM,
    SCHEMA,
    UNNOTIFIED,
    WARNING,
    CheckResult,
    check_failed,
    in_bytes,
    span,
)
from models.clock import Clock
from models.outbox.destination import EMAIL, JUNE_HOMES
from models.settings import Settings
from models.storage import DatabaseUnusable
from models.storage.sqlite.backup import Progress, verify_backup
from models.storage.sqlite.backup_files import checksum_file, installation_in, list_backups
from models.storage.sqlite.connection import FILE_NAME, size_with_wal
from models.storage.sqlite.inspect import ask_at_rest_or_in_use

TOO_LITTLE_SPACE = 100 * 2**20  # bytes
TOO_FEW_FILES = 1_000  # that there is still room for, whatever their size
LITTLE_SPACE = 2**30
COPIES = 2  # of the database that are to fit beside it: a backup, an erasure and a restore make one each
BACKUP_TOO_OLD = timedelta(hours=48)  # last night's failed, and the one before
SLIGHTLY_OFF = timedelta(seconds=60)
SET_THE_CLOCK = "have it kept right by NTP, such as with 'timedatectl set-ntp true'"


def check_machine(settings: Settings, clock: Clock, progress: Progress) -> list[CheckResult]:
    """What there is to say of this machine; beside a running server, or without one.

    It changes nothing and raises nothing: what can't be looked at is a finding too.
    """
    path = settings.data_dir.absolute() / FILE_NAME
    progress("reading the database")
    findings = _examined(DATABASE, lambda: [check_database(path)])
    if findings[0].state == PROBLEM:
        unknown = "not known, as the database has a problem"
        findings += [
            CheckResult(check, WARNING, unknown, "see 'database'") for check in (SCHEMA, OUTBOX, UNNOTIFIED)
        ]
        findings.append(check_clock(None, clock.now()))
    elif not path.exists():
        findings += [CheckResult(check, OK, "there is none yet") for check in (SCHEMA, OUTBOX, UNNOTIFIED)]
        findings.append(check_clock(None, clock.now()))
    else:
        findings += _examined(SCHEMA, lambda: [ask_at_rest_or_in_use(path, check_schema)])
        # The time is asked for after the lead: one may come at any moment.
        findings += _examined(
            CLOCK, lambda: [check_clock(ask_at_rest_or_in_use(path, newest_lead_at), clock.now())]
        )
        kinds = [
            kind
            for kind, place in ((EMAIL, settings.smtp_url), (JUNE_HOMES, settings.june_homes_url))
            if place
        ]
        now = clock.now()
        findings += _examined(
            OUTBOX, lambda: ask_at_rest_or_in_use(path, lambda opened: check_outbox(opened, kinds, now))
        )
        findings += _examined(
            UNNOTIFIED, lambda: ask_at_rest_or_in_use(path, lambda opened: check_unnotified(opened, now))
        )
    findings += _examined(DISK_SPACE, lambda: _disk_spaces(settings))
    progress("reading the newest backup")
    readable = findings[0].state != PROBLEM and path.exists()
    findings += _examined(
        LAST_BACKUP, lambda: [_last_backup(settings, path if readable else None, clock.now())]
    )
    return findings


def _examined(check: str, look: Callable[[], list[CheckResult]]) -> list[CheckResult]:
    try:
        return look()
    except Exception as error:
        return [check_failed(check, error)]


def check_clock(newest_lead: datetime | None, now: datetime) -> CheckResult:
    """Whether the clock goes on from where it was when the newest lead came."""
    reads = f"it reads {now:%Y-%m-%d %H:%M:%S}Z"
    if newest_lead is None or newest_lead <= now:
        return CheckResult(CLOCK, OK, reads)
    behind = newest_lead - now
    return CheckResult(
        CLOCK,
        WARNING if behind <= SLIGHTLY_OFF else PROBLEM,
        f"{reads}, {span(behind)} before the newest lead came: it was set back, or was ahead then",
        f"compare it with another; {SET_THE_CLOCK}; if it is right now, the next lead mends this",
    )


def _disk_spaces(settings: Settings) -> list[CheckResult]:
    size = size_with_wal(settings.data_dir / FILE_NAME)
    places = {"the data": _existing(settings.data_dir), "backups": _existing(settings.backup_dir)}
    if len({folder.stat().st_dev for folder in places.values()}) == 1:
        places = {"the data and backups": places["the data"]}
    return [
        check_space(f"{what}, in {folder}", shutil.disk_usage(folder).free, size, _free_files(folder))
        for what, folder in places.items()
    ]


def _free_files(folder: Path) -> int | None:
    """How many more files its file system has room for; None if it sets no limit."""
    found = os.statvfs(folder)
    return found.f_favail if found.f_files else None


def check_space(place: str, free: int, database_size: int, free_files: int | None = None) -> CheckResult:
    """What so many free bytes, and room for so many files, for this place mean, with a database of this
    size; free_files: None if there is no limit.
    """
    if free_files is not None and free_files < TOO_FEW_FILES:
        found = f"room for only {free_files} more files for {place}, whatever their size"
        return CheckResult(
            DISK_SPACE, PROBLEM, found, "remove files there that nobody needs: small ones, many"
        )
    enough = max(LITTLE_SPACE, COPIES * database_size)
    found = f"{in_bytes(free)} free for {place}"
    if free < TOO_LITTLE_SPACE:
        fix = "make room now: on a full disk no lead is stored; 'backup list' shows what could go elsewhere"
        return CheckResult(DISK_SPACE, PROBLEM, found, fix)
    if free < enough:
        fix = f"make room, to {in_bytes(enough)}: a backup or an erasure takes as much as the database"
        return CheckResult(DISK_SPACE, WARNING, found, fix)
    return CheckResult(DISK_SPACE, OK, found)


def _last_backup(settings: Settings, readable: Path | None, now: datetime) -> CheckResult:
    """readable: the database, if it can be asked."""
    folder = settings.backup_dir.absolute()
    installation = ask_at_rest_or_in_use(readable, installation_in) if readable else None
    since = ask_at_rest_or_in_use(readable, in_use_since) if readable else None
    # One from the future was made while the clock was wrong, and says nothing.
    newest = next((b for b in list_backups(folder, installation) if b.made_at <= now), None)
    if newest is None and not (settings.data_dir / FILE_NAME).exists():
        return CheckResult(LAST_BACKUP, OK, "there is nothing to back up yet")
    found = f"there is none in {folder}"
    if newest is None and settings.backup_keep and since is not None and now - since <= BACKUP_TOO_OLD:
        fix = "run 'backup create', or see again tomorrow: the server makes one each night"
        return CheckResult(LAST_BACKUP, WARNING, f"{found} yet", fix)
    if newest is not None:
        found = f"{span(now - newest.made_at)} ago, {newest.path}"
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
        fix = "run 'backup create' for another, and see what the system's log says of that disk"
        return CheckResult(LAST_BACKUP, PROBLEM, f"{span(now - newest.made_at)} ago, but {error}", fix)
    if not newest.complete:
        found += f"; {checksum_file(newest.path).name} is missing, so a changed letter would not be seen"
        return CheckResult(LAST_BACKUP, WARNING, found, "run 'backup create' for another")
    return CheckResult(LAST_BACKUP, OK, found)


def _existing(folder: Path) -> Path:
    """The folder, or as much of its path as is there."""
    folder = folder.absolute()
    return next(each for each in (folder, *folder.parents) if each.exists())
