"""Validation of a lead's body: the Cerberus schema, and a validator with a fast path."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from cerberus import Validator, errors

from models.lead import LISTING_SOURCES

MAX_KEY_LENGTH = 255  # characters of an Idempotency-Key
NO_KEYS = ("", "undefined", "null")  # blank, or what JavaScript makes of a key that is missing

MISSING = "param is missing or the value is empty: tour_request"
UNUSABLE_EMAIL = "Unable to create tour request"


def _text(description: str, maximum: int = 1_000, values: Sequence[str] = (), **rules: Any) -> dict[str, Any]:
    # Cerberus ignores `meta`. The OpenAPI document and the reference are made of it. values: those to send,
    # although any other is no error.
    meta = {"description": description, **({"enum": values} if values else {})}
    return {"type": "string", "maxlength": maximum, "meta": meta, **rules}


TOUR_REQUEST = {
    "requestor_name": _text("The renter's name."),
    "requestor_email": _text("The renter's e-mail address, which the agent's reply goes to.", required=True),
    "requestor_phone": _text("The renter's phone number."),
    "message": _text("The renter's message. A line break counts as one character.", 10_000),
    "slot": _text(
        "Time of the tour in ISO 8601, or its day alone. Without an offset it is in the building's time zone."
    ),
    "unit_preference": _text("The unit, or the kind of unit, that the renter wants."),
    "utm_data": _text("The page's query string, or its whole URL. The query is stored as an object.", 10_000),
    "listing_source": _text("The listing site that the renter came from.", allowed=LISTING_SOURCES),
    "listing_source_original_id": _text("The listing's id on that site."),
    "request_host": _text("The website's host. By default the Host header."),
    "sms_consent": _text('Consent to text messages: only the string "true".', values=("true", "false")),
    "sms_consent_version": _text("The version of the consent text that the form showed."),
}
# Fields about how a form was filled in. They are not in the schema: no value of them is an error.
SIGNAL_FIELDS = ("homepage", "form_seconds")
SCHEMA = {
    "token": _text("The building's token."),
    "unified_address_id": _text("The building's unified address id. It is used only without a token."),
    "address_line_one": _text("The building's street address. It is used only without the other two."),
    "return_to": _text(
        "The page that a form without JavaScript is redirected to: a whole URL on a website of the building."
    ),
    "idempotency_key": _text(
        "A key of this filled-in form, for a form that can't send the header Idempotency-Key. Another body "
        "with the same key is another lead.",
        MAX_KEY_LENGTH,
    ),
    "tour_request": {"type": "dict", "required": True, "schema": TOUR_REQUEST},
}


class SchemaError(NamedTuple):
    """The error that the client is told of. maximum: the number of characters, of a text that is too long."""

    message: str
    field: str
    maximum: int | None = None


class FirstError(errors.BaseErrorHandler):  # type: ignore[misc]  # Cerberus has no types
    """Cerberus error handler: the one that the client gets, of the first kind in a fixed order."""

    def __call__(self, found: Sequence[errors.ValidationError]) -> SchemaError | None:
        flat = [child for error in found for child in (error.child_errors or (error,))]
        order = (errors.BAD_TYPE, errors.MAX_LENGTH, errors.UNALLOWED_VALUE, errors.REQUIRED_FIELD)
        for kind in order:
            for error in flat:
                if error.code == kind.code:
                    return _schema_error(error)
        return None


def _schema_error(error: errors.ValidationError) -> SchemaError:
    field = error.document_path[-1]
    if error.code == errors.BAD_TYPE.code:
        wanted = "an object" if error.constraint == "dict" else "a string"
        return SchemaError(f"{field} must be {wanted}", field)
    if error.code == errors.MAX_LENGTH.code:
        message = f"{field} is too long (maximum is {error.constraint} characters)"
        return SchemaError(message, field, error.constraint)
    if error.code == errors.UNALLOWED_VALUE.code:
        return SchemaError(f"'{error.value}' is not a valid {field}", field)
    return SchemaError(MISSING if field == "tour_request" else UNUSABLE_EMAIL, field)


class LeadValidator:
    """Cerberus validator with a fast path for documents without an error, which nearly all are.

    The fast path takes a thirtieth of Cerberus's time. It implements only the rules that the schema uses: a
    schema with any other rule is rejected at construction, with ValueError. Not thread-safe, as Cerberus.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        self._cerberus = Validator(schema, error_handler=FirstError)
        self._fast_path = _FastPath(schema)

    def error(self, document: dict[str, Any]) -> SchemaError | None:
        """Return the error for the client; None if the document is valid."""
        return None if self.is_surely_valid(document) else self.cerberus_error(document)

    def is_surely_valid(self, document: dict[str, Any]) -> bool:
        """Return the fast path's judgement: True exactly if Cerberus finds no error."""
        return self._fast_path.accepts(document)

    def cerberus_error(self, document: dict[str, Any]) -> SchemaError | None:
        """Return the error by Cerberus alone; None if the document is valid."""
        if self._cerberus.validate(document, normalize=False):
            return None
        error: SchemaError = self._cerberus.errors
        return error


class _FastPath:
    """The schema's rules, taken apart for one quick loop over a document."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._max_lengths: dict[str, int] = {}
        self._allowed: dict[str, Sequence[str]] = {}
        self._objects: dict[str, _FastPath] = {}
        self._required: list[str] = []
        for name, rules in schema.items():
            self._add(name, dict(rules))

    def _add(self, name: str, rules: dict[str, Any]) -> None:
        rules.pop("meta", None)
        kind = rules.pop("type", None)
        if kind == "string" and "maxlength" in rules:
            self._max_lengths[name] = rules.pop("maxlength")
            if "allowed" in rules:
                self._allowed[name] = rules.pop("allowed")
        elif kind == "dict" and "schema" in rules:
            self._objects[name] = _FastPath(rules.pop("schema"))
        else:
            raise ValueError(
                f"{name}: the fast path knows only a string with maxlength, and a dict with schema"
            )
        if rules.pop("required", False):
            self._required.append(name)
        if rules:
            raise ValueError(f"{name}: the fast path does not know the rule {', '.join(map(repr, rules))}")

    def accepts(self, document: dict[str, Any]) -> bool:
        """Return True if no rule is broken; a name that the schema lacks breaks one."""
        max_lengths, allowed = self._max_lengths, self._allowed
        for name, value in document.items():
            if type(value) is str:
                if len(value) > max_lengths.get(name, -1):
                    return False
                if name in allowed and value not in allowed[name]:
                    return False
            elif type(value) is not dict or name not in self._objects:
                return False
            elif not self._objects[name].accepts(value):
                return False
        for name in self._required:
            if name not in document:
                return False
        return True


VALIDATOR = LeadValidator(SCHEMA)  # one: only the loop's thread validates
