"""Checks of PostgreSQL's promise that what was committed stays: its settings, and its standbys."""

import re
from datetime import timedelta

from jobs.doctor.units import duration_text, size_text
from models.check_result import DURABILITY, OK, PROBLEM, REPLICATION, WARNING, CheckResult
from models.storage.inspected import InspectedDatabase

MOST_LAG, MOST_LAG_BYTES = timedelta(minutes=1), 64 * 2**20
MOST_KEPT_BYTES = 2**30  # by a replication slot that nothing uses

_SETTINGS = """
SELECT current_setting('fsync') AS fsync, current_setting('full_page_writes') AS full_page_writes,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('synchronous_standby_names') AS standbys
"""
_STANDBYS = """
SELECT coalesce(application_name, '') AS name, state, sync_state,
    pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::float8 AS behind_bytes,
    extract(epoch FROM replay_lag)::float8 AS behind_seconds
FROM pg_stat_replication ORDER BY 1
"""
_UNUSED_SLOTS = """
SELECT slot_name AS name, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::float8 AS kept
FROM pg_replication_slots WHERE NOT active AND restart_lsn IS NOT NULL ORDER BY 1
"""
_REQUIRED = re.compile(r"\s*(?:(?:FIRST|ANY)\s+)?(\d+)\s*\(", re.IGNORECASE)


def check_durability(database: InspectedDatabase) -> list[CheckResult]:
    """Check the settings by which a commit survives a crash, and a failover."""
    settings = next(database.rows(_SETTINGS))
    results = []
    for name in ("fsync", "full_page_writes"):
        if settings[name] != "on":
            found = f"{name} is {settings[name]}: a crash of the database's host can destroy the database"
            results.append(CheckResult(DURABILITY, PROBLEM, found, f"set {name} = on in postgresql.conf"))
    level = settings["synchronous_commit"]
    if level == "off":  # a server refuses it
        found = "synchronous_commit is off: leads that were acknowledged could be lost"
        results.append(CheckResult(DURABILITY, PROBLEM, found, "ALTER ROLE … SET synchronous_commit = on"))
    elif level in ("local", "remote_write") and settings["standbys"]:
        what = "is not waited for" if level == "local" else "may have a commit in its memory only"
        found = f"synchronous_commit is {level}: the standby {what}, so a failover could lose leads"
        results.append(CheckResult(DURABILITY, WARNING, found, "ALTER ROLE … SET synchronous_commit = on"))
    return results or [CheckResult(DURABILITY, OK, f"synchronous_commit is {level}, fsync is on")]


def check_replication(database: InspectedDatabase) -> list[CheckResult]:
    """Check that the standbys are there, are waited for, and keep up."""
    names = str(database.value("SELECT current_setting('synchronous_standby_names')")).strip()
    standbys = list(database.rows(_STANDBYS))
    is_hidden = any(standby["state"] is None for standby in standbys)
    results = [_check_slot(slot) for slot in database.rows(_UNUSED_SLOTS)]
    if names and not is_hidden:
        given = _REQUIRED.match(names)
        required = int(given[1]) if given else 1
        waited_for = [each for each in standbys if each["sync_state"] in ("sync", "quorum")]
        if (there := sum(each["state"] == "streaming" for each in waited_for)) < required:
            found = (
                f"commits wait for {required} of synchronous_standby_names '{names}', and {there} are there"
            )
            fix = "start it, or clear synchronous_standby_names and reload: until then no lead is stored"
            results.append(CheckResult(REPLICATION, PROBLEM, found, fix))
    if is_hidden:
        found = f"{len(standbys)} standbys, whose state and lag this role does not see"
        results.append(
            CheckResult(REPLICATION, WARNING, found, "GRANT pg_monitor TO the role, to have them checked")
        )
    else:
        results += [result for standby in standbys if (result := _check_standby(standby))]
        if standbys and not names:
            found = f"{_names(standbys)} asynchronous: a failover can lose the leads of the last moments"
            fix = "set synchronous_standby_names, if another server is to take over without loss"
            results.append(CheckResult(REPLICATION, WARNING, found, fix))
    if results:
        return [result for result in results if result.state != OK] or results[:1]
    found = f"{_names(standbys)} up to date" if standbys else "there is no standby"
    return [CheckResult(REPLICATION, OK, found)]


def _names(standbys: list[dict[str, object]]) -> str:
    named = ", ".join(f"{each['name']} ({each['sync_state']})" for each in standbys)
    return f"{named} {'is' if len(standbys) == 1 else 'are'}"


def _check_standby(standby: dict[str, object]) -> CheckResult | None:
    name, state = standby["name"], standby["state"]
    fix = "look at its log, its disk and the network to it"
    if state != "streaming":
        return CheckResult(REPLICATION, WARNING, f"{name} does not stream yet: its state is {state}", fix)
    behind, seconds = standby["behind_bytes"] or 0, standby["behind_seconds"] or 0
    assert isinstance(behind, float | int) and isinstance(seconds, float | int)
    lag = timedelta(seconds=seconds)
    if behind <= MOST_LAG_BYTES and lag <= MOST_LAG:
        return None
    found = f"{name} is {size_text(int(behind))} and {duration_text(lag)} behind"
    return CheckResult(REPLICATION, WARNING, found, fix)


def _check_slot(slot: dict[str, object]) -> CheckResult:
    kept = slot["kept"] or 0
    assert isinstance(kept, float | int)
    found = f"nothing uses the slot {slot['name']}, for which {size_text(int(kept))} of WAL are kept"
    fix = f"start its standby, or SELECT pg_drop_replication_slot('{slot['name']}'), before the disk is full"
    return CheckResult(REPLICATION, PROBLEM if kept > MOST_KEPT_BYTES else WARNING, found, fix)
