"""Origins that forms were sent from although no building has them, for the operator to register."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import TypedDict
from urllib.parse import urlsplit

from peewee import JOIN, SQL, fn

from models.building import Building, list_websites, origins_of
from models.lead import Lead
from models.origin import is_origin

ORIGINS_A_DAY = 100  # a program can send any number of them


@dataclass(frozen=True, slots=True)
class OriginCount:
    """The leads of one day (UTC) from one origin, for one building or for none. last_at: as UTC text."""

    day: str
    origin: str
    building_id: int | None
    leads: int
    last_at: str


class UnregisteredOrigin(TypedDict):
    """An origin that no building has, as JSON, with the building that its leads were for.

    can_be_registered: False for `null`, of a page that hides its origin, and for what is no web origin.
    within_domain: its host is that of one of the building's websites, or below or above one.
    """

    origin: str
    building_id: int | None
    leads: int
    last_at: str
    can_be_registered: bool
    within_domain: bool


def list_unregistered_origins(since: datetime) -> list[UnregisteredOrigin]:
    """Return the origins of forms since then that no building has now, those with the most leads first.

    Of each day at most ORIGINS_A_DAY count. Leads of removed buildings don't.
    """
    # Both stay text, as they are stored.
    # In the text, as PostgreSQL takes the parameters for numbers of another type than its function has.
    day = fn.substr(Lead.created_at, SQL("1"), SQL("10")).coerce(False)
    last_at = fn.max(Lead.created_at).coerce(False)
    count = fn.count(Lead.id)
    rows = (
        Lead.select(day, Lead.unregistered_origin, Lead.building, count, last_at)
        .join(Building, JOIN.LEFT_OUTER)
        .where(
            Lead.unregistered_origin.is_null(False), Lead.created_at >= since, Building.removed_at.is_null()
        )
        .group_by(day, Lead.unregistered_origin, Lead.building)
        .order_by(day, count.desc(), Lead.unregistered_origin)
    )
    return merge_days((OriginCount(*row) for row in rows.tuples().iterator()), list_websites())


def merge_days(
    counts: Iterable[OriginCount], websites: Mapping[int, Sequence[str]]
) -> list[UnregisteredOrigin]:
    """Return the unregistered origins among these counts. counts: by day, those with the most leads first.

    websites: the URLs of the registered buildings, by the building's id.
    """
    origins = {building_id: origins_of(urls) for building_id, urls in websites.items()}
    registered = {origin for of_building in origins.values() for origin in of_building}
    leads: Counter[tuple[str, int | None]] = Counter()
    last_at: dict[tuple[str, int | None], str] = {}
    for count in _at_most_a_day(each for each in counts if each.origin not in registered):
        key = (count.origin, count.building_id)
        leads[key] += count.leads
        last_at[key] = count.last_at
    return [
        {
            "origin": origin,
            "building_id": building_id,
            "leads": number,
            "last_at": last_at[origin, building_id],
            "can_be_registered": is_origin(origin),
            "within_domain": building_id is not None
            and is_within_domain(origin, origins.get(building_id, ())),
        }
        for (origin, building_id), number in leads.most_common()
    ]


def is_within_domain(origin: str, known: Iterable[str]) -> bool:
    """Return True if the origin's host is that of a known origin, a name below it, or its apex."""
    host = _host(origin)
    return is_origin(origin) and any(_are_related(host, _host(other)) for other in known)


def _at_most_a_day(counts: Iterable[OriginCount]) -> Iterator[OriginCount]:
    for _, of_day in groupby(counts, lambda count: count.day):
        named: set[str] = set()
        for count in of_day:
            if count.origin in named or len(named) < ORIGINS_A_DAY:
                named.add(count.origin)
                yield count


def _are_related(host: str, other: str) -> bool:
    # No other name above it: maple.webflow.io is below a domain that many share. A single label, such as a
    # top-level domain, is nobody's.
    return host == other or other == f"www.{host}" or (host.endswith(f".{other}") and "." in other)


def _host(origin: str) -> str:
    return urlsplit(origin).hostname or ""
