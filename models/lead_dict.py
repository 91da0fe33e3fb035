"""The shapes of a lead as JSON: in listings, for its adapters, and with all that is stored of it."""

from typing import TypedDict

from models.customer import CustomerBrief


class DealDict(TypedDict):
    """A deal as JSON inside a lead."""

    id: int
    stage: str


class DeliveryBrief(TypedDict):
    """A delivery as JSON inside a lead."""

    kind: str
    state: str
    attempts: int
    reason: str | None


class LeadDict(TypedDict):
    """A lead as JSON, in listings and exports. Times are UTC text."""

    id: int
    created_at: str
    building_id: int | None
    customer: CustomerBrief
    requestor_name: str | None
    requestor_email: str | None
    requestor_phone: str | None
    message: str | None
    slot: str | None
    unit_preference: str | None
    property_type: str
    utm_data: dict[str, str] | None
    listing_source: str | None
    listing_source_original_id: str | None
    request_host: str | None
    website: str | None
    sms_consent: bool
    lead_source: str
    deal: DealDict | None
    deliveries: list[DeliveryBrief]


class LeadForDelivery(LeadDict):
    """A lead as adapters get it: without deal and deliveries, with the text that its slot was
    read from, the reason why it looks like spam, and the SEQUENCE of its tour's invitation.

    sent_slot: the operator's if slot_corrected, else the renter's.
    """

    sent_slot: str | None
    slot_corrected: bool
    suspected: str | None
    tour_sequence: int


class SentDict(TypedDict):
    """The texts that a lead came with and that are stored in another form."""

    unified_address_id: str | None
    address_line_one: str | None
    token: str | None
    email: str | None
    slot: str | None
    utm_data: str | None


class ConsentDict(TypedDict):
    """The evidence of a consent to text messages."""

    at: str | None
    ip: str | None
    user_agent: str | None
    host: str | None
    origin: str | None
    version: str | None


class AttemptDict(TypedDict):
    """One attempt at a delivery as JSON. recipient: an e-mail address, or the host of a URL.

    content: what the mail says, one of CONTENTS. answer: of the destination that took it.
    """

    delivery_id: int
    kind: str
    content: str
    number: int
    started_at: str
    ended_at: str | None
    outcome: str | None
    recipient: str | None
    answer: str | None


class ActionDict(TypedDict):
    """An operator's action on a lead, or on the delivery of it that has this id, as JSON."""

    at: str
    actor_kind: str
    actor: str
    action: str
    delivery_id: int | None
    fields: list[str]


class LeadDetailDict(LeadDict):
    """All that is stored of one lead, as JSON. corrected_slot: the operator's text of the tour's time; '' if
    the operator removed the tour.
    """

    request_id: str
    suspected: str | None
    corrected_slot: str | None
    unregistered_origin: str | None
    sent: SentDict
    sms_consent_evidence: ConsentDict | None
    attempts: list[AttemptDict]
    actions: list[ActionDict]
