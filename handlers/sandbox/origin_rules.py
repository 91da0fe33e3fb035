"""Rules of the diagnosis about the page that a request came from: its origin, and how its form was sent."""

from collections.abc import Mapping
from typing import Any

from handlers.sandbox.rules import DecodedRequest, Messages
from models.origin import is_origin
from models.spam import UNATTENDED


def origin_not_registered(request: DecodedRequest) -> Messages:
    """A script of a page whose origin no building has."""
    origin = request.recorded.header("Origin")
    if request.recorded.status != 403 or origin is None:
        return
    if is_origin(origin):
        yield (
            "A CORS error means that the page's origin is not registered. This page's origin is "
            f"{origin}. {_step(origin, request.facts.building)}"
        )
    else:
        yield (
            f"The page's origin is {origin!r}, which can't be registered: the page was opened from a "
            "file, in a sandboxed frame, or by an app. Serve it from a web server, and register that "
            "server's origin."
        )


def form_origin_not_registered(request: DecodedRequest) -> Messages:
    """A form without a script, on a page whose origin no building has or that hides it."""
    origin = request.facts.unregistered_origin
    if origin is None:
        return
    if is_origin(origin):
        yield (
            f"The lead was taken, although no building has the origin of its form's page, {origin}. But "
            "return_to may not lead there, the thank-you page has no link back to it and can't stand in its "
            f"frames, and scripts of its pages can't send leads. {_step(origin, request.facts.building)}"
        )
    else:
        yield (
            f"The lead was taken. The page of its form hides its origin ({origin}): by its referrer policy, "
            "or as it stands in a sandboxed frame. Such an origin can't be registered. Outside a frame "
            "nothing needs to be done."
        )


def form_unattended(request: DecodedRequest) -> Messages:
    """A form that may have been sent by another website through its visitor."""
    if request.facts.suspected == UNATTENDED:
        yield (
            "The lead is stored, but its deliveries are quarantined and no consent is recorded: "
            f"{UNATTENDED}, and no building has that page's origin. Register the origin. A framed page that "
            "hides its origin must show it: without Referrer-Policy: no-referrer or same-origin, and in an "
            "iframe without sandbox. Or take the form out of the frame. 'lead release' sends what is "
            "quarantined."
        )


# In the order of the diagnosis, before the other rules.
ORIGIN_RULES = (origin_not_registered, form_origin_not_registered, form_unattended)


def _step(origin: str, building: Mapping[str, Any] | None) -> str:
    """Return how to register the origin, beside the websites that the building has."""
    if building is None:
        has = "Register exactly this origin."
        path, body = "/sandbox/api/buildings", f'{{"name": "…", "website_urls": ["{origin}"]}}'
    else:
        urls = ", ".join(building["website_urls"]) or "no website"
        has = f"Building {building['id']} ({building['name']}) has {urls}; add exactly this origin."
        path, body = f"/sandbox/api/buildings/{building['id']}/websites", f'{{"url": "{origin}"}}'
    return (
        f"{has} In the sandbox: POST {path} {body}. "
        f"On a real server: building update ID --add-website {origin}"
    )
