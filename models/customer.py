"""Customers: how a renter is recognised, and the spam flag."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict

from peewee import AutoField, BooleanField, TextField

from models.audit import Actor, record_action
from models.clock import utc_text, utc_text_or_none
from models.email_address import comparison_key
from models.errors import Invalid, NotFound
from models.storage.cached_query import CachedInsert, CachedQuery
from models.storage.rows import Row, UtcDateTimeField, database, lock_names, locked


class Customer(Row):
    """A renter. Later leads are matched by the keys; the other fields are as they were first typed."""

    id = AutoField()
    name = TextField(null=True)
    email = TextField(null=True)
    email_key = TextField(null=True, unique=True)
    phone = TextField(null=True)
    phone_key = TextField(null=True)
    spam = BooleanField(default=False)
    merged = BooleanField(default=False)  # holds leads of several renters, by an older rule: `split_customer`
    created_at = UtcDateTimeField()
    erased_at = UtcDateTimeField(null=True)


@dataclass(frozen=True, slots=True)
class Renter:
    """The sender of a lead: name and addresses as typed, and the keys made of these.

    phone_key: None also if nobody could be called by the phone. Such a phone is of no use to a customer.
    """

    name: str | None
    email: str
    email_key: str
    phone: str | None
    phone_key: str | None


@dataclass(slots=True, eq=False)
class CustomerRef:
    """The part of a customer that intake needs."""

    id: int
    name: str | None
    phone: str | None
    phone_key: str | None
    spam: bool
    filled_in: bool = False


NOT_STORED_YET = 0  # the id of a customer without a row


def find_or_create(renters: Sequence[Renter], times: Sequence[datetime]) -> list[CustomerRef]:
    """Return the customer of each renter, in their order (C19). times: when each renter's lead was received.

    A customer is found by e-mail, else by phone, else created. Stored values are never overwritten; a blank
    name or phone is filled in. A phone without a key matches nothing and fills in nothing. A renter may match
    a customer that an earlier one in the list created. Until the transaction ends no other one finds or
    creates customers of these renters.
    """
    lock_renters((renter.email_key, renter.phone_key) for renter in renters)
    by_email, by_phone = _known(renters)
    customers: list[CustomerRef] = []
    created: dict[str, tuple[CustomerRef, Renter, datetime]] = {}
    for renter, received_at in zip(renters, times, strict=True):
        customer = by_email.get(renter.email_key)
        if customer is None and renter.phone_key:
            customer = by_phone.get(renter.phone_key)
        if customer is None:
            phone = renter.phone if renter.phone_key else None
            customer = CustomerRef(NOT_STORED_YET, renter.name, phone, renter.phone_key, False)
            by_email[renter.email_key] = customer
            created[renter.email_key] = customer, renter, received_at
        else:
            _fill_in(customer, renter)
        if customer.phone_key:
            _index_phone(by_phone, customer.phone_key, customer)
        customers.append(customer)
    _insert(created)
    filled_in = {customer.id: customer for customer in customers if customer.filled_in}
    for _, customer in sorted(filled_in.items()):  # in one order, so that no two transactions deadlock
        _store_filled_in(customer)
    return customers


def lock_renters(keys: Iterable[tuple[str | None, str | None]]) -> None:
    """Keep other servers from finding or creating customers of these e-mail and phone keys, until the
    transaction ends.
    """
    if database.is_shared:
        keys = list(keys)
        lock_names("e-mail", (email_key for email_key, _ in keys if email_key))
        lock_names("phone", (phone_key for _, phone_key in keys if phone_key))


def _store_filled_in(customer: CustomerRef) -> None:
    # Each only if it is still blank: by another key another server may have filled it in.
    for filled_in, values in (
        (Customer.name, {"name": customer.name}),
        (Customer.phone, {"phone": customer.phone, "phone_key": customer.phone_key}),
    ):
        is_blank = filled_in.is_null() | (filled_in == "")
        if values[filled_in.name]:
            Customer.update(values).where(Customer.id == customer.id, is_blank).execute()


_KNOWN = CachedQuery(
    lambda emails, phones: (
        Customer.select(
            Customer.email_key, Customer.id, Customer.name, Customer.phone, Customer.phone_key, Customer.spam
        )
        .where(Customer.email_key.in_(emails) | Customer.phone_key.in_(phones))
        .order_by(Customer.id)
    )
)


def _known(renters: Iterable[Renter]) -> tuple[dict[str, CustomerRef], dict[str, CustomerRef]]:
    emails = {renter.email_key for renter in renters}
    phones = {renter.phone_key for renter in renters if renter.phone_key}
    by_email: dict[str, CustomerRef] = {}
    by_phone: dict[str, CustomerRef] = {}
    # Never an empty list: SQLite scans every customer for 'or false'.
    for email_key, *rest in _KNOWN.run(emails, phones or [None]):
        customer = CustomerRef(*rest)
        if email_key:
            by_email[email_key] = customer
        if customer.phone_key:
            _index_phone(by_phone, customer.phone_key, customer)
    return by_email, by_phone


def _index_phone(by_phone: dict[str, CustomerRef], phone_key: str, customer: CustomerRef) -> None:
    # Of several customers with one number the oldest counts; one that is not stored yet comes last.
    first = by_phone.setdefault(phone_key, customer)
    if customer.id != NOT_STORED_YET and (first.id == NOT_STORED_YET or customer.id < first.id):
        by_phone[phone_key] = customer


def _fill_in(customer: CustomerRef, renter: Renter) -> None:
    stored = customer.id != NOT_STORED_YET
    if not customer.name and renter.name:
        customer.name = renter.name
        customer.filled_in = stored
    if not customer.phone and renter.phone_key:
        customer.phone, customer.phone_key = renter.phone, renter.phone_key
        customer.filled_in = stored


_INSERT = CachedInsert(
    Customer,
    Customer.name,
    Customer.email,
    Customer.email_key,
    Customer.phone,
    Customer.phone_key,
    Customer.spam,
    Customer.created_at,
    returning=(Customer.email_key, Customer.id),
)


def _insert(created: Mapping[str, tuple[CustomerRef, Renter, datetime]]) -> None:
    rows = [
        (c.name, renter.email, email_key, c.phone, c.phone_key, c.spam, received_at)
        for email_key, (c, renter, received_at) in created.items()
    ]
    for email_key, row_id in _INSERT.run(rows):
        created[email_key][0].id = row_id


class CustomerBrief(TypedDict):
    """A customer as JSON inside a lead."""

    id: int
    email: str | None
    name: str | None
    phone: str | None
    spam: bool


class CustomerDict(CustomerBrief):
    """A customer as JSON."""

    created_at: str
    erased_at: str | None


def find_customer(customer_id: int, *, for_update: bool = False) -> Customer:
    """Return the customer of this id. Raises NotFound.

    for_update: until the transaction ends no other one changes it.
    """
    query = Customer.select().where(Customer.id == customer_id)
    found: Customer | None = (locked(query) if for_update else query).first()
    if found is None:
        raise NotFound(f"there is no customer {customer_id}", "unknown_customer")
    return found


def take_customer(customer_id: int) -> Customer:
    """Return the customer of this id; until the transaction ends no lead finds it. Raises NotFound."""
    found = find_customer(customer_id)
    if database.is_shared:  # by its keys first, as intake does
        keys = None
        while keys != (keys := (found.email_key, found.phone_key)):
            lock_renters([keys])
            found = find_customer(customer_id, for_update=True)
    return found


def list_customers(email: str | None, limit: int, merged: bool = False) -> list[CustomerDict]:
    """Return the newest customers, with this e-mail address if given.

    merged: only those that hold leads of several renters. Raises Invalid if `email` isn't an address.
    """
    rows = Customer.select().order_by(Customer.id.desc()).limit(limit)
    if merged:
        rows = rows.where(Customer.merged, Customer.erased_at.is_null())
    if email is not None:
        try:
            rows = rows.where(Customer.email_key == comparison_key(email))
        except ValueError as error:
            raise Invalid(f"{email!r} is not an e-mail address: {error}", field="email") from None
    return [customer_as_dict(row) for row in rows]


def flag_spam(actor: Actor, customer_id: int, spam: bool, now: datetime) -> Customer:
    """Set or clear a customer's spam flag. Later leads of a flagged customer notify nobody (C22).

    Raises NotFound.
    """
    customer = find_customer(customer_id, for_update=True)
    customer.spam = spam
    customer.save(only=[Customer.spam])
    record_action(actor, f"customer.{'flag' if spam else 'unflag'}_spam", "customer", customer_id, now)
    return customer


def customer_in_brief(customer: Customer) -> CustomerBrief:
    """Return a customer as JSON inside a lead."""
    return {
        "id": customer.id,
        "email": customer.email,
        "name": customer.name,
        "phone": customer.phone,
        "spam": bool(customer.spam),
    }


def customer_as_dict(customer: Customer) -> CustomerDict:
    """Return a customer as JSON."""
    return {
        **customer_in_brief(customer),
        "created_at": utc_text(customer.created_at),
        "erased_at": utc_text_or_none(customer.erased_at),
    }
