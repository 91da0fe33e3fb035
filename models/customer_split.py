"""Splitting a customer that holds leads of several renters, as databases before schema 6 may have."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import TypedDict

from peewee import Case, fn

from models.audit import Actor, record_action
from models.customer import Customer, Renter, find_customer, find_or_create, lock_renters, take_customer
from models.email_address import stored_comparison_key
from models.intake import FLAGGED_AS_SPAM
from models.lead import Lead
from models.outbox.delivery import NEW_LEAD, SKIPPED, Delivery
from models.outbox.destination import EMAIL
from models.phone import phone_key
from models.spam import RecentText
from models.storage.rows import database, locked

LEADS_AT_ONCE = 500  # moved by one transaction, so that the server's leads don't wait long for it


class MovedLeads(TypedDict):
    """The leads that a split moved to one customer, as JSON. email: that customer's."""

    customer_id: int
    email: str | None
    leads: list[int]


@dataclass(frozen=True, slots=True)
class Split:
    """The outcome of a split. moved: by the id of the customer.

    skipped_mails: the deliveries of moved leads that were skipped, as the customer was flagged as spam.
    is_whole: no other renter's lead is left.
    """

    moved: dict[int, MovedLeads]
    skipped_mails: list[int]
    is_whole: bool


def split_customer(actor: Actor, customer_id: int, now: datetime) -> Split:
    """Move leads that are another renter's to the customer that each would have today (C19).

    Leads with the customer's e-mail or phone stay, and so does the spam flag. At most LEADS_AT_ONCE leads are
    moved: to be repeated until the split is whole. Raises NotFound.
    """
    if database.is_shared:  # the names of all in one order, before any row, as intake does
        customer = find_customer(customer_id)
        renters = [renter for _, renter in islice(_others(customer), LEADS_AT_ONCE + 1)]
        own = (customer.email_key, customer.phone_key)
        lock_renters([own, *((renter.email_key, renter.phone_key) for renter in renters)])
    customer = take_customer(customer_id)
    others = list(islice(_others(customer), LEADS_AT_ONCE + 1))
    some, is_whole = others[:LEADS_AT_ONCE], len(others) <= LEADS_AT_ONCE
    split = Split(_move(some) if some else {}, _skipped_mails([lead.id for lead, _ in some]), is_whole)
    if some:
        _move_texts(customer)
    if is_whole and (some or customer.merged):
        _forget_strangers(customer)
        Customer.update(merged=False).where(Customer.id == customer_id).execute()
        record_action(actor, "customer.split", "customer", customer_id, now)
    return split


def _others(customer: Customer) -> Iterator[tuple[Lead, Renter]]:
    """Yield the customer's leads that are another renter's, and that renter. Erased leads are nobody's."""
    leads = (
        Lead.select(Lead.id, Lead.created_at, Lead.requestor_name, Lead.requestor_email, Lead.requestor_phone)
        .where(Lead.customer == customer, Lead.requestor_email.is_null(False))
        .order_by(Lead.id)
    )
    for lead in leads.iterator():
        renter = _renter_of(lead)
        if not _is_of(customer, renter):
            yield lead, renter


def _renter_of(lead: Lead) -> Renter:
    email, phone = lead.requestor_email or "", lead.requestor_phone
    key = stored_comparison_key(email)
    return Renter(lead.requestor_name, email, key, phone, phone and phone_key(phone))


def _is_of(customer: Customer, renter: Renter) -> bool:
    is_same_phone = bool(renter.phone_key) and renter.phone_key == customer.phone_key
    return is_same_phone or renter.email_key == customer.email_key


def _move(others: Sequence[tuple[Lead, Renter]]) -> dict[int, MovedLeads]:
    refs = find_or_create([renter for _, renter in others], [lead.created_at for lead, _ in others])
    list(locked(Lead.select(Lead.id).where(Lead.id.in_([lead.id for lead, _ in others])).order_by(Lead.id)))
    owners = {lead.id: ref.id for (lead, _), ref in zip(others, refs, strict=True)}
    Lead.update(customer=Case(Lead.id, list(owners.items()))).where(Lead.id.in_(list(owners))).execute()
    customers = Customer.select(Customer.id, Customer.email).where(Customer.id.in_(set(owners.values())))
    moved: dict[int, MovedLeads] = {
        customer.id: {"customer_id": customer.id, "email": customer.email, "leads": []}
        for customer in customers.order_by(Customer.id)
    }
    for lead_id, customer_id in owners.items():
        moved[customer_id]["leads"].append(lead_id)
    return moved


def _move_texts(customer: Customer) -> None:
    owner = Lead.select(Lead.customer).where(Lead.id == RecentText.lead)
    RecentText.update(customer=owner).where(RecentText.customer == customer).execute()


def _forget_strangers(customer: Customer) -> None:
    """Keep name and phone only if a lead that stays has them: another renter's may have filled them in."""
    own = [
        _renter_of(lead)
        for lead in Lead.select(Lead.requestor_name, Lead.requestor_email, Lead.requestor_phone)
        .where(Lead.customer == customer)
        .order_by(Lead.id)
    ]
    if not own:
        return
    if customer.name and customer.name not in {renter.name for renter in own}:
        customer.name = next((renter.name for renter in own if renter.name), None)
    if customer.phone and customer.phone_key not in {renter.phone_key for renter in own}:
        first = next((renter for renter in own if renter.phone_key), None)
        customer.phone, customer.phone_key = (first.phone, first.phone_key) if first else (None, None)
    customer.save(only=[Customer.name, Customer.phone, Customer.phone_key])


def _skipped_mails(lead_ids: Sequence[int]) -> list[int]:
    later = Delivery.alias()
    sent_again = later.select().where(
        later.lead == Delivery.lead, later.kind == EMAIL, later.content == NEW_LEAD, later.state != SKIPPED
    )
    rows = Delivery.select(Delivery.id).where(
        Delivery.lead.in_(lead_ids),
        Delivery.kind == EMAIL,
        Delivery.state == SKIPPED,
        Delivery.reason == FLAGGED_AS_SPAM,
        ~fn.EXISTS(sent_again),
    )
    return [row.id for row in rows.order_by(Delivery.id)]
