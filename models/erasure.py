"""Owns erasure: taking a renter's data out of everything that was made of it."""

from datetime import datetime

from models.customer import Customer
from models.errors import ActionError
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
)
from models.outbox.destination import Destination
from models.spam import RecentText


def erase_customer(customer: Customer, now: datetime) -> int:
    """Erase the customer and what their leads hold of them; answers with the number of leads.

    The rows stay, so that counts stay true; mail that has not left will not leave. Raises ActionError if it
    was done before.
    """
    if customer.erased_at is not None:
        raise ActionError(f"customer {customer.id} was erased already")
    leads = Lead.select(Lead.id).where(Lead.customer == customer)
    Delivery.update(state=SKIPPED, reason=ERASED, due_at=None, settled_at=now).where(
        Delivery.lead.in_(leads), Delivery.state.in_((QUARANTINED, PENDING, SENDING, FAILED))
    ).execute()
    RecentText.delete().where(RecentText.lead.in_(leads)).execute()
    # What a mail server said of an attempt may quote the renter.
    DeliveryAttempt.update(outcome=ERASED).where(
        DeliveryAttempt.delivery.in_(Delivery.select(Delivery.id).where(Delivery.lead.in_(leads))),
        DeliveryAttempt.outcome.is_null() | (DeliveryAttempt.outcome != DELIVERED),
    ).execute()
    # And so may the reason of a hold.
    Destination.update(reason=ERASED).where(Destination.reason.is_null(False)).execute()
    erased: int = (
        Lead.update(
            requestor_name=None,
            requestor_email=None,
            requestor_phone=None,
            message=None,
            unit_preference=None,
            slot=None,
            sent_slot=None,
            utm_data=None,
            sent_utm_data=None,
            listing_source_original_id=None,
            request_host=None,
            sent_unified_address_id=None,
            sent_address_line_one=None,
            sms_consent_ip=None,
            sms_consent_user_agent=None,
            sms_consent_host=None,
            sms_consent_version=None,
            suspected=None,
        )
        .where(Lead.customer == customer)
        .execute()
    )
    customer.name = customer.email = customer.email_key = None
    customer.phone = customer.phone_key = None
    customer.erased_at = now
    customer.save()
    return erased
