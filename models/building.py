"""Buildings and their tokens: registration, changes, rotation, listings."""

import logging
import secrets
import string
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, TypedDict
from zoneinfo import ZoneInfo

from peewee import AutoField, ForeignKeyField, TextField

from models.audit import Actor, record_action
from models.clock import utc_text, utc_text_or_none
from models.email_address import normal_form
from models.errors import Conflict, Invalid, NotFound
from models.origin import origin_of
from models.storage.rows import Row, UtcDateTimeField

log = logging.getLogger("leads.buildings")

# 142 random bits. No punctuation: a command would take a token that begins with - for an option.
TOKEN_ALPHABET, TOKEN_LENGTH = string.ascii_letters + string.digits, 24
TOKEN_LIMIT = 1_000  # characters

# What happens to leads that look like spam: nothing, their mail is quarantined, or their mail is marked.
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
    removed_at = UtcDateTimeField(null=True)  # a removed building keeps its leads and matches no new one


class BuildingToken(Row):
    """A token that a building's website sends. The page's source shows it: it is a name, not a secret."""

    id = AutoField()
    building = ForeignKeyField(Building)
    building_id: int
    token = TextField(unique=True)
    created_at = UtcDateTimeField()
    expires_at = UtcDateTimeField(null=True)  # the end of a rotation's overlap
    revoked_at = UtcDateTimeField(null=True)


class BuildingDict(TypedDict):
    """A building as JSON, with the tokens that work now, if these were asked for."""

    id: int
    name: str
    address_line_one: str | None
    unified_address_id: str | None
    website_url: str | None
    agent_email: str | None
    time_zone: str
    spam_defence: str
    created_at: str
    tokens: list[str]


class TokenDict(TypedDict):
    """A token as JSON."""

    token: str
    building_id: int
    state: Literal["working", "expired", "revoked"]
    created_at: str
    expires_at: str | None
    revoked_at: str | None


def live_token(now: Any) -> Any:
    """Return the condition that a token works at this instant."""
    return BuildingToken.revoked_at.is_null() & (
        BuildingToken.expires_at.is_null() | (BuildingToken.expires_at > now)
    )


def registered_origins() -> frozenset[str]:
    """Return the web origins of all buildings' websites, as a browser writes them."""
    urls = Building.select(Building.website_url).where(
        Building.removed_at.is_null(), Building.website_url.is_null(False)
    )
    origins = set()
    for url in urls.scalars():
        try:
            origins.add(origin_of(url))
        except ValueError as error:  # an earlier version was less strict; the other websites still count
            log.warning("a website is left out", extra={"reason": str(error)})
    return frozenset(origins)


def add_building(
    actor: Actor, fields: Mapping[str, str | None], token: str | None, now: datetime
) -> tuple[Building, str]:
    """Register a building and issue its first token, which is returned too. token: None for a random one.

    Raises Invalid for a bad value, Conflict for a token in use.
    """
    building = Building.create(created_at=now, **_checked({"time_zone": "UTC", **fields}))
    issued = _create_token(building.id, token, now)
    record_action(actor, "building.add", "building", building.id, now, fields)
    return building, issued.token


def update_building(
    actor: Actor, building_id: int, fields: Mapping[str, str | None], now: datetime
) -> Building:
    """Change these fields of a building; an empty text clears one.

    Raises NotFound, or Invalid for a bad value.
    """
    building = find_building(building_id)
    for name, value in _checked(fields).items():
        setattr(building, name, value)
    building.save()
    record_action(actor, "building.update", "building", building_id, now, fields)
    return building


def remove_building(actor: Actor, building_id: int, now: datetime) -> Building:
    """Remove a building: its tokens and website stop working, its leads stay. Raises NotFound."""
    building = find_building(building_id)
    building.removed_at = now
    building.save()
    record_action(actor, "building.remove", "building", building_id, now)
    return building


def find_building(building_id: int, even_removed: bool = False) -> Building:
    """Return the registered building of this id. Raises NotFound."""
    found = Building.get_or_none(Building.id == building_id)
    if found is None or (found.removed_at is not None and not even_removed):
        raise NotFound(f"there is no building {building_id}", "unknown_building")
    return found


def _checked(fields: Mapping[str, str | None]) -> dict[str, str | None]:
    values = {name: (value or "").strip() or None for name, value in fields.items()}
    if "name" in values and not values["name"]:
        raise Invalid("a building needs a name", field="name")
    for name, value in values.items():
        if value and not value.isprintable():
            words = name.replace("_", " ")
            raise Invalid(f"the {words} has line breaks or control characters in it", field=name)
    if website := values.get("website_url"):
        try:
            origin_of(website)
        except ValueError as error:
            raise Invalid(str(error), field="website_url") from None
    if agent := values.get("agent_email"):
        try:
            normal_form(agent)
        except ValueError as error:
            raise Invalid(f"{agent!r} is not an e-mail address: {error}", field="agent_email") from None
    if "spam_defence" in values:
        values["spam_defence"] = values["spam_defence"] or OFF
        if values["spam_defence"] not in DEFENCES:
            raise Invalid(f"a spam defence is one of {', '.join(DEFENCES)}", field="spam_defence")
    if "time_zone" in values:
        values["time_zone"] = zone = values["time_zone"] or "UTC"
        try:
            ZoneInfo(zone)
        except (ValueError, OSError, LookupError):
            raise Invalid(
                f"{zone!r} is not a time zone; write it like America/New_York", field="time_zone"
            ) from None
    return values


def issue_token(actor: Actor, building_id: int, token: str | None, now: datetime) -> BuildingToken:
    """Give a building one more token. token: None for a random one.

    Raises NotFound, Invalid for a text that can't be a token, Conflict for one in use.
    """
    issued = _create_token(find_building(building_id).id, token, now)
    record_action(actor, "token.issue", "token", issued.id, now)
    return issued


def rotate_token(actor: Actor, building_id: int, overlap: timedelta, now: datetime) -> BuildingToken:
    """Issue a new token. Tokens that work now expire after the overlap, or earlier if they did already.

    Raises NotFound.
    """
    building = find_building(building_id)
    end = now + overlap
    for row in BuildingToken.select().where(BuildingToken.building == building, live_token(now)):
        row.expires_at = min(row.expires_at or end, end)
        row.save(only=[BuildingToken.expires_at])
    issued = _create_token(building.id, None, now)
    record_action(actor, "token.rotate", "token", issued.id, now)
    return issued


def revoke_token(actor: Actor, token: str, now: datetime) -> BuildingToken:
    """End a token at once. Raises NotFound, or Conflict if it was revoked before."""
    found = BuildingToken.get_or_none(BuildingToken.token == token)
    if found is None:
        raise NotFound("there is no such token", "unknown_token")
    if found.revoked_at is not None:
        raise Conflict(f"that token was revoked at {utc_text(found.revoked_at)}")
    found.revoked_at = now
    found.save()
    record_action(actor, "token.revoke", "token", found.id, now)
    return found


def _create_token(building_id: int, token: str | None, now: datetime) -> BuildingToken:
    token = (token or "").strip() or _random_token()
    if not token.isprintable() or len(token) > TOKEN_LIMIT:
        raise Invalid(f"a token is printable text of at most {TOKEN_LIMIT:,} characters", field="token")
    taken = BuildingToken.get_or_none(BuildingToken.token == token)
    if taken is not None:
        raise Conflict(f"token {token!r} belongs to building {taken.building_id} already", field="token")
    return BuildingToken.create(building=building_id, token=token, created_at=now)


def _random_token() -> str:
    return "".join(secrets.choice(TOKEN_ALPHABET) for _ in range(TOKEN_LENGTH))


def building_as_dict(building: Building, tokens: Sequence[str] = ()) -> BuildingDict:
    """Return a building as JSON. tokens: those that work now."""
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


def show_building(building_id: int, now: datetime) -> BuildingDict:
    """Return a building with the tokens that work now. Raises NotFound."""
    building = find_building(building_id)
    return building_as_dict(building, working_tokens(building, now))


def list_buildings(now: datetime) -> list[BuildingDict]:
    """Return all registered buildings, with the tokens that work now."""
    tokens: dict[int, list[str]] = {}
    for row in BuildingToken.select().where(live_token(now)).order_by(BuildingToken.id):
        tokens.setdefault(row.building_id, []).append(row.token)
    rows = Building.select().where(Building.removed_at.is_null()).order_by(Building.id)
    return [building_as_dict(row, tokens.get(row.id, ())) for row in rows]


def working_tokens(building: Building, now: datetime) -> list[str]:
    """Return the building's tokens that work now, the oldest first."""
    rows = BuildingToken.select(BuildingToken.token).where(
        BuildingToken.building == building, live_token(now)
    )
    return list(rows.order_by(BuildingToken.id).scalars())


def has_no_working_token(building_id: int, now: datetime) -> bool:
    """Return True if this building is registered, and none of its tokens works now."""
    building = Building.get_by_id(building_id)
    return building.removed_at is None and not working_tokens(building, now)


def list_tokens(building_id: int | None, now: datetime) -> list[TokenDict]:
    """Return the tokens of this building, or of all registered ones if it is None. Raises NotFound."""
    rows = BuildingToken.select().join(Building).where(Building.removed_at.is_null())
    if building_id is not None:
        rows = rows.where(BuildingToken.building == find_building(building_id))
    return [token_as_dict(row, now) for row in rows.order_by(Building.id, BuildingToken.id)]


def token_as_dict(token: BuildingToken, now: datetime) -> TokenDict:
    """Return a token as JSON."""
    return {
        "token": token.token,
        "building_id": token.building_id,
        "state": _token_state(token, now),
        "created_at": utc_text(token.created_at),
        "expires_at": utc_text_or_none(token.expires_at),
        "revoked_at": utc_text_or_none(token.revoked_at),
    }


def _token_state(token: BuildingToken, now: datetime) -> Literal["working", "expired", "revoked"]:
    if token.revoked_at is not None:
        return "revoked"
    return "expired" if token.expires_at is not None and token.expires_at <= now else "working"
