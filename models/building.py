"""Buildings, their websites and tokens: the tables, and what is read of them."""

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Literal, TypedDict

from peewee import AutoField, ForeignKeyField, TextField

from models.clock import utc_text, utc_text_or_none
from models.errors import NotFound
from models.origin import origin_of
from models.storage.rows import Row, UtcDateTimeField, locked

log = logging.getLogger("leads.buildings")

# What happens to leads that look like spam: nothing, their mail is quarantined, or their mail is marked.
OFF, HOLD, MARK = DEFENCES = ("off", "hold", "mark")


class Building(Row):
    """A building whose website sends leads."""

    id = AutoField()
    name = TextField()
    address_line_one = TextField(null=True)
    unified_address_id = TextField(null=True)
    agent_email = TextField(null=True)
    time_zone = TextField()
    created_at = UtcDateTimeField()
    spam_defence = TextField(default="off")  # one of DEFENCES
    removed_at = UtcDateTimeField(null=True)  # a removed building keeps its leads and matches no new one


class BuildingWebsite(Row):
    """A website of a building: browsers on its origin may send the building's leads."""

    id = AutoField()
    building = ForeignKeyField(Building)
    building_id: int
    url = TextField()


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
    """A building as JSON, with its websites and the tokens that work now, if these were asked for.

    website_url: the first of website_urls, for programs that know no list.
    """

    id: int
    name: str
    address_line_one: str | None
    unified_address_id: str | None
    website_url: str | None
    website_urls: list[str]
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
    urls = BuildingWebsite.select(BuildingWebsite.url).join(Building).where(Building.removed_at.is_null())
    return frozenset(origins_of(urls.scalars()))


def origins_of(urls: Iterable[str]) -> list[str]:
    """Return the web origins of these URLs, each once, as a browser writes them."""
    origins: dict[str, None] = {}
    for url in urls:
        try:
            origins[origin_of(url)] = None
        except ValueError as error:  # an earlier version was less strict; the other websites still count
            log.warning("a website is left out", extra={"reason": str(error)})
    return list(origins)


def find_building(building_id: int, even_removed: bool = False, *, for_update: bool = False) -> Building:
    """Return the registered building of this id. Raises NotFound.

    for_update: until the transaction ends no other one changes it, its websites or its tokens.
    """
    query = Building.select().where(Building.id == building_id)
    found: Building | None = (locked(query) if for_update else query).first()
    if found is None or (found.removed_at is not None and not even_removed):
        raise NotFound(f"there is no building {building_id}", "unknown_building")
    return found


def building_as_dict(
    building: Building, tokens: Sequence[str] = (), website_urls: Sequence[str] = ()
) -> BuildingDict:
    """Return a building as JSON. tokens: those that work now."""
    return {
        "id": building.id,
        "name": building.name,
        "address_line_one": building.address_line_one,
        "unified_address_id": building.unified_address_id,
        "website_url": website_urls[0] if website_urls else None,
        "website_urls": list(website_urls),
        "agent_email": building.agent_email,
        "time_zone": building.time_zone,
        "spam_defence": building.spam_defence,
        "created_at": utc_text(building.created_at),
        "tokens": list(tokens),
    }


def show_building(building_id: int, now: datetime, even_removed: bool = False) -> BuildingDict:
    """Return a building with its websites and the tokens that work now. Raises NotFound."""
    building = find_building(building_id, even_removed)
    return building_as_dict(building, working_tokens(building, now), website_urls(building_id))


def list_buildings(now: datetime) -> list[BuildingDict]:
    """Return all registered buildings, with their websites and the tokens that work now."""
    tokens: dict[int, list[str]] = {}
    for token in BuildingToken.select().where(live_token(now)).order_by(BuildingToken.id):
        tokens.setdefault(token.building_id, []).append(token.token)
    urls = list_websites()
    rows = Building.select().where(Building.removed_at.is_null()).order_by(Building.id)
    return [building_as_dict(row, tokens.get(row.id, ()), urls.get(row.id, ())) for row in rows]


def list_websites() -> dict[int, list[str]]:
    """Return the URLs of all registered buildings' websites, by the building's id, in their order."""
    urls: dict[int, list[str]] = {}
    rows = BuildingWebsite.select().join(Building).where(Building.removed_at.is_null())
    for website in rows.order_by(BuildingWebsite.id):
        urls.setdefault(website.building_id, []).append(website.url)
    return urls


def website_urls(building_id: int) -> list[str]:
    """Return the URLs of a building's websites, in the order of their registration."""
    rows = BuildingWebsite.select(BuildingWebsite.url).where(BuildingWebsite.building == building_id)
    return list(rows.order_by(BuildingWebsite.id).scalars())


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
