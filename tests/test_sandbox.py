"""The sandbox: it shows what comes in and what leaves, says what is odd, and fails as it is told to."""

import http.client
import json
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from conftest import ServerHarness
from leads_sandbox import Sandbox

LEAD = {"token": "demo", "tour_request": {"requestor_email": "jane@renter.test"}}
FORM = "application/x-www-form-urlencoded"


def tour(**fields: Any) -> dict[str, Any]:
    return {"token": "demo", "tour_request": {"requestor_email": "jane@renter.test", **fields}}


def test_an_attempt_is_shown_with_all_that_came_of_it(leads_sandbox: Sandbox) -> None:
    answer = leads_sandbox.post(
        tour(listing_source="june_homes", slot="2026-12-01T10:00Z"), User_Agent="mine"
    )
    lead = answer.body["id"]
    leads_sandbox.mails.wait(lead=lead)
    leads_sandbox.partner_calls.wait(lead=lead)
    number = leads_sandbox.requests.one()["number"]
    attempt = leads_sandbox.call("GET", f"requests/{number}")
    assert (attempt["method"], attempt["path"]) == ("POST", "/api/v1/website_leads")
    assert ["User-Agent", "mine"] in attempt["headers"] and json.loads(attempt["body"])["token"] == "demo"
    assert (attempt["status"], json.loads(attempt["answer"])) == (201, {"id": lead})
    assert attempt["answer_headers"]["X-Request-Id"] == answer.headers["X-Request-Id"]
    assert attempt["stored"]["slot"] == "2026-12-01T10:00:00.000000Z"
    (mail,) = attempt["mails"]
    assert mail["to"] == ["agent@maple.test"] and mail["subject"] == "New lead: jane@renter.test at The Maple"
    assert "jane@renter.test" in mail["text"] and "<html" in mail["html"]
    assert mail["invitation"].startswith("BEGIN:VCALENDAR") and "Message-ID: " in mail["raw"]
    (call,) = attempt["partner_calls"]
    assert call["body"]["data"]["id"] == lead and call["headers"]["Webhook-Signature"].startswith("v1,")


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"x" * 70_000, {}, 413),
        (json.dumps(LEAD).encode(), {"Origin": "http://elsewhere.test"}, 403),
    ],
)
def test_what_is_refused_is_shown_too(
    leads_sandbox: Sandbox, body: bytes, headers: dict[str, str], status: int
) -> None:
    assert leads_sandbox.post(body, **headers).status == status
    attempt = leads_sandbox.requests.one(status=status)
    assert attempt["body_bytes"] == len(body) and attempt["body"].startswith(body[:10].decode())
    assert attempt["lead_id"] is None and "error" in json.loads(attempt["answer"])


def test_other_paths_and_methods_are_shown_too(leads_sandbox: Sandbox) -> None:
    connection = http.client.HTTPConnection(urlsplit(leads_sandbox.url).netloc)
    connection.request("GET", "/api/v2/leads")
    assert connection.getresponse().read()
    connection.close()
    attempt = leads_sandbox.requests.one()
    assert (attempt["method"], attempt["path"], attempt["status"]) == ("GET", "/api/v2/leads", 404)


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ({"tour_request": LEAD["tour_request"]}, "no-token", "nobody's"),
        ({**LEAD, "token": "demon"}, "unknown-token", "'demon' belongs to no building"),
        (
            {"address_line_one": "12 Maple Street", "tour_request": LEAD["tour_request"]},
            "no-token",
            "matched with building 1 by its address_line_one",
        ),
        (
            {"unified_address_id": "maple-12", "tour_request": LEAD["tour_request"]},
            "no-token",
            "by its unified_address_id",
        ),
        (tour(sms_consent=True), "consent-not-given", "sms_consent is true, so no consent"),
        (tour(sms_consent="yes"), "consent-not-given", 'sms_consent is "yes"'),
        ({**LEAD, "requestor_name": "Jane"}, "fields-at-top-level", "requestor_name"),
        (tour(requestor_fone="1"), "unknown-fields", "did you mean requestor_phone?"),
        (tour(email="j@renter.test"), "unknown-fields", "did you mean requestor_email?"),
        ({**LEAD, "tokn": "x"}, "unknown-fields", "tokn"),
        (tour(lead_source="zillow"), "server-managed-fields", "lead_source"),
        (tour(slot="2026-12-01T10:00"), "slot-without-offset", "America/New_York"),
        (tour(slot="2026-12-01"), "slot-without-offset", "America/New_York"),
        (
            {"address_line_one": "13 Maple Street", "tour_request": LEAD["tour_request"]},
            "no-token",
            "the address '13 Maple Street' is no building's",
        ),
        (tour(slot="tomorrow"), "refused", "2026-12-01T10:00-05:00"),
        (tour(requestor_email="jane"), "refused", "'jane', which is no e-mail address"),
        (tour(requestor_email=""), "refused", "there is none in tour_request"),
        ({}, "refused", "inside its tour_request"),
        (tour(listing_source="Zillow"), "listing-source-in-another-case", "write it 'zillow'"),
        (tour(listing_source="June Homes"), "listing-source-in-another-case", "write it 'june_homes'"),
    ],
)
def test_the_diagnosis_says_what_is_odd(
    leads_sandbox: Sandbox, body: dict[str, Any], code: str, words: str
) -> None:
    leads_sandbox.post(body)
    diagnosis = leads_sandbox.diagnosis()
    assert words in diagnosis[code], diagnosis


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"sms_consent": "true", "slot": "2026-12-01T10:00-05:00", "listing_source": "zillow"},
        {"sms_consent": "false"},
        {"slot": "2026-12-01t10:00z"},
    ],
)
def test_of_a_lead_as_it_should_be_there_is_nothing_to_say(
    leads_sandbox: Sandbox, fields: dict[str, Any]
) -> None:
    leads_sandbox.post(tour(**fields))
    assert leads_sandbox.diagnosis() == {}


@pytest.mark.parametrize("origin", ["https://maple.example.com", "http://localhost:5173"])
def test_the_diagnosis_of_a_foreign_page_names_what_to_register(leads_sandbox: Sandbox, origin: str) -> None:
    assert leads_sandbox.post(LEAD, Origin=origin).status == 403
    assert leads_sandbox.diagnosis()["origin-not-registered"].endswith(f"--website {origin}")
    leads_sandbox.register(website_url=origin)
    assert leads_sandbox.post(LEAD, Origin=origin).status == 201


def test_the_diagnosis_of_a_page_from_a_file_says_to_serve_it(leads_sandbox: Sandbox) -> None:
    assert leads_sandbox.post(LEAD, Origin="null").status == 403
    assert "web server" in leads_sandbox.diagnosis()["origin-not-registered"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            urlencode({"token": "demo", "requestor_email": "j@renter.test"}).encode(),
            "tour_request[requestor_email]",
        ),
        (json.dumps(LEAD).encode(), "Content-Type: application/json"),
    ],
    ids=["no brackets", "JSON that curl calls a form"],
)
def test_the_diagnosis_of_a_form_says_how_one_is_sent(
    leads_sandbox: Sandbox, body: bytes, words: str
) -> None:
    assert leads_sandbox.post(body, Content_Type=FORM).status == 400
    assert words in leads_sandbox.diagnosis()["form-without-brackets"]


def test_what_is_said_is_said_of_the_last_attempt(leads_sandbox: Sandbox) -> None:
    for number in range(20):
        leads_sandbox.post(tour(requestor_email=f"{number}@renter.test"))
        assert leads_sandbox.diagnosis() == {}
        leads_sandbox.post({**LEAD, "token": f"wrong-{number}"})
        assert f"wrong-{number}" in leads_sandbox.diagnosis()["unknown-token"]


def test_a_body_that_goes_on_and_on_is_one_attempt(leads_sandbox: Sandbox) -> None:
    connection = http.client.HTTPConnection(urlsplit(leads_sandbox.url).netloc)
    with suppress(OSError, http.client.HTTPException):
        connection.request("POST", "/api/v1/website_leads", b"x" * 3_000_000)
        connection.getresponse().read()
    connection.close()
    leads_sandbox.post(LEAD)
    assert [a["status"] for a in leads_sandbox.requests.wait(2)] == [413, 201]


def test_an_origin_is_known_as_soon_as_it_is_registered_and_no_longer_than_to_the_reset(
    leads_sandbox: Sandbox,
) -> None:
    leads_sandbox.clock.freeze()
    assert leads_sandbox.post(LEAD, Origin="http://a.test").status == 403
    leads_sandbox.register(website_url="http://a.test")
    assert leads_sandbox.post(LEAD, Origin="http://a.test").status == 201
    leads_sandbox.reset()
    assert leads_sandbox.post(LEAD, Origin="http://a.test").status == 403


def test_a_form_that_is_led_on_leads_the_plugin_nowhere(leads_sandbox: Sandbox) -> None:
    form = {
        "token": "demo",
        "tour_request[requestor_email]": "j@renter.test",
        "return_to": "http://localhost:3000/",
    }
    headers = {"Accept": "text/html", "Origin": "http://localhost:3000"}
    answer = leads_sandbox.post(urlencode(form).encode(), Content_Type=FORM, **headers)
    assert (answer.status, answer.headers["Location"]) == (303, "http://localhost:3000/")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example:8080", 403),
        ("evil.example", 403),
        ("localhost:1", 200),
        ("leads.localhost", 200),
        ("leads:8080", 200),
        ("[::1]:80", 200),
        ("10.0.0.7:80", 200),
    ],
)
def test_the_sandbox_is_not_to_be_reached_by_a_name_that_anybody_could_have(
    leads_sandbox: Sandbox, host: str, status: int
) -> None:
    connection = http.client.HTTPConnection(urlsplit(leads_sandbox.url).netloc)
    for path in ("/sandbox/api/mails", "/sandbox/api"):
        connection.request("GET", path, headers={"Host": host})
        response = connection.getresponse()
        assert response.status == status and response.read()
    connection.close()


def test_the_same_twice_within_ten_seconds_is_remarked(leads_sandbox: Sandbox) -> None:
    first = leads_sandbox.lead()
    leads_sandbox.requests.wait(1)
    leads_sandbox.lead()
    (_, second) = leads_sandbox.requests.wait(2)
    assert (
        f"lead {first}" in second["diagnosis"][0]["says"] and second["diagnosis"][0]["code"] == "posted-twice"
    )
    leads_sandbox.clock.advance(11)
    leads_sandbox.lead()
    assert leads_sandbox.requests.wait(3)[2]["diagnosis"] == []


def test_a_retry_with_a_key_is_told_from_a_second_lead(leads_sandbox: Sandbox) -> None:
    first = leads_sandbox.post(LEAD, Idempotency_Key="k")
    assert leads_sandbox.post(LEAD, Idempotency_Key="k").body == first.body
    assert list({f["code"] for f in leads_sandbox.requests.wait(2)[1]["diagnosis"]}) == ["key-used-again"]


def test_the_next_calls_fail_as_they_are_told_to(leads_sandbox: Sandbox) -> None:
    leads_sandbox.faults.next("api", 429, times=2, seconds=7)
    for _ in range(2):
        answer = leads_sandbox.post(LEAD, Origin="http://localhost:3000")
        assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
        assert answer.body == {
            "error": {"message": "throttled", "human_message": "Too many requests. Please try again later."}
        }
        assert answer.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
    assert leads_sandbox.post(LEAD).status == 201


@pytest.mark.parametrize("status", [500, 503])
def test_a_call_that_fails_stores_nothing(leads_sandbox: Sandbox, status: int) -> None:
    leads_sandbox.faults.next("api", status)
    answer = leads_sandbox.post(LEAD)
    assert answer.status == status and isinstance(answer.body["error"], str)
    assert leads_sandbox.leads.all() == []
    assert "a-fault-of-the-sandbox" in leads_sandbox.diagnosis()


def test_a_slow_answer_is_of_a_lead_that_is_stored_already(leads_sandbox: Sandbox) -> None:
    leads_sandbox.faults.next("api", "slow", seconds=60)
    connection = http.client.HTTPConnection(urlsplit(leads_sandbox.url).netloc)
    connection.request(
        "POST", "/api/v1/website_leads", json.dumps(LEAD), {"Content-Type": "application/json"}
    )
    leads_sandbox.leads.wait()
    connection.close()


def test_an_answer_that_is_cut_is_of_a_lead_that_is_stored(leads_sandbox: Sandbox) -> None:
    leads_sandbox.faults.next("api", "cut")
    with pytest.raises(http.client.IncompleteRead):
        leads_sandbox.post(LEAD)
    assert len(leads_sandbox.leads.wait()) == 1


def test_a_client_may_ask_for_a_fault_itself(leads_sandbox: Sandbox) -> None:
    assert leads_sandbox.post(LEAD, Prefer="code=503").status == 503
    assert leads_sandbox.post(LEAD, Prefer="code=429").headers["Retry-After"] == "1"
    answer = leads_sandbox.post(LEAD, Prefer='delay="0.01"')
    assert (answer.status, answer.headers["Preference-Applied"]) == (201, "slow")
    assert leads_sandbox.post(LEAD, Prefer="code=200").status == 400
    assert leads_sandbox.post(LEAD, Prefer="respond-async, wait=10").status == 201


def test_a_page_may_ask_too(leads_sandbox: Sandbox) -> None:
    connection = http.client.HTTPConnection(urlsplit(leads_sandbox.url).netloc)
    connection.request("OPTIONS", "/api/v1/website_leads", headers={"Origin": "http://localhost:3000"})
    assert "Prefer" in (connection.getresponse().getheader("Access-Control-Allow-Headers") or "")
    connection.close()


def test_a_share_of_the_calls_fails_the_same_ones_for_the_same_seed(leads_sandbox: Sandbox) -> None:
    def statuses(seed: int) -> list[int]:
        leads_sandbox.faults.clear()
        leads_sandbox.faults.share("api", 503, 0.5, seed=seed)
        return [leads_sandbox.post(LEAD).status for _ in range(20)]

    first = statuses(1)
    assert first == statuses(1) != statuses(2)
    assert set(first) == {201, 503}


@pytest.mark.parametrize("fault", ["451 4.3.0 later", "cut"])
def test_a_mail_server_that_fails_is_tried_again_when_the_clock_says_so(
    leads_sandbox: Sandbox, fault: str
) -> None:
    leads_sandbox.clock.freeze()
    leads_sandbox.faults.next("smtp", fault)
    lead = leads_sandbox.lead()

    assert leads_sandbox.delivery(lead)["state"] == "pending"
    assert leads_sandbox.mails.all() == []
    leads_sandbox.clock.advance(3600)
    assert leads_sandbox.mails.one()["lead_id"] == lead
    assert leads_sandbox.delivery(lead, attempts=2)["state"] == "delivered"


def test_a_partner_that_fails_is_tried_again_too(leads_sandbox: Sandbox) -> None:
    leads_sandbox.faults.next("partner", 500)
    leads_sandbox.lead(listing_source="june_homes")
    assert leads_sandbox.partner_calls.one()["answered"] == 500
    leads_sandbox.clock.advance(3600)
    assert [call["answered"] for call in leads_sandbox.partner_calls.wait(2)] == [500, 204]


def test_the_limit_goes_by_the_sandboxs_clock(leads_sandbox: Sandbox) -> None:
    leads_sandbox.clock.freeze()
    statuses = [leads_sandbox.post(b"").status for _ in range(301)]
    assert statuses == [400] * 300 + [429]
    assert "Retry-After" in leads_sandbox.diagnosis()["throttled"]
    leads_sandbox.clock.advance(1)
    assert leads_sandbox.post(LEAD).status == 201


def test_a_frozen_clock_stands_and_goes_on_from_there(leads_sandbox: Sandbox) -> None:
    leads_sandbox.clock.freeze()
    stood = leads_sandbox.clock.now()
    assert leads_sandbox.clock.now() == stood
    leads_sandbox.clock.advance(86_400)
    assert leads_sandbox.clock.now()[11:] == stood[11:]
    leads_sandbox.clock.go_on()
    assert leads_sandbox.clock.now() > stood


def test_a_dry_run_checks_and_stores_nothing(leads_sandbox: Sandbox) -> None:
    answer = leads_sandbox.post(tour(slot="2026-12-01T10:00", utm_data="?utm_source=x"), Prefer="dry-run")
    assert (answer.status, answer.headers["Preference-Applied"]) == (200, "dry-run")
    would = answer.body["would_store"]
    assert would["building"]["id"] == 1 and would["slot"] == "2026-12-01T15:00:00.000000Z"
    assert would["utm_data"] == {"utm_source": "x"} and would["nobody_told_because"] is None
    said = {"slot-without-offset", "a-fault-of-the-sandbox"}
    assert {found["code"] for found in answer.body["diagnosis"]} == set(leads_sandbox.diagnosis()) == said
    assert leads_sandbox.post(tour(slot="tomorrow"), Prefer="dry-run").status == 400
    assert leads_sandbox.post({**LEAD, "token": "demon"}, Prefer="dry-run").status == 200
    assert "unknown-token" in {f["code"] for f in leads_sandbox.requests.wait(3)[2]["diagnosis"]}
    assert leads_sandbox.leads.all() == []


def test_waiting_for_what_does_not_come_is_refused(leads_sandbox: Sandbox) -> None:
    with pytest.raises(AssertionError, match="after 0.01 s there are 0 mails, not 2"):
        leads_sandbox.mails.wait(2, seconds=0.01)


def test_a_reset_leaves_nothing(leads_sandbox: Sandbox) -> None:
    first = leads_sandbox.lead(listing_source="june_homes")
    leads_sandbox.mails.wait()
    leads_sandbox.register(token="other")
    leads_sandbox.faults.next("smtp", "slow", seconds=0.05)
    leads_sandbox.lead()
    leads_sandbox.clock.advance(30 * 86_400)
    leads_sandbox.clock.freeze()
    later_than = leads_sandbox.clock.now()
    leads_sandbox.reset()
    assert leads_sandbox.clock.now() < later_than
    state = leads_sandbox.call("GET", "")
    assert state["faults"] == [] and state["clock"]["frozen"] is False
    assert [(b["id"], b["tokens"]) for b in state["buildings"]] == [(1, ["demo"])]
    assert (
        leads_sandbox.requests.all() == leads_sandbox.leads.all() == leads_sandbox.partner_calls.all() == []
    )
    later = leads_sandbox.lead()
    assert later > first, "an id was given out twice"
    assert {mail["lead_id"] for mail in leads_sandbox.mails.wait()} == {later}


@pytest.mark.parametrize(("target", "listing"), [("smtp", "mails"), ("partner", "partner_calls")])
def test_a_reset_ignores_a_slow_message_in_flight(leads_sandbox: Sandbox, target: str, listing: str) -> None:
    leads_sandbox.faults.next(target, "slow", seconds=0.5)
    leads_sandbox.lead(listing_source="june_homes")
    while leads_sandbox.call("GET", "faults")["faults"]:
        time.sleep(0.01)
    leads_sandbox.reset()
    time.sleep(0.6)
    assert leads_sandbox.call("GET", listing)[listing] == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("faults", {"on": "moon", "what": 503}),
        ("faults", {"on": "api", "what": 200}),
        ("faults", {"on": "smtp", "what": "250 OK"}),
        ("faults", {"on": "api", "what": 503, "next": 0}),
        ("faults", {"on": "api", "what": 503, "share": 2}),
        ("faults", {"on": "api", "what": 503, "next": 1, "share": 0.5}),
        ("faults", {"on": "api", "what": 503, "often": 1}),
        ("faults", {"seed": [1]}),
        ("clock", {"advance": -1}),
        ("clock", {"back": 1}),
        ("buildings", {"name": "x", "colour": "red"}),
        ("buildings", {"name": ""}),
        ("buildings", {"name": "x", "token": "demo"}),
    ],
)
def test_what_the_sandbox_cannot_do_it_says_in_a_line(
    leads_sandbox: Sandbox, path: str, body: dict[str, Any]
) -> None:
    with pytest.raises(AssertionError) as caught:
        leads_sandbox.call("POST", path, body)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 200


def test_a_website_cannot_reach_into_the_sandbox(leads_sandbox: Sandbox) -> None:
    connection = http.client.HTTPConnection(urlsplit(leads_sandbox.url).netloc)
    for origin, status in (("http://elsewhere.test", 403), (leads_sandbox.url, 200)):
        connection.request("POST", "/sandbox/api/reset", "{}", {"Origin": origin})
        response = connection.getresponse()
        assert response.status == status and response.read()
    connection.close()


async def test_a_server_that_serves_has_nothing_of_it(harness: ServerHarness) -> None:
    pages = ("/sandbox", "/sandbox/api", "/sandbox/api/leads", "/sandbox/mails/1.html")
    for path in (*pages, "/sandbox/static/sandbox.js", "/static/sandbox/sandbox.js"):
        assert (await harness.request("GET", path)).code == 404
    response = await harness.post({**LEAD, "token": "maple"}, Prefer="code=503")
    assert response.code == 201 and "Preference-Applied" not in response.headers
    response = await harness.request("OPTIONS", "/api/v1/website_leads", Origin="https://maple.test")
    assert "Prefer" not in response.headers["Access-Control-Allow-Headers"]
