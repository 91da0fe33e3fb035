"""The log, in both formats: one line a request with its id, and no data of a renter."""

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
from conftest import LEADS, ServerHarness, StartHarness

from handlers import log
from handlers.access_log import AccessLog

SECRETS = ("jane", "renter.test", "5550104477", "maple", "Hello", "127.0.0.1", "news")


@pytest.fixture(params=["text", "json"])
def log_stream(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What a server that is started after this fixture writes to its log."""
    stream = io.StringIO()
    root, ours = logging.getLogger(), logging.getLogger("leads")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    root.handlers.clear()  # or `configure` would close them
    handler = log.configure(request.param, stream)
    monkeypatch.setattr("server.AccessLog", lambda: AccessLog(handler))
    yield stream
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


@pytest.fixture
def written(log_stream: io.StringIO, harness: ServerHarness) -> io.StringIO:
    """The log of the harness's server, without the lines of its start."""
    log_stream.seek(0)
    log_stream.truncate()
    return log_stream


async def test_log_has_no_renter_data_and_no_token(written: io.StringIO, harness: ServerHarness) -> None:
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
    for body in (json.dumps({"tour_request": jane}), "{", "x" * 70_000):
        await harness.request("POST", LEADS + "?token=maple&address_line_one=Hello", body)
    await harness.request("POST", "//api/jane.json?token=maple")
    await harness.request("GET", "/livez?token=maple")
    await harness.raw(b"POST http://renter.test/api/jane?token=maple HTTP/1.1\r\n\r\n")
    await harness.raw(b"GET /livez?" + b"token=maple&" * 2_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    await harness.settled()
    text = written.getvalue()
    assert text
    for secret in SECRETS:
        assert secret not in text, secret


async def test_unexpected_error_is_logged_with_place_but_no_message(
    written: io.StringIO, harness: ServerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise ValueError("jane@renter.test")

    monkeypatch.setattr("handlers.api.leads.decode_body", fail)
    response = await harness.post({}, LEADS + "?token=jane")
    line = next(line for line in written.getvalue().splitlines() if "ValueError" in line)
    assert response.headers["X-Request-Id"] in line
    assert "test_log.py" in line
    assert "jane" not in written.getvalue()


async def test_access_log_has_one_line_with_the_request_id(
    written: io.StringIO, harness: ServerHarness
) -> None:
    response = await harness.post({"token": "maple", "tour_request": {"requestor_email": "jane@renter.test"}})
    lines = [line for line in written.getvalue().splitlines() if response.headers["X-Request-Id"] in line]
    assert len(lines) == 1
    if lines[0].startswith("{"):
        facts = json.loads(lines[0])
        assert (facts["status"], facts["lead"], facts["route"]) == (201, 1, LEADS)
    else:
        assert f"route={LEADS} lead=1 status=201" in lines[0]


@pytest.mark.parametrize("has_stream", [True, False])
async def test_failed_log_write_affects_no_answer(
    written: io.StringIO, harness: ServerHarness, has_stream: bool
) -> None:
    written.close()
    if not has_stream:  # as after 2>&-
        setattr(logging.getLogger().handlers[0], "stream", None)
    assert await two_leads(harness) == [b"201", b"201"]


async def test_error_after_the_answer_sends_no_second_answer(
    harness: ServerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise ValueError

    monkeypatch.setattr("handlers.access_log.AccessLog.write", fail)
    assert await two_leads(harness) == [b"201", b"201"]


async def two_leads(harness: ServerHarness) -> list[bytes]:
    """Send two leads by one connection, and return the status of each answer."""
    body = b'{"token": "maple", "tour_request": {"requestor_email": "jane@renter.test"}}'
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % (LEADS.encode(), len(body))
    answers = await harness.raw(head + b"\r\n" + body + head + b"Connection: close\r\n\r\n" + body)
    return re.findall(rb"HTTP/1.1 ([0-9]+)", answers)


async def test_access_log_gives_the_reason_of_a_refusal(written: io.StringIO, harness: ServerHarness) -> None:
    await harness.post({"tour_request": {"requestor_email": "jane@renter.test", "slot": "soon"}})
    await harness.post({}, Origin="https://unknown.test")
    text = written.getvalue()
    assert "invalid date: slot" in text
    assert "origin https://unknown.test is not registered for any building" in text


async def test_unassigned_lead_is_logged_as_warning(written: io.StringIO, harness: ServerHarness) -> None:
    await harness.lead(token="mapel")
    (line,) = [line for line in written.getvalue().splitlines() if "WARNING" in line]
    assert "nobody is told of a lead" in line
    assert "no building matched" in line


async def test_log_gives_the_reason_of_a_failed_delivery(
    written: io.StringIO, harness: ServerHarness
) -> None:
    await harness.mail.stop()
    await harness.lead(token="maple")
    await harness.settled()
    (line,) = [line for line in written.getvalue().splitlines() if "not delivered" in line]
    assert "failed at connecting" in line


async def test_start_without_mail_server_logs_that_mail_waits(
    log_stream: io.StringIO, start_harness: StartHarness
) -> None:
    await start_harness(smtp_url="")
    assert "LEADS_SMTP_URL is not set" in log_stream.getvalue()


async def test_start_without_a_sender_logs_an_error(
    log_stream: io.StringIO, start_harness: StartHarness
) -> None:
    await start_harness(mail_from="")
    [line] = [line for line in log_stream.getvalue().splitlines() if "the outbox waits" in line]
    assert "ERROR" in line and "LEADS_MAIL_FROM is not set" in line


async def test_records_of_other_libraries_are_logged_without_arguments(
    written: io.StringIO, harness: ServerHarness
) -> None:
    logging.getLogger("elsewhere").error("seen %s", "jane@renter.test\nat home")
    logging.getLogger("elsewhere").error("first line\njane@renter.test")
    assert "jane" not in written.getvalue()
    assert "elsewhere: first line" in written.getvalue()


async def test_given_up_mail_is_an_error_without_the_servers_words(
    written: io.StringIO, harness: ServerHarness
) -> None:
    harness.mail.unknown.add("gone@oak.test")
    await harness.building(agent_email="gone@oak.test", token="oak")
    harness.mail.replies = ["554 5.6.0 what jane@renter.test wrote"]
    await harness.lead(token="oak")
    await harness.lead(token="maple")
    await harness.settled()
    lines = [line for line in written.getvalue().splitlines() if "a delivery is given up" in line]
    assert len(lines) == 2 and all("ERROR" in line for line in lines)
    assert any("answered RCPT TO with 550 5.1.1" in line for line in lines)
    assert any("answered DATA with 554 5.6.0" in line for line in lines)
    assert not any(word in written.getvalue() for word in ("no such user", "wrote", "jane"))
