"""The sandbox: recorded requests and messages, diagnoses, faults, clock, dry runs and reset."""

import http.client
import json
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from command_line import NOW, Commands
from conftest import LEADS, ServerHarness
from leads_sandbox import Sandbox

from handlers.sandbox.diagnosis import diagnose, read_facts
from handlers.sandbox.request_log import RecordedRequest

pytestmark = pytest.mark.sqlite("a sandbox always has a file of its own")

LEAD = {"token": "demo", "tour_request": {"requestor_email": "jane@renter.test"}}
FORM = "application/x-www-form-urlencoded"


def tour(**fields: Any) -> dict[str, Any]:
    return {"token": "demo", "tour_request": {"requestor_email": "jane@renter.test", **fields}}


def test_request_detail_shows_stored_lead_mails_and_partner_calls(leads_sandbox: Sandbox) -> None:
    answer = leads_sandbox.post(
        tour(listing_source="june_homes", slot="2026-12-01T10:00Z"), User_Agent="mine"
    )
    lead = answer.body["id"]
    leads_sandbox.mails.wait(lead=lead)
    leads_sandbox.partner_calls.wait(lead=lead)
    number = leads_sandbox.requests.one()["number"]
    request = leads_sandbox.call("GET", f"requests/{number}")
    assert (request["method"], request["path"]) == ("POST", "/api/v1/website_leads")
    assert ["User-Agent", "mine"] in request["headers"] and json.loads(request["body"])["token"] == "demo"
    assert (request["status"], json.loads(request["answer"])) == (201, {"id": lead})
    assert request["answer_headers"]["X-Request-Id"] == answer.headers["X-Request-Id"]
    assert request["stored"]["slot"] == "2026-12-01T10:00:00.000000Z"
    (mail,) = request["mails"]
    assert mail["to"] == ["agent@maple.test"] and mail["subject"] == "New lead: jane@renter.test at The Maple"
    assert "jane@renter.test" in mail["text"] and "<html" in mail["html"]
    assert mail["invitation"].startswith("BEGIN:VCALENDAR") and "Message-ID: " in mail["raw"]
    (call,) = request["partner_calls"]
    assert call["body"]["data"]["id"] == lead and call["headers"]["Webhook-Signature"].startswith("v1,")


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"x" * 70_000, {}, 413),
        (json.dumps(LEAD).encode(), {"Origin": "http://elsewhere.test"}, 403),
    ],
)
def test_refused_requests_are_recorded(
    leads_sandbox: Sandbox, body: bytes, headers: dict[str, str], status: int
) -> None:
    assert leads_sandbox.post(body, **headers).status == status
    request = leads_sandbox.requests.one(status=status)
    assert request["body_bytes"] == len(body) and request["body"].startswith(body[:10].decode())
    assert request["lead_id"] is None and "error" in json.loads(request["answer"])


def test_requests_to_unknown_api_paths_are_recorded(leads_sandbox: Sandbox) -> None:
    connection = http.client.HTTPConnection(urlsplit(leads_sandbox.url).netloc)
    connection.request("GET", "/api/v2/leads")
    assert connection.getresponse().read()
    connection.close()
    request = leads_sandbox.requests.one()
    assert (request["method"], request["path"], request["status"]) == ("GET", "/api/v2/leads", 404)


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
        (tour(slot="2099-12-01T10:00"), "slot-without-offset", "America/New_York"),
        (tour(slot="2099-12-01"), "slot-is-a-date", "America/New_York"),
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
        (tour(homepage="https://pills.test"), "looks-like-spam", "so its mail is marked: the field that"),
    ],
)
def test_diagnosis_names_the_mistake(
    leads_sandbox: Sandbox, body: dict[str, Any], code: str, words: str
) -> None:
    leads_sandbox.post(body)
    diagnosis = leads_sandbox.diagnosis()
    assert words in diagnosis[code], diagnosis


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("token=demo", "token"),
        ("utm_source=x&token=&unified_address_id=maple-12", "unified_address_id"),
        ("address_line_one=12+Maple+Street&token=demo", "address_line_one, token"),
    ],
)
def test_diagnosis_of_keys_in_the_url_advises_the_body(
    leads_sandbox: Sandbox, query: str, names: str
) -> None:
    leads_sandbox.leads_url += f"?{query}"
    leads_sandbox.post(LEAD)
    assert leads_sandbox.diagnosis()["token-in-the-url"].startswith(f"The URL has {names} in it. Put it into")
    leads_sandbox.leads_url = leads_sandbox.leads_url.partition("?")[0] + "?utm_source=x&tokens=1"
    leads_sandbox.post(tour(message="another"))
    assert leads_sandbox.diagnosis() == {}


@pytest.mark.parametrize("key", ["undefined", "null", " null "])
def test_diagnosis_of_a_key_that_is_no_key_suggests_one(leads_sandbox: Sandbox, key: str) -> None:
    leads_sandbox.post(LEAD, Idempotency_Key=key)
    says = leads_sandbox.diagnosis()["key-is-no-key"]
    assert says.startswith(f"The header Idempotency-Key is the word {key.strip()}, which is no key")
    leads_sandbox.post({**tour(message="x"), "idempotency_key": key})
    assert leads_sandbox.diagnosis()["key-is-no-key"].startswith("The field idempotency_key is the word")
    leads_sandbox.post(tour(message="y"), Idempotency_Key="nullable")
    assert leads_sandbox.diagnosis() == {}


def diagnosis_of_stored(commands: Commands, **lead: Any) -> dict[str, str]:
    """Return the diagnosis of a form that created this lead."""
    (lead_id,) = commands.leads(lead)
    request = RecordedRequest(1, NOW, "request", "POST", LEADS, [], status=201, lead_id=lead_id)
    with commands.database():
        return {found["code"]: found["says"] for found in diagnose(request, read_facts(request))}


def test_C27_diagnosis_of_a_form_elsewhere_names_the_step(commands: Commands) -> None:
    says = diagnosis_of_stored(commands, unregistered_origin="https://www.maple.test")[
        "form-origin-not-registered"
    ]
    assert says.startswith(
        "The lead was taken, although no building has the origin of its form's page, https://"
    )
    assert "Building 1 (Maple Court) has no website; " in says and "return_to may not lead there" in says
    assert 'POST /sandbox/api/buildings/1/websites {"url": "https://www.maple.test"}' in says
    assert says.endswith("building update ID --add-website https://www.maple.test")
    says = diagnosis_of_stored(commands, unregistered_origin="https://oak.test", token="oak")[
        "form-origin-not-registered"
    ]
    assert '"website_urls": ["https://oak.test"]' in says


@pytest.mark.parametrize("origin", ["null", "file://", "chrome-extension://abc"])
def test_C27_diagnosis_of_a_hidden_origin_needs_no_step(commands: Commands, origin: str) -> None:
    says = diagnosis_of_stored(commands, unregistered_origin=origin)["form-origin-not-registered"]
    assert f"hides its origin ({origin}): by its referrer policy" in says and "--add-website" not in says
    assert "can't be registered. Outside a frame nothing needs to be done" in says


def test_C27_diagnosis_of_an_unattended_form_says_what_is_held(commands: Commands) -> None:
    found = diagnosis_of_stored(commands, unregistered_origin="https://elsewhere.test", is_unattended=True)
    assert list(found)[:2] == ["form-origin-not-registered", "form-unattended"]
    assert "nobody-is-told" not in found and "looks-like-spam" not in found
    assert "deliveries are quarantined and no consent is recorded" in found["form-unattended"]
    assert "form-unattended" not in diagnosis_of_stored(commands)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"sms_consent": "true", "slot": "2099-12-01T10:00-05:00", "listing_source": "zillow"},
        {"sms_consent": "false"},
        {"slot": "2099-12-01t10:00z"},
    ],
)
def test_diagnosis_of_a_correct_lead_is_empty(leads_sandbox: Sandbox, fields: dict[str, Any]) -> None:
    leads_sandbox.post(tour(**fields))
    assert leads_sandbox.diagnosis() == {}


@pytest.mark.parametrize("origin", ["https://maple.example.com", "http://localhost:5173"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (LEADS, LEAD),
        (LEADS, {**LEAD, "token": None, "address_line_one": "12 Maple Street"}),
        (f"{LEADS}?token=demo", {**LEAD, "token": " "}),
    ],
)
def test_diagnosis_of_unregistered_origin_names_the_building_and_the_step(
    leads_sandbox: Sandbox, path: str, body: dict[str, Any], origin: str
) -> None:
    leads_sandbox.leads_url = leads_sandbox.url + path
    assert leads_sandbox.post(body, Origin=origin).status == 403
    says = leads_sandbox.diagnosis()["origin-not-registered"]
    assert f"This page's origin is {origin}. Building 1 (The Maple) has http://localhost:3000; " in says
    assert f'POST /sandbox/api/buildings/1/websites {{"url": "{origin}"}}' in says
    assert says.endswith(f"building update ID --add-website {origin}")
    building = leads_sandbox.add_website(origin)
    assert building["website_urls"] == ["http://localhost:3000", origin]
    for each in building["website_urls"]:
        assert leads_sandbox.post(LEAD, Origin=each).status == 201


def test_diagnosis_of_unregistered_origin_without_a_building_registers_one(leads_sandbox: Sandbox) -> None:
    assert leads_sandbox.post({**LEAD, "token": "oak"}, Origin="http://oak.test").status == 403
    says = leads_sandbox.diagnosis()["origin-not-registered"]
    assert 'POST /sandbox/api/buildings {"name": "…", "website_urls": ["http://oak.test"]}' in says
    leads_sandbox.register(token="oak", website_urls=["http://oak.test", "http://www.oak.test"])
    for origin in ("http://oak.test", "http://www.oak.test", "http://localhost:3000"):
        assert leads_sandbox.post({**LEAD, "token": "oak"}, Origin=origin).status == 201


def test_a_building_is_registered_with_one_website_or_several(leads_sandbox: Sandbox) -> None:
    one = leads_sandbox.register(website_url="http://a.test")
    assert (one["website_url"], one["website_urls"]) == ("http://a.test", ["http://a.test"])
    several = leads_sandbox.register(
        website_urls=["http://a.test", "http://b.test"], website_url="http://A.test/"
    )
    assert (several["website_url"], several["website_urls"]) == (
        "http://a.test",
        ["http://a.test", "http://b.test"],
    )
    again = leads_sandbox.add_website("http://b.test/contact", building=several["id"])
    assert again == several
    assert leads_sandbox.call("GET", "buildings")["buildings"][1:] == [one, several]
    leads_sandbox.reset()
    assert leads_sandbox.call("GET", "buildings")["buildings"][0]["website_urls"] == ["http://localhost:3000"]


def test_diagnosis_of_a_null_origin_suggests_a_web_server(leads_sandbox: Sandbox) -> None:
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
    ids=["no brackets", "JSON with the type of a form"],
)
def test_diagnosis_of_a_wrong_form_shows_the_right_encoding(
    leads_sandbox: Sandbox, body: bytes, words: str
) -> None:
    assert leads_sandbox.post(body, Content_Type=FORM).status == 400
    assert words in leads_sandbox.diagnosis()["form-without-brackets"]


def test_latest_diagnosis_belongs_to_the_latest_request(leads_sandbox: Sandbox) -> None:
    for number in range(20):
        leads_sandbox.post(tour(requestor_email=f"{number}@renter.test"))
        assert leads_sandbox.diagnosis() == {}
        leads_sandbox.post({**LEAD, "token": f"wrong-{number}"})
        assert f"wrong-{number}" in leads_sandbox.diagnosis()["unknown-token"]


def test_oversized_body_is_recorded_as_one_request(leads_sandbox: Sandbox) -> None:
    connection = http.client.HTTPConnection(urlsplit(leads_sandbox.url).netloc)
    with suppress(OSError, http.client.HTTPException):
        connection.request("POST", "/api/v1/website_leads", b"x" * 3_000_000)
        connection.getresponse().read()
    connection.close()
    leads_sandbox.post(LEAD)
    assert [r["status"] for r in leads_sandbox.requests.wait(2)] == [413, 201]


def test_registered_origin_is_allowed_at_once_until_the_reset(
    leads_sandbox: Sandbox,
) -> None:
    leads_sandbox.clock.freeze()
    assert leads_sandbox.post(LEAD, Origin="http://a.test").status == 403
    leads_sandbox.register(website_url="http://a.test")
    assert leads_sandbox.post(LEAD, Origin="http://a.test").status == 201
    leads_sandbox.reset()
    assert leads_sandbox.post(LEAD, Origin="http://a.test").status == 403


def test_plugin_does_not_follow_the_redirect_of_a_form(leads_sandbox: Sandbox) -> None:
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
def test_sandbox_api_refuses_public_host_names(leads_sandbox: Sandbox, host: str, status: int) -> None:
    connection = http.client.HTTPConnection(urlsplit(leads_sandbox.url).netloc)
    for path in ("/sandbox/api/mails", "/sandbox/api"):
        connection.request("GET", path, headers={"Host": host})
        response = connection.getresponse()
        assert response.status == status and response.read()
    connection.close()


def test_same_body_within_ten_seconds_is_diagnosed(leads_sandbox: Sandbox) -> None:
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


def test_retry_with_an_idempotency_key_is_diagnosed_as_a_replay(leads_sandbox: Sandbox) -> None:
    first = leads_sandbox.post(LEAD, Idempotency_Key="k")
    assert leads_sandbox.post(LEAD, Idempotency_Key="k").body == first.body
    assert list({f["code"] for f in leads_sandbox.requests.wait(2)[1]["diagnosis"]}) == ["key-used-again"]


def test_api_fault_affects_the_next_calls_only(leads_sandbox: Sandbox) -> None:
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
def test_injected_5xx_stores_no_lead(leads_sandbox: Sandbox, status: int) -> None:
    leads_sandbox.faults.next("api", status)
    answer = leads_sandbox.post(LEAD)
    assert answer.status == status and isinstance(answer.body["error"], str)
    assert leads_sandbox.leads.all() == []
    assert "a-fault-of-the-sandbox" in leads_sandbox.diagnosis()


def test_lead_is_stored_before_a_slow_response(leads_sandbox: Sandbox) -> None:
    leads_sandbox.faults.next("api", "slow", seconds=60)
    connection = http.client.HTTPConnection(urlsplit(leads_sandbox.url).netloc)
    connection.request(
        "POST", "/api/v1/website_leads", json.dumps(LEAD), {"Content-Type": "application/json"}
    )
    leads_sandbox.leads.wait()
    connection.close()


def test_lead_is_stored_before_a_cut_response(leads_sandbox: Sandbox) -> None:
    leads_sandbox.faults.next("api", "cut")
    with pytest.raises(http.client.IncompleteRead):
        leads_sandbox.post(LEAD)
    assert len(leads_sandbox.leads.wait()) == 1


def test_prefer_header_requests_a_fault(leads_sandbox: Sandbox) -> None:
    assert leads_sandbox.post(LEAD, Prefer="code=503").status == 503
    assert leads_sandbox.post(LEAD, Prefer="code=429").headers["Retry-After"] == "1"
    answer = leads_sandbox.post(LEAD, Prefer='delay="0.01"')
    assert (answer.status, answer.headers["Preference-Applied"]) == (201, "slow")
    assert leads_sandbox.post(LEAD, Prefer="code=200").status == 400
    assert leads_sandbox.post(LEAD, Prefer="respond-async, wait=10").status == 201


def test_preflight_allows_the_prefer_header(leads_sandbox: Sandbox) -> None:
    connection = http.client.HTTPConnection(urlsplit(leads_sandbox.url).netloc)
    connection.request("OPTIONS", "/api/v1/website_leads", headers={"Origin": "http://localhost:3000"})
    assert "Prefer" in (connection.getresponse().getheader("Access-Control-Allow-Headers") or "")
    connection.close()


def test_fault_with_a_share_repeats_by_its_seed(leads_sandbox: Sandbox) -> None:
    def statuses(seed: int) -> list[int]:
        leads_sandbox.faults.clear()
        leads_sandbox.faults.share("api", 503, 0.5, seed=seed)
        return [leads_sandbox.post(LEAD).status for _ in range(20)]

    first = statuses(1)
    assert first == statuses(1) != statuses(2)
    assert set(first) == {201, 503}


@pytest.mark.parametrize("fault", ["451 4.3.0 later", "cut"])
def test_failed_mail_is_retried_by_the_sandbox_clock(leads_sandbox: Sandbox, fault: str) -> None:
    leads_sandbox.clock.freeze()
    leads_sandbox.faults.next("smtp", fault)
    lead = leads_sandbox.lead()

    assert leads_sandbox.delivery(lead)["state"] == "pending"
    assert leads_sandbox.mails.all() == []
    leads_sandbox.clock.advance(3600)
    assert leads_sandbox.mails.one()["lead_id"] == lead
    assert leads_sandbox.delivery(lead, attempts=2)["state"] == "delivered"


def test_failed_partner_call_is_retried_by_the_sandbox_clock(leads_sandbox: Sandbox) -> None:
    leads_sandbox.faults.next("partner", 500)
    leads_sandbox.lead(listing_source="june_homes")
    assert leads_sandbox.partner_calls.one()["answered"] == 500
    leads_sandbox.clock.advance(3600)
    assert [call["answered"] for call in leads_sandbox.partner_calls.wait(2)] == [500, 204]


def test_rate_limit_refills_by_the_sandbox_clock(leads_sandbox: Sandbox) -> None:
    leads_sandbox.clock.freeze()
    statuses = [leads_sandbox.post(b"").status for _ in range(301)]
    assert statuses == [400] * 300 + [429]
    assert "Retry-After" in leads_sandbox.diagnosis()["throttled"]
    leads_sandbox.clock.advance(1)
    assert leads_sandbox.post(LEAD).status == 201


def test_thawed_clock_continues_from_the_frozen_time(leads_sandbox: Sandbox) -> None:
    leads_sandbox.clock.freeze()
    frozen_at = leads_sandbox.clock.now()
    assert leads_sandbox.clock.now() == frozen_at
    leads_sandbox.clock.advance(86_400)
    assert leads_sandbox.clock.now()[11:] == frozen_at[11:]
    leads_sandbox.clock.go_on()
    assert leads_sandbox.clock.now() > frozen_at


def test_dry_run_returns_a_preview_and_stores_nothing(leads_sandbox: Sandbox) -> None:
    answer = leads_sandbox.post(tour(slot="2099-12-01T10:00", utm_data="?utm_source=x"), Prefer="dry-run")
    assert (answer.status, answer.headers["Preference-Applied"]) == (200, "dry-run")
    preview = answer.body["would_store"]
    assert preview["building"]["id"] == 1 and preview["slot"] == "2099-12-01T15:00:00.000000Z"
    assert preview["utm_data"] == {"utm_source": "x"} and preview["nobody_told_because"] is None
    codes = {"slot-without-offset", "a-fault-of-the-sandbox"}
    assert {found["code"] for found in answer.body["diagnosis"]} == set(leads_sandbox.diagnosis()) == codes
    assert leads_sandbox.post(tour(slot="tomorrow"), Prefer="dry-run").status == 400
    assert leads_sandbox.post({**LEAD, "token": "demon"}, Prefer="dry-run").status == 200
    assert "unknown-token" in {f["code"] for f in leads_sandbox.requests.wait(3)[2]["diagnosis"]}
    assert leads_sandbox.leads.all() == []


def test_wait_that_times_out_is_an_error_with_counts(leads_sandbox: Sandbox) -> None:
    with pytest.raises(AssertionError, match="after 0.01 s there are 0 mails, not 2"):
        leads_sandbox.mails.wait(2, seconds=0.01)


def test_reset_deletes_everything_but_the_demo_building(leads_sandbox: Sandbox) -> None:
    first = leads_sandbox.lead(listing_source="june_homes")
    leads_sandbox.mails.wait()
    leads_sandbox.register(token="other")
    leads_sandbox.faults.next("smtp", "slow", seconds=0.05)
    leads_sandbox.lead()
    leads_sandbox.clock.advance(30 * 86_400)
    leads_sandbox.clock.freeze()
    before = leads_sandbox.clock.now()
    leads_sandbox.reset()
    assert leads_sandbox.clock.now() < before
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
def test_reset_ignores_a_delayed_message_in_flight(leads_sandbox: Sandbox, target: str, listing: str) -> None:
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
        ("buildings", {"name": "x", "website_urls": "http://a.test"}),
        ("buildings", {"name": "x", "website_urls": [1]}),
        ("buildings", {"name": "x", "website_urls": ["a.test"]}),
        ("buildings/1/websites", {}),
        ("buildings/1/websites", {"url": " "}),
        ("buildings/1/websites", {"url": "null"}),
        ("buildings/1/websites", {"url": ["http://a.test"]}),
        ("buildings/1/websites", {"url": "http://a.test", "name": "x"}),
        ("buildings/0/websites", {"url": "http://a.test"}),
    ],
)
def test_invalid_control_request_is_refused_in_one_line(
    leads_sandbox: Sandbox, path: str, body: dict[str, Any]
) -> None:
    with pytest.raises(AssertionError) as caught:
        leads_sandbox.call("POST", path, body)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 200


def test_sandbox_api_refuses_other_origins(leads_sandbox: Sandbox) -> None:
    connection = http.client.HTTPConnection(urlsplit(leads_sandbox.url).netloc)
    for origin, status in (("http://elsewhere.test", 403), (leads_sandbox.url, 200)):
        connection.request("POST", "/sandbox/api/reset", "{}", {"Origin": origin})
        response = connection.getresponse()
        assert response.status == status and response.read()
    connection.close()


async def test_production_server_has_no_sandbox_routes_or_faults(harness: ServerHarness) -> None:
    pages = ("/sandbox", "/sandbox/api", "/sandbox/api/leads", "/sandbox/mails/1.html")
    for path in (*pages, "/sandbox/static/sandbox.js", "/static/sandbox/sandbox.js"):
        assert (await harness.request("GET", path)).code == 404
    response = await harness.post({**LEAD, "token": "maple"}, Prefer="code=503")
    assert response.code == 201 and "Preference-Applied" not in response.headers
    response = await harness.request("OPTIONS", "/api/v1/website_leads", Origin="https://maple.test")
    assert "Prefer" not in response.headers["Access-Control-Allow-Headers"]


@pytest.mark.parametrize(
    ("field", "value", "hint"),
    [
        ("slot", "12/01/2026", "Write it like 2026-12-01T10:00"),
        ("requestor_email", "jane", "which is no e-mail address"),
        ("listing_source", "craigslist", "june_homes, streeteasy, nooklyn, zillow"),
    ],
)
def test_diagnosis_explains_the_refusal_of_a_plain_form(
    leads_sandbox: Sandbox, field: str, value: str, hint: str
) -> None:
    fields = {"token": "demo", "tour_request[requestor_email]": "a@b.test", f"tour_request[{field}]": value}
    answer = leads_sandbox.post(
        urlencode(fields).encode(),
        Content_Type="application/x-www-form-urlencoded",
        Accept="text/html",
        Origin="http://localhost:3000",
    )
    assert answer.status == 400 and answer.body.startswith("<!doctype html>")
    assert hint in leads_sandbox.diagnosis()["refused"]
