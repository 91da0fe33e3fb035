"""Rules of the diagnosis: each one finds one usual mistake of an integration in a recorded request.

A rule yields sentences that name the mistake and its remedy. Its name is a code that tests can rely on.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from handlers.api.form import FORM_TYPES
from handlers.api.preferences import DRY_RUN
from handlers.api.text import clean_text
from handlers.api.validation import MISSING, NO_KEYS, SCHEMA, SIGNAL_FIELDS, TOUR_REQUEST, UNUSABLE_EMAIL
from handlers.sandbox.request_log import RecordedRequest
from handlers.thank_you import return_url
from models.building import origins_of
from models.lead import LISTING_SOURCES
from models.spam import UNATTENDED

# The server sets these fields of a lead, and ignores the client's values.
SERVER_MANAGED = (
    "id",
    "created_at",
    "lead_source",
    "property_type",
    "building_id",
    "customer_id",
    "deal",
    "sms_consent_at",
)


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts about a request that the request itself does not show.

    building: the building of the lead, or of the building keys of a refused request, as a dict.
    unnotified_reason: why no agent gets a mail. suspected: why the lead looks like spam. unregistered_origin:
    where its form stood. duplicate_of: an earlier request with the same body that created a lead.
    """

    building: Mapping[str, Any] | None = None
    unnotified_reason: str | None = None
    duplicate_of: RecordedRequest | None = None
    suspected: str | None = None
    unregistered_origin: str | None = None


@dataclass(frozen=True, slots=True)
class DecodedRequest:
    """A recorded request, its decoded body, and the facts about it."""

    recorded: RecordedRequest
    facts: Facts
    media_type: str
    document: Mapping[str, Any]
    tour: Mapping[str, Any]  # the body's tour_request; {} if it has none
    keys_in_url: Sequence[str]  # the names of the building keys in its query

    @property
    def created_lead(self) -> bool:
        """True if the request created a lead, or would have without its dry run."""
        return self.recorded.lead_id is not None or self.recorded.fault == DRY_RUN

    def text(self, name: str) -> str:
        """Return a top-level field as text; '' if it is absent or neither a string nor an integer."""
        return as_text(self.document.get(name))


def as_text(value: object) -> str:
    """Return a field's value as text; '' if it is neither a string nor an integer."""
    return value.strip() if isinstance(value, str) else str(value) if isinstance(value, int) else ""


Messages = Iterator[str]
Rule = Callable[[DecodedRequest], Messages]
RULES: list[Rule] = []  # the most telling first


def rule(function: Rule) -> Rule:
    """Register a rule. Its code is the function's name."""
    RULES.append(function)
    return function


def code_of(function: Rule) -> str:
    """Return the code of a rule."""
    return function.__name__.replace("_", "-")


@rule
def refused(request: DecodedRequest) -> Messages:
    error = _error_of(request.recorded)
    if error == "invalid date: slot":
        yield (
            f"The slot {request.tour.get('slot')!r} is no date and time. Write it like 2026-12-01T10:00, "
            "2026-12-01T10:00-05:00 or 2026-12-01; with an hour from 00 to 23, the month before the day."
        )
    elif error == UNUSABLE_EMAIL:
        email = request.tour.get("requestor_email")
        reason = f"it is {email!r}, which is no e-mail address" if email else "there is none in tour_request"
        yield f"A lead needs a requestor_email: {reason}."
    elif error == MISSING and not request.document:
        yield "The body is empty or not a JSON object. Put the lead's fields inside its tour_request."
    elif error == MISSING:
        yield "The body has no tour_request with fields in it. Put the lead's fields inside it."
    elif error is not None and error.endswith("is not a valid listing_source"):
        yield f"A listing_source is one of {_listed(LISTING_SOURCES)}, or left out."


@rule
def throttled(request: DecodedRequest) -> Messages:
    if request.recorded.status == 429 and request.recorded.fault is None:
        seconds = request.recorded.answer_headers.get("Retry-After")
        yield f"This address sent too many requests. Wait {seconds} seconds, as the Retry-After header says."


@rule
def form_without_brackets(request: DecodedRequest) -> Messages:
    if request.media_type not in FORM_TYPES or request.tour:
        return
    body = bytes(request.recorded.body).lstrip()
    if body.startswith(b"{"):
        yield (
            f"The body is JSON, but its type is {request.media_type}, the default of curl -d. Send it with "
            "Content-Type: application/json."
        )
    elif names := sorted(request.document.keys() & TOUR_REQUEST.keys()):
        name = names[0]
        yield f"In a form, a lead's field has brackets: name=tour_request[{name}], not name={name}."


@rule
def fields_at_top_level(request: DecodedRequest) -> Messages:
    if request.media_type in FORM_TYPES and not request.tour:
        return  # the rule above applies
    if names := sorted(request.document.keys() & TOUR_REQUEST.keys()):
        yield f"These fields are ignored at the top level; put them inside tour_request: {_listed(names)}."


@rule
def server_managed_fields(request: DecodedRequest) -> Messages:
    names = sorted({*request.tour, *request.document} & set(SERVER_MANAGED))
    if names:
        yield f"The server sets these fields itself and ignores the client's values: {_listed(names)}."


@rule
def unknown_fields(request: DecodedRequest) -> Messages:
    known = {*SERVER_MANAGED, *TOUR_REQUEST, *SIGNAL_FIELDS}
    names = sorted(request.document.keys() - SCHEMA.keys() - known)
    names += sorted(f"tour_request.{name}" for name in request.tour.keys() - known)
    if names:
        yield f"These fields are unknown, and ignored: {_listed(map(_with_suggestion, names))}."


@rule
def no_token(request: DecodedRequest) -> Messages:
    if not request.created_lead or request.text("token"):
        return
    building = request.facts.building
    if building is None:
        address = request.text("unified_address_id") or request.text("address_line_one")
        reason = f"the address {address!r} is no building's" if address else "no address"
        yield f"No token was sent, and {reason}, so the lead is nobody's: stored, unassigned."
        return
    key = "unified_address_id" if request.text("unified_address_id") else "address_line_one"
    yield (
        f"No token was sent; the lead was matched with building {building['id']} by its {key}. "
        "Send the building's token: an address can be written in many ways."
    )


@rule
def unknown_token(request: DecodedRequest) -> Messages:
    token = request.text("token")
    if request.created_lead and token and request.facts.building is None:
        yield (
            f"The token {token!r} belongs to no building, or was revoked or has expired. The lead is stored "
            "without a building, and no agent gets a mail, although the renter sees a success. "
            "'token list' shows the tokens that work."
        )


@rule
def token_in_the_url(request: DecodedRequest) -> Messages:
    if request.keys_in_url:
        yield (
            f"The URL has {_listed(sorted(request.keys_in_url))} in it. Put it into the body: browsers and "
            "proxies keep URLs in their logs."
        )


@rule
def nobody_is_told(request: DecodedRequest) -> Messages:
    reason = request.facts.unnotified_reason
    if request.facts.suspected == UNATTENDED:
        return  # another rule says so
    if reason and request.facts.building is not None:
        yield f"The lead is stored, but no agent gets a mail: {reason}."


@rule
def looks_like_spam(request: DecodedRequest) -> Messages:
    suspected, reason = request.facts.suspected, request.facts.unnotified_reason
    if suspected and reason is None:
        yield f"The lead looks like spam, so its mail is marked: {suspected}."


@rule
def consent_not_given(request: DecodedRequest) -> Messages:
    value = request.tour.get("sms_consent")
    if value is None or value is False or value in ("true", "false"):
        return
    if isinstance(value, str) and clean_text(value) is None:
        return
    shown = json.dumps(value, ensure_ascii=False)
    yield f'sms_consent is {shown}, so no consent is recorded. Only the string "true" is consent.'


@rule
def listing_source_in_another_case(request: DecodedRequest) -> Messages:
    value = request.tour.get("listing_source")
    if isinstance(value, str) and value not in LISTING_SOURCES:
        likely = re.sub(r"[\s-]+", "_", value.strip().lower())
        if likely in LISTING_SOURCES:
            yield f"listing_source is {value!r}; write it {likely!r}."


@rule
def return_to_elsewhere(request: DecodedRequest) -> Messages:
    url = request.document.get("return_to")
    if not url or request.recorded.status != 303:
        return
    building = request.facts.building
    websites = building["website_urls"] if building else []
    if return_url(url, origins_of(websites)) is None:
        allowed = f"the building's websites: {_listed(websites)}" if websites else "a website of the building"
        yield (
            f"return_to is {url!r}, which is no whole URL on {allowed}. The renter got the thank-you page "
            "instead."
        )


@rule
def posted_twice(request: DecodedRequest) -> Messages:
    earlier = request.facts.duplicate_of
    if earlier is None or not request.created_lead or request.recorded.replayed:
        return
    if request.recorded.header("Idempotency-Key"):
        remedy = "Send one Idempotency-Key for each filled form, the same at each try"
    else:
        remedy = "Send an Idempotency-Key for each filled form (a plain form: the field idempotency_key)"
    yield (
        f"Request {earlier.number}, which created lead {earlier.lead_id}, had the same body within ten "
        f"seconds: a double click, or a retry? {remedy}, and the two become one lead."
    )


@rule
def key_is_no_key(request: DecodedRequest) -> Messages:
    sent = {
        "The header Idempotency-Key": request.recorded.header("Idempotency-Key"),
        "The field idempotency_key": request.document.get("idempotency_key"),
    }
    for name, key in sent.items():
        if isinstance(key, str) and key.strip() and key.strip() in NO_KEYS:
            yield (
                f"{name} is the word {key.strip()}, which is no key: its script had none yet. So a retry "
                "makes another lead. Make one for each filled form, such as by crypto.randomUUID()."
            )


@rule
def key_used_again(request: DecodedRequest) -> Messages:
    if request.recorded.replayed:
        lead_id = request.recorded.lead_id
        yield f"An earlier request had this Idempotency-Key and body, so the response is its lead {lead_id}."


@rule
def a_fault_of_the_sandbox(request: DecodedRequest) -> Messages:
    if request.recorded.fault == DRY_RUN:
        yield "This is a dry run: the request was checked, and nothing was stored."
    elif request.recorded.fault is not None:
        yield f"The sandbox injected this fault, as it was asked to: {request.recorded.fault}."


def _error_of(request: RecordedRequest) -> str | None:
    return request.error if isinstance(request.error, str) else None


def _with_suggestion(name: str) -> str:
    inner = name.removeprefix("tour_request.")
    known = [*TOUR_REQUEST, *SCHEMA]
    likely = (
        [f"requestor_{inner}"] if f"requestor_{inner}" in known else get_close_matches(inner, known, 1, 0.7)
    )
    return f"{name} (did you mean {likely[0]}?)" if likely else name


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
