"""The OpenAPI document: valid, made from the validating schema, and true of the server's answers."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from conftest import ServerHarness
from hypothesis import HealthCheck, given, settings
from openapi_spec_validator import validate
from schemathesis import GenerationMode, checks
from server_process import Program, run, started

from handlers.api.leads import OLDER_PATH, PATH
from handlers.api.openapi import document
from handlers.api.validation import SCHEMA, TOUR_REQUEST

SPEC = document()
# Without the check that valid data is accepted: the schema can't say what an e-mail address is, or that a
# number is taken as its text.
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


def test_document_is_valid_openapi() -> None:
    validate(SPEC)


def test_document_has_every_field_with_limit_and_description() -> None:
    lead = SPEC["components"]["schemas"]["Lead"]
    assert lead["properties"].keys() == SCHEMA.keys()
    inner = lead["properties"]["tour_request"]["properties"]
    assert inner.keys() == TOUR_REQUEST.keys()
    for name, rules in TOUR_REQUEST.items():
        assert inner[name]["maxLength"] == rules["maxlength"] and inner[name]["description"]
    form = SPEC["components"]["schemas"]["LeadForm"]["properties"]
    assert "tour_request[requestor_email]" in form and "token" in form


async def test_server_publishes_document_with_its_own_url(harness: ServerHarness) -> None:
    response = await harness.request("GET", "/openapi.json")
    assert response.code == 200 and response.headers["Content-Type"] == "application/json"
    assert json.loads(response.body) == document(harness.url)


def test_command_prints_document() -> None:
    done = run("openapi", public_url="https://leads.example.com")
    assert json.loads(done.stdout) == document("https://leads.example.com")


@pytest.fixture(scope="module")
def server() -> Iterator[Program]:
    with started("sandbox", rate_limit="1000000/1") as program:
        yield program


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("path", [PATH, OLDER_PATH])
def test_server_answers_as_documented(server: Program, path: str, mode: GenerationMode) -> None:
    operation = schemathesis.openapi.from_dict(document(server.url))[path]["POST"]

    @given(operation.as_strategy(generation_mode=mode))
    @settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def send(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(base_url=server.url, checks=CHECKS)

    send()
