"""Erasure: removing a renter's data from every row that holds it."""

from datetime import datetime

from peewee import fn

from models.audit import Actor, record_action
from models.customer import take_customer
from models.errors import Conflict
from models.lead import Lead
from models.outbox.delivery import (
    DELIVERED,
    ERASED,
    FAILED,
    PENDING,
    QUARANTINED,
    SENDING,
    SKIPPED,
    Delivery,
    DeliveryAttempt,
    lock_deliveries,
)
from models.outbox.destination import KINDS, Destination, lock_destinations
from models.spam import RecentText
from models.storage.rows import locked


def erase_customer(actor: Actor, customer_id: int, now: datetime) -> int:
    """Erase a customer's data, also in their leads, and return the number of these.

    The rows stay, so that counts stay true. Deliveries that have not left are skipped. Raises NotFound, or
    Conflict if the customer was erased before.
    """
    customer = take_customer(customer_id)
    if customer.erased_at is not None:
        raise Conflict(f"customer {customer_id} was erased already")
    leads = Lead.select(Lead.id).where(Lead.customer == customer)
    list(locked(leads.order_by(Lead.id)).tuples())
    lock_deliveries(Delivery.lead.in_(leads))
    lock_destinations(KINDS)
    Delivery.update(state=SKIPPED, reason=ERASED, due_at=None, settled_at=now).where(
        Delivery.lead.in_(leads), Delivery.state.in_((QUARANTINED, PENDING, SENDING, FAILED))
    ).execute()
    RecentText.delete().where(RecentText.lead.in_(leads)).execute()
    # A mail server's reply to an attempt may quote the renter.
    Delivery.update(told_slot=None).where(Delivery.lead.in_(leads)).execute()
    attempts = DeliveryAttempt.delivery.in_(Delivery.select(Delivery.id).where(Delivery.lead.in_(leads)))
    DeliveryAttempt.update(answer=None).where(attempts).execute()
    DeliveryAttempt.update(outcome=ERASED).where(
        attempts, DeliveryAttempt.outcome.is_null() | (DeliveryAttempt.outcome != DELIVERED)
    ).execute()
    # An operator may have sent a lead's mail to the renter.
    addresses = Lead.select(fn.LOWER(Lead.requestor_email)).where(Lead.customer == customer)
    DeliveryAttempt.update(recipient=ERASED).where(
        attempts, fn.LOWER(DeliveryAttempt.recipient).in_(addresses)
    ).execute()
    Delivery.update(recipient=ERASED).where(
        Delivery.lead.in_(leads), fn.LOWER(Delivery.recipient).in_(addresses)
    ).execute()
    # The reason of an open circuit breaker may quote the renter too.
    Destination.update(reason=ERASED).where(Destination.reason.is_null(False)).execute()
    erased: int = (
        Lead.update(
            requestor_name=None,
            requestor_email=None,
            sent_email=None,
            requestor_phone=None,
            message=None,
            unit_preference=None,
            slot=None,
            sent_slot=None,
            corrected_slot=None,
            utm_data=None,
            sent_utm_data=None,
            listing_source_original_id=None,
            request_host=None,
            website=None,
            unregistered_origin=None,
            sent_unified_address_id=None,
            sent_address_line_one=None,
            sms_consent_ip=None,
            sms_consent_user_agent=None,
            sms_consent_host=None,
            sms_consent_origin=None,
            sms_consent_version=None,
            source=None,
            suspected=None,
        )
        .where(Lead.customer == customer)
        .execute()
    )
    customer.name = customer.email = customer.email_key = None
    customer.phone = customer.phone_key = None
    customer.erased_at = now
    customer.save()
    record_action(actor, "customer.erase", "customer", customer_id, now)
    return erased
