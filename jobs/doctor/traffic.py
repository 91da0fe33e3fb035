"""Checks of requests: forms from origins that no building has, dry runs, leads that were refused for lack of
space, and proxies that are not declared.
"""

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta

from jobs.doctor.units import duration_text
from models.check_result import (
    DISK_SPACE,
    DRY_RUNS,
    OK,
    UNDECLARED_PROXY,
    UNREGISTERED_ORIGINS,
    WARNING,
    CheckResult,
)
from models.clock import utc_text
from models.daily_count import DRY_RUNS as DRY_RUN_COUNT
from models.daily_count import REFUSED_FOR_SPACE, day_of
from models.daily_count import UNDECLARED_PROXY as UNDECLARED_PROXY_COUNT
from models.setting_values import Network
from models.storage.inspected import InspectedDatabase
from models.unregistered_origins import OriginCount, merge_days

RECENT = timedelta(days=7)
NAMED = 3  # so many origins are named; the command lists all
FIRST_SCHEMA = 6  # with unregistered origins, several websites of a building, and daily counts

_COUNTS = """
SELECT substr(lead.created_at, 1, 10) AS day, unregistered_origin AS origin, building_id,
    count(*) AS leads, max(lead.created_at) AS last_at
FROM lead LEFT JOIN building ON building.id = building_id
WHERE unregistered_origin IS NOT NULL AND lead.created_at >= ? AND removed_at IS NULL
GROUP BY 1, 2, 3 ORDER BY 1, 4 DESC, 2
"""
_WEBSITES = """
SELECT building_id, url FROM building_website JOIN building ON building.id = building_id
WHERE removed_at IS NULL
"""


def check_origins(database: InspectedDatabase, now: datetime) -> CheckResult:
    """Check for forms that were sent lately from origins that no building has."""
    if not database.has_schema(FIRST_SCHEMA):
        return CheckResult(UNREGISTERED_ORIGINS, OK, "there are no leads yet that name one")
    websites: dict[int, list[str]] = {}
    for row in database.rows(_WEBSITES):
        websites.setdefault(row["building_id"], []).append(row["url"])
    counts = (OriginCount(**row) for row in database.rows(_COUNTS, utc_text(now - RECENT)))
    found = [each for each in merge_days(counts, websites) if each["can_be_registered"]]
    names = list(dict.fromkeys(each["origin"] for each in found))
    recently = f"in the last {duration_text(RECENT)}"
    if not names:
        return CheckResult(UNREGISTERED_ORIGINS, OK, f"no form came from an unregistered one {recently}")
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return CheckResult(
        UNREGISTERED_ORIGINS,
        WARNING,
        f"{recently} forms came from {', '.join(names[:NAMED])}{more}, which no building has",
        "see 'building origins', and register those that are yours: scripts on them can't send leads",
    )


def check_dry_runs(database: InspectedDatabase, now: datetime) -> CheckResult:
    """Check for dry runs today and yesterday: a website in use that sends them stores no lead."""
    count = _since_yesterday(database, now).get(DRY_RUN_COUNT)
    if not count:
        return CheckResult(DRY_RUNS, OK, "none since yesterday")
    found = f"{count} since yesterday: requests that were checked and not stored"
    fix = "if a website in use sends them, remove its header 'Prefer: dry-run'"
    return CheckResult(DRY_RUNS, WARNING, found, fix)


def check_refused_for_space(database: InspectedDatabase, now: datetime) -> CheckResult | None:
    """Return how many leads were refused since yesterday for lack of disk space; None if none was."""
    count = _since_yesterday(database, now).get(REFUSED_FOR_SPACE)
    if not count:
        return None
    found = f"{count} leads refused since yesterday: it was nearly full, and their addresses had sent much"
    fix = "make room; if an address is that of a website's server, add it to LEADS_RATE_LIMIT_EXCEPTIONS"
    return CheckResult(DISK_SPACE, WARNING, found, fix)


def check_undeclared_proxies(
    database: InspectedDatabase, trusted: Sequence[Network], now: datetime
) -> CheckResult:
    """Check for local peers that forwarded requests today or yesterday, and are no trusted proxies now."""
    addresses = [
        address
        for name in _since_yesterday(database, now)
        if name.startswith(UNDECLARED_PROXY_COUNT)
        and not _is_in(address := name.removeprefix(UNDECLARED_PROXY_COUNT), trusted)
    ]
    if not addresses:
        return CheckResult(UNDECLARED_PROXY, OK, "no request came through an undeclared one since yesterday")
    more = f" and {len(addresses) - NAMED} more" if len(addresses) > NAMED else ""
    return CheckResult(
        UNDECLARED_PROXY,
        WARNING,
        f"requests came through {', '.join(addresses[:NAMED])}{more}, undeclared: "
        "all of its clients share one rate limit, and consent is recorded with its address",
        "if that is your proxy, set LEADS_TRUSTED_PROXIES="
        f"{','.join([*map(str, trusted), *addresses[:NAMED]])} and start the server again; if the server "
        "has it, give doctor the same settings",
    )


def _is_in(address: str, networks: Sequence[Network]) -> bool:
    return any(ipaddress.ip_address(address) in network for network in networks)


def _since_yesterday(database: InspectedDatabase, now: datetime) -> dict[str, int]:
    """Return the counts of today and yesterday, by name."""
    if not database.has_schema(FIRST_SCHEMA):
        return {}
    counts = "SELECT name, sum(count) AS events FROM daily_count WHERE day >= ? GROUP BY name ORDER BY name"
    rows = database.rows(counts, day_of(now - timedelta(days=1)))
    return {row["name"]: int(row["events"]) for row in rows}
