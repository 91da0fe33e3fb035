"""Help links: each error of the API leads to its explanation in the reference (C34)."""

import re

import pytest
from conftest import LEADS, ServerHarness, StartHarness

JSON = "application/json"


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "anchor"),
    [
        ("POST", LEADS, "{", {}, 400, "status-400"),
        ("POST", LEADS, "", {}, 400, "field-tour_request"),
        ("POST", LEADS, '{"tour_request": {"requestor_email": "x"}}', {}, 400, "field-requestor_email"),
        (
            "POST",
            LEADS,
            '{"tour_request": {"requestor_email": "a@b.test", "slot": "x"}}',
            {},
            400,
            "field-slot",
        ),
        ("POST", LEADS, '{"token": ["x"], "tour_request": {"slot": "x"}}', {}, 400, "field-token"),
        ("POST", LEADS, "{}", {"Origin": "https://elsewhere.test"}, 403, "status-403"),
        ("GET", LEADS, None, {}, 405, "status-405"),
        ("POST", "/api/typo", "{}", {}, 404, "status-404"),
        ("POST", LEADS, "x" * 70_000, {}, 413, "status-413"),
        ("POST", LEADS, "{}", {"Content_Encoding": "gzip"}, 415, "status-415"),
        ("POST", LEADS, "{}", {"X_Long": "x" * 20_000}, 431, "status-431"),
    ],
)
async def test_C34_an_error_links_to_its_explanation(
    harness: ServerHarness,
    method: str,
    path: str,
    body: str | None,
    headers: dict[str, str],
    status: int,
    anchor: str,
) -> None:
    response = await harness.request(method, path, body, **headers)
    assert (response.code, response.headers["Link"]) == (status, f'</docs#{anchor}>; rel="help"')
    docs = (await harness.request("GET", "/docs")).body.decode()
    assert re.search(rf'id="{anchor}"', docs), anchor


async def test_C34_over_the_limit_links_too(start_harness: StartHarness) -> None:
    harness = await start_harness(rate_limit="1/60")
    answers = [await harness.request("POST", LEADS, "{}") for _ in range(2)]
    assert answers[1].headers["Link"] == '</docs#status-429>; rel="help"'


async def test_C34_a_success_has_no_help_link(harness: ServerHarness) -> None:
    response = await harness.post({"tour_request": {"requestor_email": "jane@renter.test"}})
    assert response.code == 201 and "Link" not in response.headers
