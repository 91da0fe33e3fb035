"""Owns customers: how a renter is recognised, and the spam flag."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import phonenumbers
from peewee import AutoField, BooleanField, TextField

from models.building import Refused
from models.database import Row, UtcDateTimeField, as_text, as_text_or_none
from models.email_address import comparison_key

HOME_REGION = "US"  # where a phone number without a country code is from


class Customer(Row):
    """A renter. The keys are what a later lead is compared by; the rest is as it was typed first."""

    id = AutoField()
    name = TextField(null=True)
    email = TextField(null=True)
    email_key = TextField(null=True, unique=True)
    phone = TextField(null=True)
    phone_key = TextField(null=True)
    spam = BooleanField(default=False)
    created_at = UtcDateTimeField()
    erased_at = UtcDateTimeField(null=True)


def phone_key(phone: str) -> str:
    """The number in E.164, national numbers read as US; what can't be parsed stays as typed (C19)."""
    try:
        number = phonenumbers.parse(phone, HOME_REGION)
    except phonenumbers.NumberParseException:
        return phone.strip()
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


@dataclass(frozen=True, slots=True)
class Renter:
    """Who a lead came from: as typed, and the keys made of it."""

    name: str | None
    email: str
    email_key: str
    phone: str | None
    phone_key: str | None


def find_or_create(renters: Sequence[Renter], now: datetime) -> list[Customer]:
    """The customer of each renter, in their order (C19).

    Found by e-mail, else by phone, else created. What a customer's record holds is never overwritten;
    a blank name or phone is filled in. Renters see the customers that those before them made.
    """
    by_email, by_phone = _known(renters)
    customers: list[Customer] = []
    created: list[Customer] = []
    filled: dict[Customer, None] = {}
    for renter in renters:
        customer = by_email.get(renter.email_key)
        if customer is None and renter.phone_key:
            customer = by_phone.get(renter.phone_key)
        if customer is None:
            customer = Customer(
                name=renter.name,
                email=renter.email,
                email_key=renter.email_key,
                phone=renter.phone,
                phone_key=renter.phone_key,
                spam=False,
                created_at=now,
            )
            by_email[renter.email_key] = customer
            created.append(customer)
        elif _fill_in(customer, renter) and customer.id is not None:
            filled[customer] = None
        if customer.phone_key:
            _remember(by_phone, customer.phone_key, customer)
        customers.append(customer)
    _insert(created)
    for customer in filled:
        customer.save(only=[Customer.name, Customer.phone, Customer.phone_key])
    return customers


def _known(renters: Iterable[Renter]) -> tuple[dict[str, Customer], dict[str, Customer]]:
    emails = {renter.email_key for renter in renters}
    phones = {renter.phone_key for renter in renters if renter.phone_key}
    rows = Customer.select().where(Customer.email_key.in_(emails) | Customer.phone_key.in_(phones))
    by_email: dict[str, Customer] = {}
    by_phone: dict[str, Customer] = {}
    for row in rows.order_by(Customer.id):
        if row.email_key:
            by_email[row.email_key] = row
        if row.phone_key:
            _remember(by_phone, row.phone_key, row)
    return by_email, by_phone


def _remember(by_phone: dict[str, Customer], phone_key: str, customer: Customer) -> None:
    # Of several with one number it is the one that was registered first; one not yet stored comes last.
    first = by_phone.get(phone_key)
    if first is None or (customer.id is not None and (first.id is None or customer.id < first.id)):
        by_phone[phone_key] = customer


def _fill_in(customer: Customer, renter: Renter) -> bool:
    changed = False
    if not customer.name and renter.name:
        customer.name = renter.name
        changed = True
    if not customer.phone and renter.phone:
        customer.phone, customer.phone_key = renter.phone, renter.phone_key
        changed = True
    return changed


def _insert(created: Sequence[Customer]) -> None:
    if not created:
        return
    rows = [
        {
            "name": c.name,
            "email": c.email,
            "email_key": c.email_key,
            "phone": c.phone,
            "phone_key": c.phone_key,
            "spam": c.spam,
            "created_at": c.created_at,
        }
        for c in created
    ]
    inserted = Customer.insert_many(rows).returning(Customer.email_key, Customer.id).tuples()
    ids = dict(inserted.execute())
    for customer in created:
        customer.id = ids[customer.email_key]


def find_customer(customer_id: int) -> Customer:
    """The customer of this id. Raises Refused if there is none."""
    found = Customer.get_or_none(Customer.id == customer_id)
    if found is None:
        raise Refused(f"there is no customer {customer_id}; see 'customer list'")
    return found


def list_customers(email: str | None, limit: int) -> list[dict[str, Any]]:
    """The newest customers, with this e-mail address if given. Raises Refused if it isn't an address."""
    rows = Customer.select().order_by(Customer.id.desc()).limit(limit)
    if email is not None:
        try:
            rows = rows.where(Customer.email_key == comparison_key(email))
        except ValueError as error:
            raise Refused(f"{email!r} is not an e-mail address: {error}") from None
    return [customer_as_dict(row) for row in rows]


def flag_spam(customer: Customer, spam: bool) -> None:
    """Mark a customer as spam, or take the mark off: later leads of a marked one notify nobody (C22)."""
    customer.spam = spam
    customer.save(only=[Customer.spam])


def customer_in_brief(customer: Customer) -> dict[str, Any]:
    """A customer as it stands in the record of a lead."""
    return {
        "id": customer.id,
        "email": customer.email,
        "name": customer.name,
        "phone": customer.phone,
        "spam": bool(customer.spam),
    }


def customer_as_dict(customer: Customer) -> dict[str, Any]:
    """A customer as listings show it."""
    return {
        **customer_in_brief(customer),
        "created_at": as_text(customer.created_at),
        "erased_at": as_text_or_none(customer.erased_at),
    }
