"""The June Homes adapter: POSTs each of its leads as JSON, signed as Standard Webhooks defines it."""

import base64
import hashlib
import hmac
import http.client
import re
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import orjson

from jobs.adapter import Adapter, DeliveryContext, DeliveryError
from jobs.http_post import NoAnswer, NotConnected, Reply, post
from models.clock import Clock
from models.outbox.outcomes import FailureKind

DEADLINE_SECONDS = 30.0
INTERNAL_FIELDS = (
    "customer",
    "deal",
    "deliveries",
    "sent_slot",
    "slot_corrected",
    "suspected",
    "tour_sequence",
)  # not for the partner
USER_AGENT = "website-leads/1"


class JuneHomesAdapter(Adapter):
    """POSTs leads to one URL, signed with one key. Does not follow redirects."""

    def __init__(self, url: str, key: bytes, clock: Clock) -> None:
        self._url, self._key, self._clock = url, key, clock
        # Made once, and only if it is needed: that reads hundreds of certificates.
        self._tls = ssl.create_default_context() if url.startswith("https:") else None

    async def deliver(self, context: DeliveryContext) -> str:
        """As `Adapter.deliver`."""
        body = payload(context)
        signature = sign(self._key, context.stable_id, self._clock.now(), body)
        headers = {"Content-Type": "application/json", "User-Agent": USER_AGENT, **signature}
        try:
            reply = await post(
                self._url,
                body,
                headers,
                tls=self._tls,
                connect_seconds=DEADLINE_SECONDS / 2,
                answer_seconds=DEADLINE_SECONDS / 2,
            )
        except NotConnected as error:
            raise DeliveryError(f"June Homes can't be reached: {error}", FailureKind.UNREACHABLE) from None
        except NoAnswer as error:
            raise DeliveryError(f"June Homes did not answer: {error}", content_sent=True) from None
        check_reply(reply, self._clock.now())
        return _status_text(reply.status)

    def recipient(self, context: DeliveryContext) -> str | None:
        """As `Adapter.recipient`."""
        return urlsplit(self._url).hostname


def payload(context: DeliveryContext) -> bytes:
    """Return the body: the lead and its building. The same context gives the same bytes."""
    lead = {name: value for name, value in context.lead.items() if name not in INTERNAL_FIELDS}
    building: dict[str, Any] | None = None
    if context.building is not None:
        fields = ("id", "name", "address_line_one", "unified_address_id")
        building = {name: value for name, value in context.building.items() if name in fields}
    message = {
        "type": "lead.created",
        "timestamp": lead["created_at"],
        "data": {**lead, "building": building},
    }
    return orjson.dumps(message)


def sign(key: bytes, message_id: str, sent_at: datetime, body: bytes) -> dict[str, str]:
    """Return the headers of Standard Webhooks: an HMAC-SHA256 over id, time and body."""
    timestamp = str(int(sent_at.timestamp()))
    content = b".".join((message_id.encode(), timestamp.encode(), body))
    signature = base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
    return {"webhook-id": message_id, "webhook-timestamp": timestamp, "webhook-signature": f"v1,{signature}"}


def check_reply(reply: Reply, now: datetime) -> None:
    """Raise DeliveryError unless the partner accepted the lead."""
    code = reply.status
    if 200 <= code < 300:
        return
    # The partner has read the lead, so this lead may be the cause.
    said = f"June Homes answered {_status_text(code)}"
    if code in (429, 503):
        retry_after = _retry_after(reply.headers.get("retry-after"), now)
        raise DeliveryError(said, FailureKind.AMBIGUOUS, retry_after=retry_after)
    if 300 <= code < 400:
        raise DeliveryError(f"{said}; set LEADS_JUNE_HOMES_URL to where that leads", FailureKind.REFUSED)
    if code in (401, 403):
        raise DeliveryError(f"{said}; check LEADS_JUNE_HOMES_SECRET", FailureKind.REFUSED)
    if code in (404, 405, 410):
        raise DeliveryError(f"{said}; check LEADS_JUNE_HOMES_URL", FailureKind.REFUSED)
    permanent = 400 <= code < 500 and code not in (408, 409, 425)
    raise DeliveryError(said, FailureKind.PERMANENT if permanent else FailureKind.TRANSIENT)


def _status_text(code: int) -> str:
    return f"{code} {http.client.responses.get(code, '')}".strip()


def _retry_after(value: str | None, now: datetime) -> timedelta | None:
    if value is None:
        return None
    if re.fullmatch(r"\s*\d{1,9}\s*", value, re.ASCII):
        return timedelta(seconds=int(value))
    try:
        at = parsedate_to_datetime(value)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)) - now
    except (ValueError, OverflowError):
        return None
