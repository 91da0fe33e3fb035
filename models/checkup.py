"""Owns the look at this machine: the database, the room on its disks, its clock, its backups."""

import os
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from models.backup import Progress, checksum_file, installation_in, list_backups, verify_backup
from models.clock import Clock
from models.database import FILE_NAME, DatabaseRefused, size_with_journal
from models.database_checkup import (
    ask,
    check_database,
    check_outbox,
    check_schema,
    check_untold,
    in_use_since,
    newest_lead_at,
)
from models.destination import EMAIL, JUNE_HOMES
from models.finding import (
    CLOCK,
    DATABASE,
    DISK_SPACE,
    LAST_BACKUP,
    OK,
    OUTBOX,
    PROBLEM,
    SCHEMA,
    UNTOLD,
    WARNING,
    Finding,
    in_bytes,
    span,
    stumbled,
)
from models.settings import Settings

TOO_LITTLE_SPACE = 100 * 2**20  # bytes
TOO_FEW_FILES = 1_000  # that there is still room for, whatever their size
LITTLE_SPACE = 2**30
COPIES = 2  # of the database that are to fit beside it: a backup, an erasure and a restore make one each
BACKUP_TOO_OLD = timedelta(hours=48)  # last night's failed, and the one before
SLIGHTLY_OFF = timedelta(seconds=60)
SET_THE_CLOCK = "have it kept right by NTP, such as with 'timedatectl set-ntp true'"


def check_machine(settings: Settings, clock: Clock, progress: Progress) -> list[Finding]:
    """What there is to say of this machine; beside a running server, or without one.

    It changes nothing and raises nothing: what can't be looked at is a finding too.
    """
    path = settings.data_dir.absolute() / FILE_NAME
    progress("reading the database")
    findings = _examined(DATABASE, lambda: [check_database(path)])
    if findings[0].state == PROBLEM:
        unknown = "not known, as the database has a problem"
        findings += [Finding(check, WARNING, unknown, "see 'database'") for check in (SCHEMA, OUTBOX, UNTOLD)]
        findings.append(check_clock(None, clock.now()))
    elif not path.exists():
        findings += [Finding(check, OK, "there is none yet") for check in (SCHEMA, OUTBOX, UNTOLD)]
        findings.append(check_clock(None, clock.now()))
    else:
        findings += _examined(SCHEMA, lambda: [ask(path, check_schema)])
        # The time is asked for after the lead: one may come at any moment.
        findings += _examined(CLOCK, lambda: [check_clock(ask(path, newest_lead_at), clock.now())])
        kinds = [
            kind
            for kind, place in ((EMAIL, settings.smtp_url), (JUNE_HOMES, settings.june_homes_url))
            if place
        ]
        now = clock.now()
        findings += _examined(OUTBOX, lambda: ask(path, lambda opened: check_outbox(opened, kinds, now)))
        findings += _examined(UNTOLD, lambda: ask(path, lambda opened: check_untold(opened, now)))
    findings += _examined(DISK_SPACE, lambda: _disk_spaces(settings))
    progress("reading the newest backup")
    readable = findings[0].state != PROBLEM and path.exists()
    findings += _examined(
        LAST_BACKUP, lambda: [_last_backup(settings, path if readable else None, clock.now())]
    )
    return findings


def _examined(check: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return look()
    except Exception as error:
        return [stumbled(check, error)]


def check_clock(newest_lead: datetime | None, now: datetime) -> Finding:
    """Whether the clock goes on from where it was when the newest lead came."""
    reads = f"it reads {now:%Y-%m-%d %H:%M:%S}Z"
    if newest_lead is None or newest_lead <= now:
        return Finding(CLOCK, OK, reads)
    behind = newest_lead - now
    return Finding(
        CLOCK,
        WARNING if behind <= SLIGHTLY_OFF else PROBLEM,
        f"{reads}, {span(behind)} before the newest lead came: it was set back, or was ahead then",
        f"compare it with another; {SET_THE_CLOCK}; if it is right now, the next lead mends this",
    )


def _disk_spaces(settings: Settings) -> list[Finding]:
    size = size_with_journal(settings.data_dir / FILE_NAME)
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


def check_space(place: str, free: int, database_size: int, free_files: int | None = None) -> Finding:
    """What so many free bytes, and room for so many files, for this place mean, with a database of this
    size; free_files: None if there is no limit.
    """
    if free_files is not None and free_files < TOO_FEW_FILES:
        found = f"room for only {free_files} more files for {place}, whatever their size"
        return Finding(DISK_SPACE, PROBLEM, found, "remove files there that nobody needs: small ones, many")
    enough = max(LITTLE_SPACE, COPIES * database_size)
    found = f"{in_bytes(free)} free for {place}"
    if free < TOO_LITTLE_SPACE:
        remedy = (
            "make room now: on a full disk no lead is stored; 'backup list' shows what could go elsewhere"
        )
        return Finding(DISK_SPACE, PROBLEM, found, remedy)
    if free < enough:
        remedy = f"make room, to {in_bytes(enough)}: a backup or an erasure takes as much as the database"
        return Finding(DISK_SPACE, WARNING, found, remedy)
    return Finding(DISK_SPACE, OK, found)


def _last_backup(settings: Settings, readable: Path | None, now: datetime) -> Finding:
    """readable: the database, if it can be asked."""
    folder = settings.backup_dir.absolute()
    installation = ask(readable, installation_in) if readable else None
    since = ask(readable, in_use_since) if readable else None
    # One from the future was made while the clock was wrong, and says nothing.
    newest = next((b for b in list_backups(folder, installation) if b.made_at <= now), None)
    if newest is None and not (settings.data_dir / FILE_NAME).exists():
        return Finding(LAST_BACKUP, OK, "there is nothing to back up yet")
    found = f"there is none in {folder}"
    if newest is None and settings.backup_keep and since is not None and now - since <= BACKUP_TOO_OLD:
        remedy = "run 'backup create', or see again tomorrow: the server makes one each night"
        return Finding(LAST_BACKUP, WARNING, f"{found} yet", remedy)
    if newest is not None:
        found = f"{span(now - newest.made_at)} ago, {newest.path}"
        if folder.stat().st_dev == _existing(settings.data_dir).stat().st_dev:
            found += ", on the same disk as the data"
    if newest is None or now - newest.made_at > BACKUP_TOO_OLD:
        if settings.backup_keep:
            remedy = "run 'backup create'; the server makes one each night, and its log says why it could not"
            return Finding(LAST_BACKUP, PROBLEM, found, remedy)
        remedy = "run 'backup create', or set LEADS_BACKUP_KEEP to have one each night"
        return Finding(LAST_BACKUP, WARNING, f"{found}; none is made at night", remedy)
    try:
        verify_backup(newest.path)
    except DatabaseRefused as error:
        remedy = "run 'backup create' for another, and see what the system's log says of that disk"
        return Finding(LAST_BACKUP, PROBLEM, f"{span(now - newest.made_at)} ago, but {error}", remedy)
    if not newest.complete:
        found += f"; {checksum_file(newest.path).name} is missing, so a changed letter would not be seen"
        return Finding(LAST_BACKUP, WARNING, found, "run 'backup create' for another")
    return Finding(LAST_BACKUP, OK, found)


def _existing(folder: Path) -> Path:
    """The folder, or as much of its path as is there."""
    folder = folder.absolute()
    return next(each for each in (folder, *folder.parents) if each.exists())
