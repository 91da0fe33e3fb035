"""Which building a lead is for: by its token, its unified address id, or its street address (C17)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from peewee import TextField

from models.building import Building, BuildingToken, live_token
from models.storage.cached_query import CachedQuery, Rows


class BuildingKeys(NamedTuple):
    """The keys that a lead names its building by; each is None if it was blank."""

    token: str | None
    unified_address_id: str | None
    address_line_one: str | None


@dataclass(slots=True, eq=False)
class BuildingRef:
    """The part of a building that intake needs."""

    id: int
    time_zone: str
    agent_email: str | None
    spam_defence: str


def match_buildings(keys: Iterable[BuildingKeys], now: datetime) -> dict[BuildingKeys, BuildingRef]:
    """Return the building of each set of keys that matches one (C17).

    The look-up is by token; only without a token, by unified address id; only without both, by street
    address. If several buildings match, the one that was registered first is returned. An unknown, expired
    or revoked token matches nothing.
    """
    unmatched = set(keys)
    found: dict[BuildingKeys, BuildingRef] = {}
    for name, look_up in _LOOK_UPS.items():
        sent = {key: getattr(key, name) for key in unmatched if getattr(key, name)}
        if sent:
            matches = {value: BuildingRef(*rest) for value, *rest in look_up(set(sent.values()), now)}
            found |= {key: matches[value] for key, value in sent.items() if value in matches}
            unmatched -= sent.keys()
    return found


_REF_FIELDS = (Building.id, Building.time_zone, Building.agent_email, Building.spam_defence)
_BY_TOKEN = CachedQuery(
    lambda tokens, now: (
        BuildingToken.select(BuildingToken.token, *_REF_FIELDS)
        .join(Building)
        .where(BuildingToken.token.in_(tokens), live_token(now), Building.removed_at.is_null())
    )
)


def _by(column: TextField) -> Callable[[set[str], datetime], Rows]:
    # The building that was registered first comes last, so that a dict of the rows keeps it.
    query = CachedQuery(
        lambda values: (
            Building.select(column, *_REF_FIELDS)
            .where(column.in_(values), Building.removed_at.is_null())
            .order_by(Building.id.desc())
        )
    )
    return lambda values, now: query.run(values)


# By each key, in order of precedence.
_LOOK_UPS = {
    "token": _BY_TOKEN.run,
    "unified_address_id": _by(Building.unified_address_id),
    "address_line_one": _by(Building.address_line_one),
}
