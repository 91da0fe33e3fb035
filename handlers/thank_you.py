"""GET /thank-you: the page that a form navigation is redirected to after its lead is stored (C27a).

Its URL carries the building's id, the unit, the tour and the website's origin, and a signature that counts
for one hour. The page reads the building, and nothing of a lead.
"""

import base64
import re
import unicodedata
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode
from zoneinfo import ZoneInfo

from handlers.api.page import Thanks, expired_page, page_policy, thank_you_page
from handlers.base import Handler
from models.building import BuildingDict, origins_of
from models.clock import Clock
from models.errors import NotFound
from models.origin import page_origin
from models.secret import InstallationSecret, SecretKeys
from models.slot import Slot
from models.storage import StorageError

PATH = "/thank-you"
VALID_FOR = timedelta(hours=1)
MAX_UNIT_LENGTH = 40  # characters
PURPOSE = "thank-you page"

_URL = re.compile("[!-~]+")  # as a header holds it: any other character must be percent-encoded
# A page of the operator's own server must not show a stranger's link or address.
_LINK = re.compile(r"//|www\.|@|\w\.[^\W\d_]{2}|\d\.\d+\.\d", re.IGNORECASE)


ReadBuilding = Callable[[int], Awaitable[BuildingDict]]


class ThankYou(NamedTuple):
    """Data in the URL. tour: ISO 8601 in UTC, or a date alone; None without a tour. website: the registered
    origin of the page with the form; None if it is not registered.
    """

    building_id: int | None
    unit: str | None
    tour: str | None
    website: str | None


def thank_you_url(carried: ThankYou, secret: SecretKeys, now: datetime) -> str:
    """Return the path and query of the page, signed."""
    unit = carried.unit and _shown_unit(carried.unit)
    fields = {
        "building": carried.building_id,
        "unit": unit,
        "tour": carried.tour,
        "website": carried.website,
        "until": int((now + VALID_FOR).timestamp()),
    }
    query = urlencode({name: value for name, value in fields.items() if value})
    signature = base64.urlsafe_b64encode(secret.digest(PURPOSE, query.encode())).decode().rstrip("=")
    return f"{PATH}?{query}&signature={signature}"


def read_query(query: str, secret: SecretKeys, now: datetime) -> ThankYou | None:
    """Return what a query carries; None if it is not signed, or its hour is over."""
    signed, _, text = query.rpartition("&signature=")
    try:
        signature = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        if not secret.verifies(PURPOSE, signed.encode(), signature):
            return None
        fields = dict(parse_qsl(signed))
        if now.timestamp() > int(fields["until"]):
            return None
    except (ValueError, LookupError):
        return None
    building = fields.get("building")
    unit, tour, website = (fields.get(name) for name in ("unit", "tour", "website"))
    return ThankYou(int(building) if building else None, unit, tour, website)


def _shown_unit(text: str) -> str | None:
    """Return the unit as the page shows it, cut to its limit; None if it looks like a link."""
    visible = "".join(c for c in text if unicodedata.category(c) != "Cf")
    unit = " ".join(unicodedata.normalize("NFKC", visible).replace("\u3002", ".").split())
    return None if _LINK.search(unit) else unit[:MAX_UNIT_LENGTH].rstrip()


def return_url(return_to: object, origins: Sequence[str]) -> str | None:
    """Return the URL that a form asks to be redirected to; None if it is no URL on one of these origins."""
    if not isinstance(return_to, str) or not _URL.fullmatch(return_to.strip()):
        return None
    return return_to.strip() if page_origin(return_to) in origins else None


def tour_text(slot: Slot | None, building: BuildingDict | None) -> str | None:
    """Return the tour as the URL carries it; None without a tour or a building."""
    if slot is None or building is None:
        return None
    if slot.is_date:
        return slot.day.isoformat()
    return f"{slot.in_utc(ZoneInfo(building['time_zone'])):%Y-%m-%dT%H:%MZ}"


class ThankYouHandler(Handler):
    """GET: the page for the renter."""

    route = PATH

    def initialize(self, read_building: ReadBuilding, secret: InstallationSecret, clock: Clock) -> None:
        self._read_building, self._secret, self._clock = read_building, secret, clock

    async def get(self) -> None:
        carried = read_query(self.request.query, self._secret.keys(), self._clock.now())
        language = self.request.headers.get("Accept-Language", "")
        if carried is None:
            self._write_page(410, expired_page(language), [])
            return
        building = await self._building(carried.building_id)
        framed_by = [carried.website] if carried.website else []
        if building is not None:
            framed_by += origins_of(building["website_urls"])
        page = thank_you_page(_thanks(carried, building), language)
        self._write_page(200, page, list(dict.fromkeys(framed_by)))

    async def _building(self, building_id: int | None) -> BuildingDict | None:
        if building_id is None:
            return None
        try:
            return await self._read_building(building_id)
        except (NotFound, StorageError):  # the renter's lead is stored all the same
            return None

    def _write_page(self, status: int, page: bytes, framed_by: list[str]) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", page_policy(framed_by))
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("X-Robots-Tag", "noindex")
        self.finish(page)


def _thanks(carried: ThankYou, building: BuildingDict | None) -> Thanks:
    if building is None:
        return Thanks(unit=carried.unit, back=carried.website)
    back = carried.website or next(filter(page_origin, building["website_urls"]), None)
    if carried.tour is None:
        return Thanks(building["name"], carried.unit, back=back)
    tour, is_date_alone = datetime.fromisoformat(carried.tour), "T" not in carried.tour
    if not is_date_alone:
        tour = tour.astimezone(ZoneInfo(building["time_zone"]))
    return Thanks(building["name"], carried.unit, tour, is_date_alone, back)
