"""The page that answers a form navigation: a form that a browser sent without JavaScript (C27a)."""

import re
from pathlib import Path
from typing import Any

from tornado.template import Loader

from handlers.api.form import FORM_TYPES
from models.origin import origin_of

# The page has no script, and loads nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"

_URL = re.compile("[!-~]+")  # as a header holds it: any other character must be percent-encoded
_TEMPLATE = Loader(str(Path(__file__).parent / "templates")).load("answer.html")
_WORDS = {
    "en": {
        "taken": ("Thank you!", "We will be in touch soon."),
        "refused": (
            "That could not be sent.",
            "Please go back and try again. What you wrote is still there.",
        ),
    },
    "es": {
        "taken": ("¡Gracias!", "Nos pondremos en contacto pronto."),
        "refused": ("No se pudo enviar.", "Vuelva atrás e inténtelo de nuevo. Lo que escribió sigue ahí."),
    },
}


def wants_page(content_type: str, accept: str, origin: str | None) -> bool:
    """Return True for a form navigation: a form's media type, text/html but not JSON accepted, an origin.

    Some programs accept text/html by default, but they send no origin.
    """
    is_form = content_type.partition(";")[0].strip().lower() in FORM_TYPES
    ranges = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    return is_form and origin is not None and "text/html" in ranges and "application/json" not in ranges


def render(status: int, body: Any, accept_language: str, origin: str | None) -> bytes:
    """Return the page for an answer, in the first of the browser's languages that there is; else in English.

    origin: the website that the thank-you page links to.
    """
    preferred = [part.partition(";")[0].strip()[:2].lower() for part in accept_language.split(",")]
    language = next((code for code in preferred if code in _WORDS), "en")
    title, text = _WORDS[language]["taken" if status < 300 else "refused"]
    error = body.get("error")
    detail = error.get("human_message") if isinstance(error, dict) else error
    page: bytes = _TEMPLATE.generate(
        language=language, title=title, text=text, detail=detail, back=origin if status < 300 else None
    )
    return page


def redirect_url(return_to: object, origin: str | None) -> str | None:
    """Return the URL to redirect to; None if `return_to` is no URL on the page's own origin.

    The page's origin is a registered one, or the request would have been refused.
    """
    if not isinstance(return_to, str) or origin is None or not _URL.fullmatch(return_to.strip()):
        return None
    try:
        return return_to.strip() if origin_of(return_to) == origin else None
    except ValueError:
        return None
