"""Owns buildings and their tokens: registration, rotation, and which building a lead is for."""

import logging
import secrets
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from peewee import AutoField, ForeignKeyField, TextField

from models.clock import utc_text, utc_text_or_none
from models.email_address import normal_form
from models.errors import ActionError
from models.origin import origin_of
from models.storage.cached_query import CachedQuery, Rows
from models.storage.rows import Row, UtcDateTimeField

log = logging.getLogger("leads.buildings")

# 142 random bits. No punctuation: a token must not begin with -, or a command takes it for an option.
TOKEN_ALPHABET, TOKEN_LENGTH = string.ascii_letters + string.digits, 24


# What becomes of leads that look like spam: nothing is looked for, their mail is held, or it is marked.
OFF, HOLD, MARK = DEFENCES = ("off", "hold", "mark")


class Building(Row):
    """A building whose website sends leads."""

    id = AutoField()
    name = TextField()
    address_line_one = TextField(null=True)
    unified_address_id = TextField(null=True)
    website_url = TextField(null=True)
    agent_email = TextField(null=True)
    time_zone = TextField()
    created_at = UtcDateTimeField()
    spam_defence = TextField(default="off")  # one of DEFENCES
    removed_at = UtcDateTimeField(null=True)  # kept for its leads; matches nothing any more


class BuildingToken(Row):
    """A token that a building's website sends. It stands in the page's source: a name, not a secret."""

    id = AutoField()
    building = ForeignKeyField(Building)
    building_id: int
    token = TextField(unique=True)
    created_at = UtcDateTimeField()
    expires_at = UtcDateTimeField(null=True)  # the end of a rotation's overlap
    revoked_at = UtcDateTimeField(null=True)


class BuildingKeys(NamedTuple):
    """What a lead says of its building; each is None if it was blank."""

    token: str | None
    unified_address_id: str | None
    address_line_one: str | None


@dataclass(slots=True, eq=False)
class BuildingRef:
    """As much of a building as a lead needs to know."""

    id: int
    time_zone: str
    agent_email: str | None
    spam_defence: str


def match_buildings(clues: Iterable[BuildingKeys], now: datetime) -> dict[BuildingKeys, BuildingRef]:
    """The building of each set of clues that has one (C17).

    By token; only without one, by unified address id; only without both, by street address. Of several
    buildings the one registered first. A token that is unknown, expired or revoked does not fall through.
    """
    asked = set(clues)
    found: dict[BuildingKeys, BuildingRef] = {}
    for name, look_up in _LOOK_UPS.items():
        sent = {clue: getattr(clue, name) for clue in asked if getattr(clue, name)}
        if sent:
            matches = {value: BuildingRef(*rest) for value, *rest in look_up(set(sent.values()), now)}
            found |= {clue: matches[value] for clue, value in sent.items() if value in matches}
            asked -= sent.keys()
    return found


def live_token(now: Any) -> Any:
    """The condition that a token works at this instant."""
    return BuildingToken.revoked_at.is_null() & (
        BuildingToken.expires_at.is_null() | (BuildingToken.expires_at > now)
    )


_OF_INTEREST = (Building.id, Building.time_zone, Building.agent_email, Building.spam_defence)
_BY_TOKEN = CachedQuery(
    lambda tokens, now: (
        BuildingToken.select(BuildingToken.token, *_OF_INTEREST)
        .join(Building)
        .where(BuildingToken.token.in_(tokens), live_token(now), Building.removed_at.is_null())
    )
)


def _by(column: TextField) -> Callable[[set[str], datetime], Rows]:
    # Of several the one registered first comes last, and so is what stays in a dict.
    query = CachedQuery(
        lambda values: (
            Building.select(column, *_OF_INTEREST)
            .where(column.in_(values), Building.removed_at.is_null())
            .order_by(Building.id.desc())
        )
    )
    return lambda values, now: query.run(values)


# By each of the clues; where there is an earlier one, the later ones don't count.
_LOOK_UPS = {
    "token": _BY_TOKEN.run,
    "unified_address_id": _by(Building.unified_address_id),
    "address_line_one": _by(Building.address_line_one),
}


def registered_origins() -> frozenset[str]:
    """The web origins of all buildings' websites, as a browser writes them."""
    urls = Building.select(Building.website_url).where(
        Building.removed_at.is_null(), Building.website_url.is_null(False)
    )
    origins = set()
    for url in urls.scalars():
        try:
            origins.add(origin_of(url))
        except ValueError as error:  # from a version that was less strict; it must not cost the others theirs
            log.warning("a website is left out", extra={"reason": str(error)})
    return frozenset(origins)


def add_building(fields: dict[str, str | None], token: str | None, now: datetime) -> tuple[Building, str]:
    """Register a building and issue its first token. Raises ActionError for a bad value or a token in use."""
    building = Building.create(created_at=now, **_checked({"time_zone": "UTC", **fields}))
    return building, issue_token(building, token, now).token


def update_building(building: Building, fields: dict[str, str | None]) -> Building:
    """Change these fields of it; an empty text clears one. Raises ActionError for a bad value."""
    for name, value in _checked(fields).items():
        setattr(building, name, value)
    building.save()
    return building


def remove_building(building: Building, now: datetime) -> None:
    """Take it off the list: its tokens and website work no more; its leads stay."""
    building.removed_at = now
    building.save()


def find_building(building_id: int, even_removed: bool = False) -> Building:
    """The registered building of this id. Raises ActionError if there is none."""
    found = Building.get_or_none(Building.id == building_id)
    if found is None or (found.removed_at is not None and not even_removed):
        raise ActionError(f"there is no building {building_id}; see 'building list'")
    return found


def _checked(fields: dict[str, str | None]) -> dict[str, str | None]:
    values = {name: (value or "").strip() or None for name, value in fields.items()}
    if "name" in values and not values["name"]:
        raise ActionError("a building needs a name")
    for name, value in values.items():
        if value and not value.isprintable():
            raise ActionError(f"the {name.replace('_', ' ')} has line breaks or control characters in it")
    if website := values.get("website_url"):
        try:
            origin_of(website)
        except ValueError as error:
            raise ActionError(str(error)) from None
    if agent := values.get("agent_email"):
        try:
            normal_form(agent)
        except ValueError as error:
            raise ActionError(f"{agent!r} is not an e-mail address: {error}") from None
    if "spam_defence" in values:
        values["spam_defence"] = values["spam_defence"] or OFF
        if values["spam_defence"] not in DEFENCES:
            raise ActionError(f"a spam defence is one of {', '.join(DEFENCES)}")
    if "time_zone" in values:
        values["time_zone"] = zone = values["time_zone"] or "UTC"
        try:
            ZoneInfo(zone)
        except (ValueError, OSError, LookupError):
            raise ActionError(f"{zone!r} is not a time zone; write it like America/New_York") from None
    return values


def issue_token(building: Building, token: str | None, now: datetime) -> BuildingToken:
    """Give the building one more token, this one or a new random one. Raises ActionError if it is taken."""
    token = (token or "").strip() or _random_token()
    if not token.isprintable() or len(token) > 1_000:
        raise ActionError("a token is printable text of at most 1,000 characters")
    taken = BuildingToken.get_or_none(BuildingToken.token == token)
    if taken is not None:
        raise ActionError(f"token {token!r} belongs to building {taken.building_id} already")
    return BuildingToken.create(building=building, token=token, created_at=now)


def _random_token() -> str:
    return "".join(secrets.choice(TOKEN_ALPHABET) for _ in range(TOKEN_LENGTH))


def rotate_token(building: Building, overlap: timedelta, now: datetime) -> BuildingToken:
    """Issue a new token; the ones that work now go on working for the overlap, none for longer."""
    end = now + overlap
    for row in BuildingToken.select().where(BuildingToken.building == building, live_token(now)):
        row.expires_at = min(row.expires_at or end, end)
        row.save(only=[BuildingToken.expires_at])
    return issue_token(building, None, now)


def revoke_token(token: str, now: datetime) -> BuildingToken:
    """End a token at once. Raises ActionError if there is none, or it was revoked before."""
    found = BuildingToken.get_or_none(BuildingToken.token == token)
    if found is None:
        raise ActionError("there is no such token; see 'token list'")
    if found.revoked_at is not None:
        raise ActionError(f"that token was revoked at {utc_text(found.revoked_at)}")
    found.revoked_at = now
    found.save()
    return found


def building_as_dict(building: Building, tokens: Sequence[str] = ()) -> dict[str, Any]:
    """A building as listings show it, with the tokens that work now."""
    return {
        "id": building.id,
        "name": building.name,
        "address_line_one": building.address_line_one,
        "unified_address_id": building.unified_address_id,
        "website_url": building.website_url,
        "agent_email": building.agent_email,
        "time_zone": building.time_zone,
        "spam_defence": building.spam_defence,
        "created_at": utc_text(building.created_at),
        "tokens": list(tokens),
    }


def list_buildings(now: datetime) -> list[dict[str, Any]]:
    """All registered buildings, with their working tokens."""
    tokens: dict[int, list[str]] = {}
    for row in BuildingToken.select().where(live_token(now)).order_by(BuildingToken.id):
        tokens.setdefault(row.building_id, []).append(row.token)
    rows = Building.select().where(Building.removed_at.is_null()).order_by(Building.id)
    return [building_as_dict(row, tokens.get(row.id, ())) for row in rows]


def working_tokens(building: Building, now: datetime) -> list[str]:
    """The building's tokens that work now, the oldest first."""
    rows = BuildingToken.select(BuildingToken.token).where(
        BuildingToken.building == building, live_token(now)
    )
    return list(rows.order_by(BuildingToken.id).scalars())


def list_tokens(building: Building | None, now: datetime) -> list[dict[str, Any]]:
    """The tokens of this building, or of all registered ones, as listings show them."""
    rows = BuildingToken.select().join(Building).where(Building.removed_at.is_null())
    if building is not None:
        rows = rows.where(BuildingToken.building == building)
    return [token_as_dict(row, now) for row in rows.order_by(Building.id, BuildingToken.id)]


def token_as_dict(token: BuildingToken, now: datetime) -> dict[str, Any]:
    """A token as listings show it: state is working, expired or revoked."""
    if token.revoked_at is not None:
        state = "revoked"
    elif token.expires_at is not None and token.expires_at <= now:
        state = "expired"
    else:
        state = "working"
    return {
        "token": token.token,
        "building_id": token.building_id,
        "state": state,
        "created_at": utc_text(token.created_at),
        "expires_at": utc_text_or_none(token.expires_at),
        "revoked_at": utc_text_or_none(token.revoked_at),
    }
