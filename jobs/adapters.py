"""The adapters of the destinations that are set."""

from jobs.adapter import Adapter
from jobs.email.adapter import EmailAdapter
from jobs.june_homes import JuneHomesAdapter
from models.clock import Clock
from models.outbox.destination import EMAIL, JUNE_HOMES, missing_settings
from models.settings import Settings


def configured_adapters(settings: Settings, clock: Clock) -> dict[str, Adapter]:
    """Return the adapter of each kind that the settings have all for; deliveries of the others wait."""
    adapters: dict[str, Adapter] = {}
    missing = missing_settings(settings)
    if settings.smtp_url is not None and EMAIL not in missing:
        adapters[EMAIL] = EmailAdapter(settings.smtp_url, settings.mail_from, clock=clock)
    if JUNE_HOMES not in missing:
        adapters[JUNE_HOMES] = JuneHomesAdapter(settings.june_homes_url, settings.june_homes_secret, clock)
    return adapters
