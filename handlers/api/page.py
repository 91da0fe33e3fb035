"""Pages for a renter whose browser sent a form without a script (C27a): thanks, or the field to mend."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tornado.template import Loader

from handlers.api.validation import TOUR_REQUEST
from handlers.errors import ApiError

MAX_LANGUAGES_LENGTH = 1_000  # characters of Accept-Language that are read

# The page loads nothing but its own style, and has no script.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors {}"
)

_TEMPLATE = Loader(str(Path(__file__).parent / "templates")).load("page.html")


@dataclass(frozen=True, slots=True)
class Words:
    """The texts of the pages in one language. Texts with {…} are formats."""

    language: str
    thanks: str
    soon: str
    building: str
    unit: str
    tour: str
    back: str
    refused: str
    kept: str  # the browser keeps what was typed
    invalid: dict[str, str]  # by field: what the renter can do about it
    too_long: str
    throttled: str
    unavailable: str
    fault: str  # of the website, which the renter can't mend
    for_owner: str
    expired: str
    expired_why: str
    fields: dict[str, str]
    days: Sequence[str]
    months: Sequence[str]
    date: str
    time: str
    is_24_hours: bool


_ENGLISH = Words(
    language="en",
    thanks="Thank you!",
    soon="We have your message, and will be in touch soon.",
    building="Building",
    unit="Unit",
    tour="Tour requested for",
    back="Back to the website",
    refused="That could not be sent.",
    kept="Please go back and try again. What you wrote is still there.",
    invalid={
        "requestor_email": "Please check your e-mail address.",
        "slot": "Please check the date and time of the tour.",
    },
    too_long="{field} is too long. At most {maximum:,} characters fit.",
    throttled="Too many requests came from your network. Please wait a moment before you try again.",
    unavailable="We can't take messages right now. Please wait a moment before you try again.",
    fault="The form of this website has a fault. Please call or e-mail the building instead.",
    for_owner="For the owner of the website:",
    expired="This page is no longer here.",
    expired_why="It is shown for one hour after a form was sent. There is no need to send the form again.",
    fields={
        "requestor_name": "Name",
        "requestor_email": "E-mail",
        "requestor_phone": "Phone",
        "message": "Message",
        "unit_preference": "Unit",
        "slot": "Tour",
    },
    days=("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    months=(
        *("January", "February", "March", "April", "May", "June"),
        *("July", "August", "September", "October", "November", "December"),
    ),
    date="{day_name}, {month} {day}, {year}",
    time="{date} at {time}",
    is_24_hours=False,
)
_SPANISH = Words(
    language="es",
    thanks="¡Gracias!",
    soon="Recibimos su mensaje y nos pondremos en contacto pronto.",
    building="Edificio",
    unit="Unidad",
    tour="Visita solicitada",
    back="Volver al sitio web",
    refused="No se pudo enviar.",
    kept="Vuelva atrás e inténtelo de nuevo. Lo que escribió sigue ahí.",
    invalid={
        "requestor_email": "Revise su correo electrónico.",
        "slot": "Revise la fecha y la hora de la visita.",
    },
    too_long="{field}: el texto es demasiado largo. Caben {maximum} caracteres como máximo.",
    throttled="Llegaron demasiadas solicitudes desde su red. Espere un momento antes de intentarlo de nuevo.",
    unavailable="Ahora no podemos recibir mensajes. Espere un momento antes de intentarlo de nuevo.",
    fault="El formulario de este sitio web tiene un error. Llame o escriba al edificio, por favor.",
    for_owner="Para el responsable del sitio web:",
    expired="Esta página ya no está disponible.",
    expired_why="Se muestra durante una hora después de enviar un formulario. No hace falta reenviarlo.",
    fields={
        "requestor_name": "Nombre",
        "requestor_email": "Correo electrónico",
        "requestor_phone": "Teléfono",
        "message": "Mensaje",
        "unit_preference": "Unidad",
        "slot": "Visita",
    },
    days=("lunes", "martes", "miércoles", "jueves", "viernes", "sábado", "domingo"),
    months=(
        *("enero", "febrero", "marzo", "abril", "mayo", "junio"),
        *("julio", "agosto", "septiembre", "octubre", "noviembre", "diciembre"),
    ),
    date="{day_name}, {day} de {month} de {year}",
    time="{date}, {time}",
    is_24_hours=True,
)
_LANGUAGES = {words.language: words for words in (_ENGLISH, _SPANISH)}


@dataclass(frozen=True, slots=True)
class Thanks:
    """Facts on the thank-you page. tour: in the building's time zone, or a date; back: the website's URL."""

    building: str | None = None
    unit: str | None = None
    tour: datetime | None = None
    is_date_alone: bool = False
    back: str | None = None


def page_policy(framed_by: Iterable[str]) -> str:
    """Return the Content-Security-Policy of a page. framed_by: origins that may frame it, besides its own."""
    return _POLICY.format(" ".join(["'self'", *framed_by]))


def thank_you_page(thanks: Thanks, accept_language: str) -> bytes:
    """Return the page after a stored lead."""
    words = _words(accept_language)
    tour = _tour_text(thanks.tour, thanks.is_date_alone, words) if thanks.tour else None
    facts = ((words.building, thanks.building), (words.unit, thanks.unit), (words.tour, tour))
    return _render(words, words.thanks, [words.soon], facts=facts, back=thanks.back)


def expired_page(accept_language: str) -> bytes:
    """Return the page at a thank-you URL that is too old, or was never made."""
    words = _words(accept_language)
    return _render(words, words.expired, [words.expired_why])


def refusal_page(error: ApiError, accept_language: str) -> bytes:
    """Return the page of an error: what the renter can do, and for the website's owner the error itself."""
    words = _words(accept_language)
    is_websites_fault = False
    if error.status_code == 429:
        lines = [words.throttled, words.kept]
    elif error.status_code == 413:
        # The message is the longest field, so it is what made the body too large.
        maximum = TOUR_REQUEST["message"]["maxlength"]
        lines = [words.too_long.format(field=words.fields["message"], maximum=maximum), words.kept]
    elif error.status_code >= 500:
        lines = [words.unavailable, words.kept]
    elif (text := _field_text(error, words)) is not None:
        lines = [text, words.kept]
    else:
        lines, is_websites_fault = [words.fault], True
    error_text = error.message if isinstance(error.message, str) else error.message["message"]
    return _render(words, words.refused, lines, error=error_text, is_websites_fault=is_websites_fault)


def _field_text(error: ApiError, words: Words) -> str | None:
    """Return what the renter can do about the field; None if only the website's owner can do something."""
    if error.maximum is not None and error.field in words.fields:
        return words.too_long.format(field=words.fields[error.field], maximum=error.maximum)
    return words.invalid.get(error.field)


def _words(accept_language: str) -> Words:
    """Return the texts in the first of the browser's languages that there is, else in English."""
    languages = accept_language[:MAX_LANGUAGES_LENGTH].split(",")
    preferred = (part.partition(";")[0].strip()[:2].lower() for part in languages)
    return next((_LANGUAGES[code] for code in preferred if code in _LANGUAGES), _ENGLISH)


def _tour_text(tour: datetime, is_date_alone: bool, words: Words) -> str:
    day_name, month = words.days[tour.weekday()], words.months[tour.month - 1]
    date = words.date.format(day_name=day_name, month=month, day=tour.day, year=tour.year)
    if is_date_alone:
        return date
    time = f"{tour:%H:%M}" if words.is_24_hours else f"{tour.hour % 12 or 12}:{tour:%M %p}"
    return words.time.format(date=date, time=time)


def _render(
    words: Words,
    title: str,
    lines: Sequence[str],
    *,
    facts: Iterable[tuple[str, str | None]] = (),
    back: str | None = None,
    error: str | None = None,
    is_websites_fault: bool = False,
) -> bytes:
    page: bytes = _TEMPLATE.generate(
        language=words.language,
        title=title,
        lines=lines,
        facts=[(label, value) for label, value in facts if value],
        back=back,
        back_label=words.back,
        error=error,
        for_owner=words.for_owner if is_websites_fault else None,
    )
    return page
