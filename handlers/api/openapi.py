"""The OpenAPI 3.1 document, made from the Cerberus schema that validates leads."""

from collections.abc import Sequence
from typing import Any

from handlers.api.admission import EXPOSED, MAX_BODY_BYTES
from handlers.api.leads import OLDER_PATH, PATH
from handlers.api.validation import MAX_KEY_LENGTH, SCHEMA
from handlers.client_stream import MAX_HEAD_BYTES
from handlers.errors import THROTTLED
from handlers.http_connection import MAX_HEADER_LINES
from models.version import VERSION

Json = dict[str, Any]

_HEADERS: dict[str, Json] = {
    "X-Request-Id": {"description": "The request's id, which the server's log has too.", "type": "string"},
    "RateLimit-Limit": {
        "description": "Capacity of the source address's bucket, in requests.",
        "type": "integer",
    },
    "RateLimit-Remaining": {"description": "Requests left in the bucket.", "type": "integer"},
    "RateLimit-Reset": {"description": "Seconds until the bucket is full.", "type": "integer"},
    "Link": {"description": 'Where the reference explains the error: <…>; rel="help".', "type": "string"},
    "Retry-After": {"description": "Seconds to wait before a retry.", "type": "integer"},
}
_ANSWERS = {
    400: "The body can't be used; the message says why. Nothing was stored.",
    403: "The page's origin is not a registered website of any building. Nothing was stored.",
    413: f"The body is larger than {MAX_BODY_BYTES} bytes.",
    415: "The body is compressed. Send it without a Content-Encoding header.",
    422: "This Idempotency-Key was used with another body before.",
    429: "Too many requests from this address. Wait for the seconds in Retry-After.",
    431: f"The headers are larger than {MAX_HEAD_BYTES} bytes, or have more than {MAX_HEADER_LINES} lines.",
    500: "The server failed. Its log has the details under the request's id.",
    503: "The server can't store leads now, or no more from this address as its disk is nearly full. Nothing "
    "was stored, unless the message says that the lead may be. Retry after the seconds in Retry-After.",
}


def document(url: str = "/") -> Json:
    """Return the OpenAPI document, ready for JSON. url: of the server."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Website Leads API",
            "version": VERSION,
            "description": "Accepts leads from buildings' websites. There is no API key: the token in the "
            "body assigns a lead to its building. The API never returns stored data.",
        },
        "servers": [{"url": url}],
        "paths": {
            PATH: {"post": _operation("createWebsiteLead")},
            OLDER_PATH: {"post": {**_operation("createTourRequest"), "deprecated": True}},
        },
        "components": {
            "schemas": {
                "Lead": _object(SCHEMA),
                "LeadForm": {"type": "object", "properties": _form_fields()},
                "Stored": {
                    "type": "object",
                    "properties": {"id": {"type": "integer", "minimum": 1}},
                    "required": ["id"],
                    "additionalProperties": False,
                },
                "DryRun": {
                    "type": "object",
                    "properties": {"dry_run": {"const": True}},
                    "required": ["dry_run"],
                    "additionalProperties": False,
                },
                "Error": _error({"type": "string"}),
                "Throttled": _error({"const": THROTTLED}),
            }
        },
    }


def _operation(name: str) -> Json:
    lead, form = ({"$ref": f"#/components/schemas/{schema}"} for schema in ("Lead", "LeadForm"))
    return {
        "operationId": name,
        "summary": "Send a lead",
        "description": "The answer is 201 once the lead is on disk. Each call creates a new lead, unless its "
        "Idempotency-Key was used before.",
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "A new key for each submitted form. For 24 hours the same key with the same "
                "body returns the first lead's id.",
                "schema": {"type": "string", "maxLength": MAX_KEY_LENGTH},
            },
            {
                "name": "Prefer",
                "in": "header",
                "description": "dry-run: check the request as if it came, and store nothing.",
                "schema": {"type": "string"},
            },
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": lead},
                "application/x-www-form-urlencoded": {"schema": form},
                "multipart/form-data": {"schema": form},
            },
        },
        "responses": {
            "201": _answer("The lead is on disk, and its e-mail is queued.", "Stored"),
            "200": _answer("With Prefer: dry-run: the lead could be stored. Nothing was.", "DryRun"),
            "303": {
                "description": "The same for a form navigation: a redirect to its return_to, or to a "
                "thank-you page.",
                "headers": {"Location": {"required": True, "schema": {"type": "string"}}},
                "content": {"text/html": {}},
            },
            **{
                str(status): _with_page(_answer(text, "Throttled" if status == 429 else "Error"))
                for status, text in _ANSWERS.items()
            },
        },
    }


def _answer(description: str, schema: str) -> Json:
    names = ["X-Request-Id", *(name for name in EXPOSED.split(", ") if name.startswith("RateLimit"))]
    if schema in ("Error", "Throttled"):
        names.append("Link")
    if "Retry-After" in description or schema == "Throttled":
        names.append("Retry-After")
    headers = {
        name: {
            "description": _HEADERS[name]["description"],
            "required": True,
            "schema": {"type": _HEADERS[name]["type"]},
        }
        for name in names
    }
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "headers": headers, "content": content}


def _with_page(answer: Json) -> Json:
    # A form navigation, which has an Origin and accepts text/html, gets a page for the renter.
    return {**answer, "content": {**answer["content"], "text/html": {}}}


def _error(error: Json) -> Json:
    return {
        "type": "object",
        "properties": {"error": error},
        "required": ["error"],
        "additionalProperties": False,
    }


def _object(schema: Json) -> Json:
    made: Json = {
        "type": "object",
        "properties": {name: _field(rules) for name, rules in schema.items()},
        "description": "Unknown fields are ignored.",
    }
    if required := [name for name, rules in schema.items() if rules.get("required")]:
        made["required"] = required
    return made


def _field(rules: Json) -> Json:
    if rules["type"] == "dict":
        return _object(rules["schema"])
    # A number or a boolean is taken as its text, and a blank value counts as not sent (C8).
    types = (
        ["string", "number", "boolean"] if "required" in rules else ["string", "number", "boolean", "null"]
    )
    made: Json = {"type": types, "maxLength": rules["maxlength"], **rules.get("meta", {})}
    if values := _values(rules):
        made |= {"type": ["string", "null"], "enum": [*values, "", None]}
    return made


def _values(rules: Json) -> Sequence[str]:
    # The values that a field takes, or that are the ones to send; none if it takes any text.
    values: Sequence[str] = rules.get("allowed") or rules["meta"].get("enum", ())
    return values


def _form_fields() -> Json:
    fields: Json = {}
    for name, rules in SCHEMA.items():
        if rules["type"] == "dict":
            for inner, its_rules in rules["schema"].items():
                fields[f"{name}[{inner}]"] = _form_field(its_rules)
        else:
            fields[name] = _form_field(rules)
    return fields


def _form_field(rules: Json) -> Json:
    made = {"type": "string", "maxLength": rules["maxlength"], **rules.get("meta", {})}
    return made | ({"enum": [*values, ""]} if (values := _values(rules)) else {})
