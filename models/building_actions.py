"""Actions of operators on buildings and their tokens: registration, changes, rotation."""

import secrets
import string
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from models.audit import Actor, record_action
from models.building import (
    DEFENCES,
    OFF,
    Building,
    BuildingToken,
    BuildingWebsite,
    find_building,
    live_token,
    website_urls,
)
from models.clock import utc_text
from models.email_address import normal_form
from models.errors import Conflict, Invalid, NotFound
from models.origin import origin_of, page_origin
from models.storage.rows import lock_names, locked

# The fields of a building that an operator sets by name. Its websites are a list of their own.
FIELDS = ("name", "address_line_one", "unified_address_id", "agent_email", "spam_defence", "time_zone")
WEBSITES = "website_urls"

# 142 random bits. No punctuation: a command would take a token that begins with - for an option.
TOKEN_ALPHABET, TOKEN_LENGTH = string.ascii_letters + string.digits, 24
TOKEN_LIMIT = 1_000  # characters


def add_building(
    actor: Actor,
    fields: Mapping[str, str | None],
    token: str | None,
    now: datetime,
    websites: Iterable[str] = (),
) -> tuple[Building, str]:
    """Register a building and issue its first token, which is returned too. token: None for a random one.

    Raises Invalid for a bad value, Conflict for a token in use.
    """
    building = Building.create(created_at=now, **_checked({"time_zone": "UTC", **fields}))
    urls = _checked_urls(websites)
    _set_websites(building.id, urls)
    issued = _create_token(building.id, token, now)
    given = [*fields, *([WEBSITES] if urls else [])]
    record_action(actor, "building.add", "building", building.id, now, given)
    return building, issued.token


def update_building(
    actor: Actor,
    building_id: int,
    fields: Mapping[str, str | None],
    now: datetime,
    websites: Iterable[str] | None = None,
    *,
    add_websites: Iterable[str] = (),
    remove_websites: Iterable[str] = (),
) -> Building:
    """Change these fields of a building; an empty text clears one.

    websites: its websites from now on; None leaves them as they are. Then the ones to remove, each by its URL
    or by its origin alone, then the ones to add. To add one that is there already changes nothing.

    Raises NotFound, or Invalid for a bad value.
    """
    building = find_building(building_id, for_update=True)
    for name, value in _checked(fields).items():
        setattr(building, name, value)
    building.save()
    before = website_urls(building_id)
    kept = before if websites is None else _checked_urls(websites)
    left = _without(building_id, kept, remove_websites)
    known = set(map(page_origin, left))
    urls = [*left, *(url for url in _checked_urls(add_websites) if page_origin(url) not in known)]
    changed = [*fields, *([WEBSITES] if urls != before else [])]
    if urls != before:
        _set_websites(building_id, urls)
    if changed:
        record_action(actor, "building.update", "building", building_id, now, changed)
    return building


def remove_building(actor: Actor, building_id: int, now: datetime) -> Building:
    """Remove a building: its tokens and websites stop working, its leads stay. Raises NotFound."""
    building = find_building(building_id, for_update=True)
    building.removed_at = now
    building.save()
    record_action(actor, "building.remove", "building", building_id, now)
    return building


def _checked(fields: Mapping[str, str | None]) -> dict[str, str | None]:
    if unknown := fields.keys() - set(FIELDS):  # Peewee would ignore it
        raise Invalid(
            f"a building has no {', '.join(sorted(unknown))}; it has {', '.join(FIELDS)}, {WEBSITES}"
        )
    values = {name: (value or "").strip() or None for name, value in fields.items()}
    if "name" in values and not values["name"]:
        raise Invalid("a building needs a name", field="name")
    for name, value in values.items():
        if value and not value.isprintable():
            words = name.replace("_", " ")
            raise Invalid(f"the {words} has line breaks or control characters in it", field=name)
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


def _without(building_id: int, urls: Sequence[str], removed: Iterable[str]) -> list[str]:
    left = list(urls)
    for url in filter(None, map(str.strip, removed)):
        origin = page_origin(url)
        found = next((each for each in left if each == url or (origin and page_origin(each) == origin)), None)
        if found is None:
            raise NotFound(
                f"building {building_id} has no website {url!r}", "unknown_website", building=building_id
            )
        left.remove(found)
    return left


def _set_websites(building_id: int, urls: Iterable[str]) -> None:
    BuildingWebsite.delete().where(BuildingWebsite.building == building_id).execute()
    for url in urls:
        BuildingWebsite.create(building=building_id, url=url)


def _checked_urls(urls: Iterable[str]) -> list[str]:
    """Return these URLs, the first of each origin, without blank ones. Raises Invalid."""
    by_origin: dict[str, str] = {}
    for url in filter(None, map(str.strip, urls)):
        by_origin.setdefault(_checked_origin(url), url)
    return list(by_origin.values())


def _checked_origin(url: str) -> str:
    if not url.isprintable():
        raise Invalid("the website has line breaks or control characters in it", field=WEBSITES)
    try:
        return origin_of(url)
    except ValueError as error:
        raise Invalid(str(error), field=WEBSITES) from None


def issue_token(actor: Actor, building_id: int, token: str | None, now: datetime) -> BuildingToken:
    """Give a building one more token. token: None for a random one.

    Raises NotFound, Invalid for a text that can't be a token, Conflict for one in use.
    """
    issued = _create_token(find_building(building_id, for_update=True).id, token, now)
    record_action(actor, "token.issue", "token", issued.id, now)
    return issued


def rotate_token(actor: Actor, building_id: int, overlap: timedelta, now: datetime) -> BuildingToken:
    """Issue a new token. Tokens that work now expire after the overlap, or earlier if they did already.

    Raises NotFound.
    """
    building = find_building(building_id, for_update=True)
    end = now + overlap
    for row in BuildingToken.select().where(BuildingToken.building == building, live_token(now)):
        row.expires_at = min(row.expires_at or end, end)
        row.save(only=[BuildingToken.expires_at])
    issued = _create_token(building.id, None, now)
    record_action(actor, "token.rotate", "token", issued.id, now)
    return issued


def revoke_token(actor: Actor, token: str, now: datetime) -> BuildingToken:
    """End a token at once. Raises NotFound, or Conflict if it was revoked before."""
    found = locked(BuildingToken.select().where(BuildingToken.token == token)).first()
    if found is None:
        raise NotFound("there is no such token", "unknown_token")
    if found.revoked_at is not None:
        raise Conflict(f"that token was revoked at {utc_text(found.revoked_at)}")
    found.revoked_at = now
    found.save(only=[BuildingToken.revoked_at])
    record_action(actor, "token.revoke", "token", found.id, now)
    revoked: BuildingToken = found
    return revoked


def _create_token(building_id: int, token: str | None, now: datetime) -> BuildingToken:
    token = (token or "").strip() or _random_token()
    if not token.isprintable() or len(token) > TOKEN_LIMIT:
        raise Invalid(f"a token is printable text of at most {TOKEN_LIMIT:,} characters", field="token")
    lock_names("token", [token])
    taken = BuildingToken.get_or_none(BuildingToken.token == token)
    if taken is not None:
        raise Conflict(f"token {token!r} belongs to building {taken.building_id} already", field="token")
    return BuildingToken.create(building=building_id, token=token, created_at=now)


def _random_token() -> str:
    return "".join(secrets.choice(TOKEN_ALPHABET) for _ in range(TOKEN_LENGTH))
