"""The log: one line a request with its id, and nothing of a renter's, in either format."""

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
from conftest import LEADS, ServerHarness, StartHarness

from handlers import log

SECRETS = ("jane", "renter.test", "5550104477", "maple", "Hello", "127.0.0.1", "news")


@pytest.fixture(params=["text", "json"])
def written(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    stream = io.StringIO()
    root, ours = logging.getLogger(), logging.getLogger("leads")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    monkeypatch.setattr("handlers.log._handler", None)
    root.handlers.clear()  # or they would be closed
    log.configure(request.param, stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


async def test_no_renters_data_and_no_token_is_ever_in_it(
    harness: ServerHarness, written: io.StringIO
) -> None:
    jane = {"requestor_email": "jane@renter.test", "requestor_phone": "5550104477", "requestor_name": "jane"}
    harness.mail.replies = ["554 jane@renter.test is not wanted"]
    await harness.lead(token="maple", message="Hello", listing_source="june_homes", **jane)
    await harness.request("GET", LEADS + "/jane@renter.test?token=maple")
    await harness.request("POST", "/jane", '{"token": "maple"')
    await harness.request("POST", LEADS, '{"token": "maple"')
    await harness.post({"tour_request": jane}, Origin="https://evil.test/jane")
    await harness.post({"tour_request": {**jane, "listing_source": "news"}})
    await harness.request("jane", LEADS)
    await harness.raw(b"POST jane HTTP/9.9\r\njane: renter.test\r\n\r\n")
    await harness.raw(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: jane\r\n\r\n")
    await harness.settled()
    text = written.getvalue()
    assert text
    for secret in SECRETS:
        assert secret not in text, secret


async def test_an_unforeseen_error_is_logged_with_its_place_but_not_its_words(
    harness: ServerHarness, written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*args: object) -> None:
        raise ValueError("jane@renter.test")

    monkeypatch.setattr("handlers.api.leads.decode_body", stumble)
    response = await harness.post({})
    line = next(line for line in written.getvalue().splitlines() if "ValueError" in line)
    assert response.headers["X-Request-Id"] in line
    assert "test_log.py" in line
    assert "jane" not in written.getvalue()


async def test_a_request_is_one_line_with_the_id_it_was_answered_with(
    harness: ServerHarness, written: io.StringIO
) -> None:
    response = await harness.post({"token": "maple", "tour_request": {"requestor_email": "jane@renter.test"}})
    lines = [line for line in written.getvalue().splitlines() if response.headers["X-Request-Id"] in line]
    assert len(lines) == 1
    if lines[0].startswith("{"):
        facts = json.loads(lines[0])
        assert (facts["status"], facts["lead"], facts["route"]) == (201, 1, LEADS)
    else:
        assert f"route={LEADS} lead=1 status=201" in lines[0]


@pytest.mark.parametrize("there_is_one", [True, False])
async def test_a_log_that_cannot_be_written_disturbs_no_answer(
    harness: ServerHarness, written: io.StringIO, there_is_one: bool
) -> None:
    written.close()
    if not there_is_one:  # as after 2>&-
        setattr(log._handler, "stream", None)
    assert await two_leads(harness) == [b"201", b"201"]


async def test_what_fails_after_an_answer_brings_no_second_one(
    harness: ServerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*args: object) -> None:
        raise ValueError

    monkeypatch.setattr("handlers.api.handler.log_answer", stumble)
    assert await two_leads(harness) == [b"201", b"201"]


async def two_leads(harness: ServerHarness) -> list[bytes]:
    """The status of each answer to two leads that come by one connection."""
    body = b'{"token": "maple", "tour_request": {"requestor_email": "jane@renter.test"}}'
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % (LEADS.encode(), len(body))
    answers = await harness.raw(head + b"\r\n" + body + head + b"Connection: close\r\n\r\n" + body)
    return re.findall(rb"HTTP/1.1 ([0-9]+)", answers)


async def test_it_says_why_a_request_was_refused(harness: ServerHarness, written: io.StringIO) -> None:
    await harness.post({"tour_request": {"requestor_email": "jane@renter.test", "slot": "soon"}})
    await harness.post({}, Origin="https://unknown.test")
    text = written.getvalue()
    assert "invalid date: slot" in text
    assert "origin https://unknown.test is not registered for any building" in text


async def test_a_lead_that_nobody_is_told_of_is_a_warning(
    harness: ServerHarness, written: io.StringIO
) -> None:
    await harness.lead(token="mapel")
    (line,) = [line for line in written.getvalue().splitlines() if "WARNING" in line]
    assert "nobody is told of a lead" in line
    assert "no building matched" in line


async def test_it_says_why_a_destination_is_down(harness: ServerHarness, written: io.StringIO) -> None:
    await harness.mail.stop()
    await harness.lead(token="maple")
    await harness.settled()
    (line,) = [line for line in written.getvalue().splitlines() if "not delivered" in line]
    assert "failed at connecting" in line


async def test_a_server_without_a_mail_server_says_at_its_start_that_mail_waits(
    start_harness: StartHarness, written: io.StringIO
) -> None:
    await start_harness(smtp_url="")
    assert "LEADS_SMTP_URL is not set" in written.getvalue()


async def test_of_others_records_only_the_fixed_words_are_written(
    harness: ServerHarness, written: io.StringIO
) -> None:
    logging.getLogger("elsewhere").error("seen %s", "jane@renter.test\nat home")
    logging.getLogger("elsewhere").error("first line\njane@renter.test")
    assert "jane" not in written.getvalue()
    assert "elsewhere: first line" in written.getvalue()
