"""The OpenAPI 3.1 document, made from the Cerberus schema that validates leads."""

from typing import Any

from handlers.api.admission import EXPOSED, MAX_BODY_BYTES, THROTTLED
from handlers.api.leads import MAX_KEY_LENGTH, OLDER_PATH, PATH
from handlers.api.validation import SCHEMA

VERSION = "1"

Json = dict[str, Any]

_HEADERS: dict[str, Json] = {
    "X-Request-Id": {"description": "Of this request, in the server's log as well.", "type": "string"},
    "RateLimit-Limit": {"description": "How many requests an address may send.", "type": "integer"},
    "RateLimit-Remaining": {"description": "How many of them are left.", "type": "integer"},
    "RateLimit-Reset": {"description": "In how many seconds all of them are there again.", "type": "integer"},
    "Retry-After": {"description": "After so many seconds it may work.", "type": "integer"},
}
_ANSWERS = {
    400: "Something in the body can't be used; the message says what. Nothing was stored.",
    403: "A page of an origin that is no registered website of a building. Nothing was stored.",
    413: f"The body is larger than {MAX_BODY_BYTES} bytes.",
    422: "This Idempotency-Key came with another body before.",
    429: "Too many requests from this address; wait for the seconds in Retry-After.",
    500: "The server failed. It has logged why, under the request's id.",
    503: "The server can't store leads now. Nothing was stored, unless the message says that it may have "
    "been; try again after Retry-After.",
}


def document(url: str = "/") -> Json:
    """Return the OpenAPI document, ready for JSON. url: of the server."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Website Leads API",
            "version": VERSION,
            "description": "Takes the leads of buildings' websites. There is no API key: the building's "
            "token in the body says whose lead it is. Nothing that was sent is ever returned.",
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
        "description": "Answered with 201 once the lead is on the disk. Each call makes a new lead, unless "
        "an Idempotency-Key says that it is one sent before.",
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "One for each filled form: for 24 hours the same key with the same body is "
                "answered with the first lead's id.",
                "schema": {"type": "string", "maxLength": MAX_KEY_LENGTH},
            }
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
            "201": _with_page(_answer("The lead is on the disk; its e-mail is on its way.", "Stored")),
            "303": {
                "description": "The same, of a form that a browser navigates by: on to its return_to.",
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
    # A browser that navigates by a form, with an Origin and an Accept of text/html, gets one for the renter.
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
        "description": "What is not named here is ignored.",
    }
    if required := [name for name, rules in schema.items() if rules.get("required")]:
        made["required"] = required
    return made


def _field(rules: Json) -> Json:
    if rules["type"] == "dict":
        return _object(rules["schema"])
    # A number or a boolean is taken as its text, and what is blank counts as not sent.
    types = (
        ["string", "number", "boolean"] if "required" in rules else ["string", "number", "boolean", "null"]
    )
    made: Json = {"type": types, "maxLength": rules["maxlength"], **rules.get("meta", {})}
    if "allowed" in rules:
        made = {**made, "type": ["string", "null"], "enum": [*rules["allowed"], "", None]}
    return made


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
    return made | ({"enum": [*rules["allowed"], ""]} if "allowed" in rules else {})
