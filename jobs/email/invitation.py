"""The tour as an iCalendar file: a request, its update, or its cancellation (RFC 5546)."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from urllib.parse import quote

# Imported at the start although it takes 80 ms: at the first lead with a tour it would block the loop.
from icalendar import Calendar, Event, vCalAddress

from jobs.email.mime import ascii_domain
from jobs.email.tour import TOUR_LENGTH, Tour

REQUEST, CANCEL = "REQUEST", "CANCEL"
_SUBSTITUTES = ("noreply", "no-reply")  # organizers for an agent who is the sender too


class Invitation(NamedTuple):
    """A tour for the agent's calendar.

    uid: the same in all files about the tour. sequence: rises with each change. stamp: when the mail was
    first sent. organizer, attendee: addresses as `mailbox` returns them. method: REQUEST or CANCEL.
    """

    method: str
    uid: str
    sequence: int
    stamp: datetime
    tour: Tour
    title: str
    location: str
    description: Sequence[str]
    organizer: str
    organizer_name: str
    attendee: str

    def to_ical(self) -> bytes:
        """Return the file. A request is tentative, since only the renter has requested the tour."""
        organizer, attendee = _calendar_address(self.organizer), _calendar_address(self.attendee)
        organizer.params["CN"] = self.organizer_name
        attendee.params.update(
            {
                "CN": self.attendee,
                "CUTYPE": "INDIVIDUAL",
                "ROLE": "REQ-PARTICIPANT",
                "PARTSTAT": "NEEDS-ACTION",
                "RSVP": "FALSE",
            }
        )
        tour, event = self.tour, Event()
        for name, value in {
            "uid": self.uid,
            "dtstamp": self.stamp,
            "dtstart": tour.day or tour.begins,
            "dtend": tour.day + timedelta(days=1) if tour.day else tour.begins + TOUR_LENGTH,
            "summary": self.title,
            "location": self.location,
            "description": "\n".join(self.description),
            "organizer": organizer,
            "attendee": attendee,
            "status": "CANCELLED" if self.method == CANCEL else "TENTATIVE",
            # A whole day would block the agent's calendar.
            **({"transp": "TRANSPARENT"} if tour.day else {}),
            "sequence": self.sequence,
        }.items():
            if value != "":
                event.add(name, value)
        calendar = Calendar()
        for name, text in {
            "prodid": "-//Website leads//Tours//EN",
            "version": "2.0",
            "method": self.method,
        }.items():
            calendar.add(name, text)
        calendar.add_component(event)
        ical: bytes = calendar.to_ical()
        return ical


def organizer_for(attendee: str, sender: str) -> str:
    """Return the organizer of an agent's tour: the sender, unless both are the same mailbox.

    A calendar takes an invitation by its own user for a meeting that it has already: Outlook offers no
    answer, and moves it to the deleted items.
    """
    key = _mailbox_key(attendee)
    candidates = [sender, *(f"{local}@{ascii_domain(sender)}" for local in _SUBSTITUTES)]
    return next(candidate for candidate in candidates if _mailbox_key(candidate) != key)


def _mailbox_key(address: str) -> tuple[str, str]:
    """Return what spellings of one mailbox share. Two mailboxes may share it too: that costs nothing."""
    local = address.rpartition("@")[0].strip('"').casefold()
    return local.partition("+")[0].replace(".", ""), ascii_domain(address).lower()


def _calendar_address(address: str) -> vCalAddress:
    return vCalAddress("mailto:" + quote(address, safe="@!$*+"))
