"""Leads: the table, and the values that its fields take."""

from peewee import AutoField, BooleanField, ForeignKeyField, IntegerField, TextField

from models.building import Building
from models.customer import Customer
from models.storage.rows import JsonField, Row, UtcDateTimeField

LISTING_SOURCES = ("june_homes", "streeteasy", "nooklyn", "zillow")  # C11
JUNE_HOMES_SOURCE = "june_homes"


class Lead(Row):
    """A lead. A `sent_` column keeps the text that was sent where its value is stored in another form."""

    id = AutoField()
    request_id = TextField()  # of the HTTP request; delivery ids are derived from it
    created_at = UtcDateTimeField()
    building = ForeignKeyField(Building, null=True)  # null: unassigned
    building_id: int | None
    customer = ForeignKeyField(Customer)
    customer_id: int
    sent_token = TextField(null=True)
    sent_unified_address_id = TextField(null=True)
    sent_address_line_one = TextField(null=True)
    requestor_name = TextField(null=True)
    requestor_email = TextField(null=True)  # null only once erased
    sent_email = TextField(null=True)
    requestor_phone = TextField(null=True)
    message = TextField(null=True)
    slot = UtcDateTimeField(null=True)
    sent_slot = TextField(null=True)
    corrected_slot = TextField(null=True)  # in place of sent_slot, by an operator; '': there is no tour
    unit_preference = TextField(null=True)
    property_type = TextField()
    utm_data = JsonField(null=True)
    sent_utm_data = TextField(null=True)
    listing_source = TextField(null=True)
    listing_source_original_id = TextField(null=True)
    request_host = TextField(null=True)
    # The host of the page with the form, by the browser, else by the client; the agent reads it.
    website = TextField(null=True)
    unregistered_origin = TextField(null=True)  # of a form navigation from an origin of no building
    lead_source = TextField()
    sms_consent = BooleanField()
    sms_consent_at = UtcDateTimeField(null=True)
    sms_consent_ip = TextField(null=True)
    sms_consent_user_agent = TextField(null=True)
    sms_consent_host = TextField(null=True)
    sms_consent_origin = TextField(null=True)
    sms_consent_version = TextField(null=True)  # of the consent text, as the form names it
    source = TextField(null=True)  # the network it came from; null if many clients share it
    # The SEQUENCE of the tour's invitation: it rises with each change that calendars have to take.
    tour_sequence = IntegerField(default=0)
    suspected = TextField(null=True)  # why it looks like spam; null if it does not

    @property
    def slot_text(self) -> str | None:
        """The text that `slot` was read from: the operator's, else the renter's."""
        return self.sent_slot if self.corrected_slot is None else self.corrected_slot or None
