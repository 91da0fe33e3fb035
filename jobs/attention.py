"""What the log says at the start of a server that will not deliver all it takes."""

import logging
from datetime import datetime

from models.building import list_buildings
from models.outbox.destination import EMAIL
from models.outbox.listing import list_destinations
from models.settings import Settings
from models.storage import Storage

log = logging.getLogger("leads.server")


async def log_what_waits(storage: Storage, settings: Settings, now: datetime) -> None:
    """Log that no building is registered, and each destination whose deliveries wait."""
    if not await storage.read(list_buildings, now):
        log.warning(
            "no building is registered, so nobody is told of leads; is it the right folder?",
            extra={"data_dir": str(settings.data_dir.absolute()), "register_one_by": "building add"},
        )
    if storage.is_shared and not settings.secret:
        log.warning(
            "LEADS_SECRET is not set: servers on other machines need the one of this data folder",
            extra={"data_dir": str(settings.data_dir.absolute()), "print_it_by": "secret show"},
        )
    lacks_sender = settings.smtp_url is not None and settings.sender_fault is not None
    for destination in await storage.read(list_destinations, now):
        if destination["waits_because"] and (destination["pending"] or destination["kind"] == EMAIL):
            facts = {name: destination[name] for name in ("kind", "pending", "waits_because")}
            # A mail server is set, so the operator takes mail for sent.
            is_error = destination["kind"] == EMAIL and lacks_sender
            log.log(logging.ERROR if is_error else logging.WARNING, "the outbox waits", extra=facts)
