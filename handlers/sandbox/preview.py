"""The preview of a dry run: the fields of the lead that would be stored."""

from typing import Any

from models.building import show_building
from models.building_match import match_buildings
from models.clock import utc_text_or_none
from models.customer import Customer
from models.intake import Submission, in_utc, property_type, unnotified_reason_of


def preview_lead(submission: Submission) -> dict[str, Any]:
    """Return the fields of the lead and its building. Every customer counts as new, so not as spam."""
    keys = submission.building_keys
    building = match_buildings([keys], submission.received_at).get(keys)
    return {
        "building": building and show_building(building.id, submission.received_at),
        "nobody_told_because": unnotified_reason_of(Customer(spam=False), building),
        "requestor_name": submission.renter.name,
        "requestor_email": submission.renter.email,
        "requestor_phone": submission.renter.phone,
        "message": submission.message,
        "slot": utc_text_or_none(in_utc(submission.slot, building)),
        "unit_preference": submission.unit_preference,
        "property_type": property_type(submission),
        "utm_data": submission.utm_data,
        "listing_source": submission.listing_source,
        "listing_source_original_id": submission.listing_source_original_id,
        "request_host": submission.request_host,
        "website": submission.website,
        "sms_consent": submission.sms_consent is not None,
    }
