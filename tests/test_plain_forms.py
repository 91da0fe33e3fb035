"""Form navigations without JavaScript: a page or a redirect for browsers, JSON for programs (C27a)."""

import json
from urllib.parse import urlencode

import pytest
from conftest import ServerHarness
from tornado.httpclient import HTTPResponse

FORM = "application/x-www-form-urlencoded"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
FIELDS = {"token": "maple", "tour_request[requestor_email]": "jane@renter.test"}


async def send(harness: ServerHarness, headers: dict[str, str] | None = None, **fields: str) -> HTTPResponse:
    given = {"Content_Type": FORM, "Accept": BROWSER, "Origin": "https://maple.test", **(headers or {})}
    return await harness.client.fetch(
        harness.url + "/api/v1/website_leads",
        method="POST",
        body=urlencode({**FIELDS, **fields}),
        headers={name.replace("_", "-"): value for name, value in given.items()},
        raise_error=False,
        follow_redirects=False,
    )


async def test_C27a_form_navigation_gets_a_thank_you_page(harness: ServerHarness) -> None:
    response = await send(harness)
    assert response.code == 201 and response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert b"<h1>Thank you!</h1>" in response.body and b'href="https://maple.test"' in response.body
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert (await harness.stored(1))["requestor_email"] == "jane@renter.test"


async def test_C27a_thank_you_page_is_in_the_browsers_language(harness: ServerHarness) -> None:
    response = await send(harness, {"Accept_Language": "ca;q=0.9, es-MX, en"})
    assert "<h1>¡Gracias!</h1>" in response.body.decode() and b'lang="es"' in response.body


@pytest.mark.parametrize(
    "headers",
    [
        {"Accept": "*/*"},
        {"Accept": "application/json, text/html"},
        {"Accept": BROWSER, "Content_Type": "application/json"},
    ],
)
async def test_C27a_client_that_does_not_prefer_html_gets_json(
    harness: ServerHarness, headers: dict[str, str]
) -> None:
    response = await send(harness, headers)
    assert response.headers["Content-Type"] == "application/json"
    assert list(json.loads(response.body)) in (["id"], ["error"])


@pytest.mark.parametrize(
    "url", ["https://maple.test/thanks?x=1", "https://MAPLE.test:443/", " https://maple.test/a "]
)
async def test_C27a_return_to_on_own_origin_is_redirected_to(harness: ServerHarness, url: str) -> None:
    response = await send(harness, return_to=url)
    assert (response.code, response.headers["Location"]) == (303, url.strip())


@pytest.mark.parametrize(
    "url",
    [
        "https://elsewhere.test/",
        "https://maple.test.elsewhere.test/",
        "https://maple.test@elsewhere.test/",
        "http://maple.test/",
        "//elsewhere.test/",
        "javascript:alert(1)",
        "https://maple.test/\r\nSet-Cookie: a=b",
        "https://maple.test/\u2028x",
        "",
    ],
)
async def test_C27a_return_to_on_another_origin_is_ignored(harness: ServerHarness, url: str) -> None:
    response = await send(harness, return_to=url)
    assert (
        response.code == 201 and "Location" not in response.headers and "Set-Cookie" not in response.headers
    )


async def test_C27a_program_that_accepts_html_gets_json(harness: ServerHarness) -> None:
    response = await harness.request(
        "POST",
        "/api/v1/website_leads",
        urlencode({**FIELDS, "return_to": "https://maple.test/"}),
        Content_Type=FORM,
        Accept=BROWSER,
    )
    assert (response.code, response.body) == (201, b'{"id": 1}')


@pytest.mark.parametrize(
    ("headers", "fields", "status", "words"),
    [
        ({}, {"tour_request[slot]": "tomorrow"}, 400, "invalid date: slot"),
        ({"Origin": "https://elsewhere.test"}, {}, 403, "origin https://elsewhere.test is not registered"),
        ({}, {"tour_request[listing_source]": "<script>"}, 400, "&lt;script&gt;"),
    ],
)
async def test_C27a_error_of_a_form_navigation_is_a_page(
    harness: ServerHarness, headers: dict[str, str], fields: dict[str, str], status: int, words: str
) -> None:
    response = await send(harness, headers, **fields)
    page = response.body.decode()
    assert response.code == status and words in page and "<h1>That could not be sent.</h1>" in page
    assert "<script" not in page and "href" not in page
