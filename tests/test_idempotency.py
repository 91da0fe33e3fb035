"""Idempotency-Key: a retry returns the first answer, and creates no second lead (C20)."""

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import databases
import pytest
from conftest import LEADS, ServerHarness, StartHarness, SteppedClock, held, queued
from tornado.httpclient import HTTPResponse

from models import intake
from models.customer import Customer
from models.deal import Deal
from models.idempotency import IdempotencyKey
from models.lead import Lead
from models.outbox.delivery import Delivery
from models.storage import submit_and_wait

KEY = "8e03978e-40d5-43dd-bc93-6894a57f9324"
HOUR = 3_600
RENTER = {"requestor_email": "jane@renter.test", "requestor_name": "Zoë Doe", "message": "Two\nlines"}
LEAD = {"token": "maple", "tour_request": RENTER}
OTHER = {"token": "maple", "tour_request": {**RENTER, "message": "Three lines"}}


def id_of(response: HTTPResponse) -> int:
    assert response.code == 201, response.body
    return int(json.loads(response.body)["id"])


async def counted(harness: ServerHarness, *tables: Any) -> list[int]:
    """Return how many rows each table has."""
    return await harness.server.storage.read(lambda: [table.select().count() for table in tables])


async def start_without_deliveries(start_harness: StartHarness, **options: str) -> ServerHarness:
    """Start a harness without destinations, so that the writer's queue holds only leads."""
    harness = await start_harness(
        **{"rate_limit": "100000/1", "smtp_url": "", "june_homes_url": "", **options}
    )
    await harness.building(websites=["https://maple.test"])
    return harness


async def in_one_batch(
    harness: ServerHarness, *posts: Coroutine[Any, Any, HTTPResponse]
) -> list[HTTPResponse]:
    """Send the requests while the writer waits, so that one transaction takes all of them."""
    async with held(harness):
        sent = [asyncio.ensure_future(post) for post in posts]
        await queued(harness, len(sent))
    return [await response for response in sent]


async def test_C20_retry_gets_the_first_answer_and_creates_nothing(
    harness: ServerHarness,
) -> None:
    lead = {"token": "maple", "tour_request": {**RENTER, "listing_source": "june_homes"}}
    first = await harness.post(lead, Idempotency_Key=KEY)
    await harness.settled()
    again = await harness.post(lead, Idempotency_Key=KEY)
    assert (first.code, again.code) == (201, 201)
    assert first.body == again.body == b'{"id": 1}'
    assert first.headers["X-Request-Id"] != again.headers["X-Request-Id"]
    await harness.settled()
    assert await counted(harness, Lead, Deal, Customer, Delivery) == [1, 1, 1, 2]
    assert len(harness.mail.mails) == 1
    assert len(harness.partner.calls) == 1
    assert await harness.lead(token="maple") == 2  # and the retry used no id


async def test_C20_without_key_every_call_creates_a_lead(harness: ServerHarness) -> None:
    assert [id_of(await harness.post(LEAD)) for _ in range(3)] == [1, 2, 3]
    assert id_of(await harness.post(LEAD, Idempotency_Key=KEY)) == 4
    assert id_of(await harness.post(LEAD)) == 5
    assert id_of(await harness.post(LEAD, Idempotency_Key=KEY)) == 4


@pytest.mark.parametrize("blank", ["", " ", "\t "])
async def test_C20_blank_key_counts_as_none(harness: ServerHarness, blank: str) -> None:
    assert [id_of(await harness.post(LEAD, Idempotency_Key=blank)) for _ in range(2)] == [1, 2]
    assert await counted(harness, IdempotencyKey) == [0]


async def test_C20_key_ignores_outer_white_space_but_not_case(harness: ServerHarness) -> None:
    keys = ["Key", "  Key ", "key", "Kéy", "K y"]
    assert [id_of(await harness.post(LEAD, Idempotency_Key=key)) for key in keys] == [1, 1, 2, 3, 4]


async def test_C20_key_over_255_characters_is_400(harness: ServerHarness) -> None:
    for _ in range(2):
        assert id_of(await harness.post(LEAD, Idempotency_Key="k" * 255)) == 1
    rejected = await harness.post(LEAD, Idempotency_Key="k" * 256, Origin="https://maple.test")
    message = "Idempotency-Key is too long (maximum is 255 characters)"
    assert (rejected.code, json.loads(rejected.body)) == (400, {"error": message})
    assert rejected.headers["Access-Control-Allow-Origin"] == "https://maple.test"
    assert len(await harness.leads()) == 1


def reversed_keys(value: Any) -> Any:
    """Return the same value with its keys in reverse order."""
    if not isinstance(value, dict):
        return value
    return {name: reversed_keys(value[name]) for name in reversed(value)}


async def test_C20_json_formatting_and_order_do_not_change_the_body(harness: ServerHarness) -> None:
    bodies = [
        json.dumps(LEAD),
        json.dumps(reversed_keys(LEAD)),
        json.dumps(LEAD, indent=4, ensure_ascii=False) + "\r\n",
        json.dumps(LEAD, separators=(",", ":")),
        "\ufeff" + json.dumps(LEAD),
    ]
    assert len(set(bodies)) == len(bodies)
    answers = [await harness.request("POST", LEADS, body, Idempotency_Key=KEY) for body in bodies]
    assert [id_of(answer) for answer in answers] == [1] * len(bodies)


async def test_C20_form_boundary_and_order_do_not_change_the_body(harness: ServerHarness) -> None:
    fields = {"token": "maple", **{f"tour_request[{name}]": value for name, value in RENTER.items()}}
    sent = [("----one", fields), ("----two", fields), ("----three", reversed_keys(fields))]
    for boundary, values in sent:
        parts = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in values.items()
        )
        answer = await harness.request(
            "POST",
            LEADS,
            f"{parts}--{boundary}--\r\n".encode(),
            Content_Type=f"multipart/form-data; boundary={boundary}",
            Idempotency_Key=KEY,
        )
        assert id_of(answer) == 1


@pytest.mark.parametrize(
    "other",
    [
        OTHER,
        {"token": "maple", "tour_request": {**RENTER, "requestor_name": None}},
        {**LEAD, "address_line_one": "12 Maple Street"},
        {
            "address_line_one": "12 Maple Street",
            "tour_request": RENTER,
        },  # the same building, found by its address
    ],
)
async def test_C20_same_key_with_another_body_is_422(harness: ServerHarness, other: dict[str, Any]) -> None:
    assert id_of(await harness.post(LEAD, Idempotency_Key=KEY)) == 1
    rejected = await harness.post(other, Idempotency_Key=KEY, Origin="https://maple.test")
    assert rejected.code == 422
    assert rejected.headers["Content-Type"] == "application/json"
    assert json.loads(rejected.body) == {
        "error": "this Idempotency-Key came with another body before; a new lead takes a new key"
    }
    assert rejected.headers["Access-Control-Allow-Origin"] == "https://maple.test"
    assert "X-Request-Id" in rejected.headers["Access-Control-Expose-Headers"]
    assert await counted(harness, Lead, Deal, Customer, IdempotencyKey) == [1, 1, 1, 1]
    assert (
        id_of(await harness.post(LEAD, Idempotency_Key=KEY)) == 1
    )  # the key still stands for the first lead
    assert id_of(await harness.post(other, Idempotency_Key="a new one")) == 2


async def test_C20_concurrent_duplicates_create_one_lead(harness: ServerHarness) -> None:
    answers = await asyncio.gather(*(harness.post(LEAD, Idempotency_Key=KEY) for _ in range(100)))
    assert {id_of(answer) for answer in answers} == {1}
    await harness.settled()
    assert await counted(harness, Lead, Deal, Customer, Delivery) == [1, 1, 1, 1]
    assert len(harness.mail.mails) == 1


async def test_C20_duplicates_in_one_batch_create_one_lead(
    start_harness: StartHarness,
) -> None:
    harness = await start_without_deliveries(start_harness)
    keys: list[dict[str, str]] = [{"Idempotency_Key": key} if key else {} for key in ("a", "b", "", "a", "b")]
    answers = await in_one_batch(harness, *(harness.post(LEAD, **keys[n % 5]) for n in range(20)))
    found = [id_of(answer) for answer in answers]
    of_a, of_b = ({i for n, i in enumerate(found) if keys[n % 5] == {"Idempotency_Key": k}} for k in "ab")
    assert (len(of_a), len(of_b), len(set(found))) == (1, 1, 2 + 4)
    assert await counted(harness, Lead, Deal, IdempotencyKey) == [6, 6, 2]


async def test_C20_same_key_in_one_batch_takes_only_one_body(
    start_harness: StartHarness,
) -> None:
    harness = await start_without_deliveries(start_harness)
    leads = [{**LEAD, "tour_request": {**RENTER, "message": f"body {n}"}} for n in range(10)]
    answers = await in_one_batch(harness, *(harness.post(lead, Idempotency_Key=KEY) for lead in leads))
    codes = [answer.code for answer in answers]
    assert sorted(codes) == [201] + [422] * 9
    [stored] = await harness.leads()
    taken = codes.index(201)
    assert stored["message"] == f"body {taken}"
    assert id_of(await harness.post(leads[taken], Idempotency_Key=KEY)) == stored["id"]


async def test_C20_key_is_scoped_to_its_building(harness: ServerHarness) -> None:
    await harness.building(token="oak", name="The Oak")
    at_oak = {**LEAD, "token": "oak"}
    for _ in range(2):
        assert id_of(await harness.post(LEAD, Idempotency_Key=KEY)) == 1
        assert id_of(await harness.post(at_oak, Idempotency_Key=KEY)) == 2


async def test_C20_key_without_building_is_scoped_to_its_source(start_harness: StartHarness) -> None:
    harness = await start_without_deliveries(start_harness, trusted_proxies="127.0.0.0/8")
    nowhere = {"tour_request": RENTER}
    for expected, source in ((1, "203.0.113.1"), (2, "203.0.113.2"), (1, "203.0.113.1"), (3, "2001:db8::1")):
        assert id_of(await harness.post(nowhere, Idempotency_Key=KEY, X_Forwarded_For=source)) == expected
    # A phone may change its network while it shows a building's page, so its source does not count.
    for source in ("203.0.113.1", "203.0.113.2"):
        assert id_of(await harness.post(LEAD, Idempotency_Key=KEY, X_Forwarded_For=source)) == 4


async def test_C20_key_expires_after_24_hours(harness: ServerHarness, clock: SteppedClock) -> None:
    assert id_of(await harness.post(LEAD, Idempotency_Key=KEY)) == 1
    clock.step(24 * HOUR - 1)
    assert id_of(await harness.post(LEAD, Idempotency_Key=KEY)) == 1
    assert (await harness.post(OTHER, Idempotency_Key=KEY)).code == 422
    clock.step(1)  # a retry does not extend it
    assert id_of(await harness.post(OTHER, Idempotency_Key=KEY)) == 2
    assert (await harness.post(LEAD, Idempotency_Key=KEY)).code == 422
    clock.step(24 * HOUR)
    assert id_of(await harness.post(LEAD, Idempotency_Key="another")) == 3
    assert await counted(harness, IdempotencyKey) == [1]  # the expired row is deleted


async def test_C20_key_survives_a_restart(harness: ServerHarness) -> None:
    assert id_of(await harness.post(LEAD, Idempotency_Key=KEY)) == 1
    await harness.restart(rate_limit="100000/1")
    assert id_of(await harness.post(LEAD, Idempotency_Key=KEY)) == 1
    assert (await harness.post(OTHER, Idempotency_Key=KEY)).code == 422


@pytest.mark.parametrize(
    "rejected",
    [
        {"token": "maple", "tour_request": {"requestor_email": "jane"}},
        {"token": "maple", "tour_request": {**RENTER, "slot": "tomorrow"}},
        {"token": "maple"},
    ],
)
async def test_C20_rejected_first_request_keeps_no_key(
    harness: ServerHarness, rejected: dict[str, Any]
) -> None:
    assert (await harness.post(rejected, Idempotency_Key=KEY)).code == 400
    assert id_of(await harness.post(LEAD, Idempotency_Key=KEY)) == 1


async def test_C20_C32_failed_first_request_keeps_no_key(harness: ServerHarness) -> None:
    lead = {"token": "maple", "tour_request": {**RENTER, "message": "m" * 10_000}}
    await submit_and_wait(harness.server.storage, databases.limit_space, 0)
    assert (await harness.post(lead, Idempotency_Key=KEY)).code == 503
    assert await counted(harness, Lead, IdempotencyKey) == [0, 0]
    await submit_and_wait(harness.server.storage, databases.limit_space, None)
    first = id_of(await harness.post(lead, Idempotency_Key=KEY))  # PostgreSQL uses no id of a failure again
    assert id_of(await harness.post(lead, Idempotency_Key=KEY)) == first
    harness.queue._queue_size = 0
    assert (await harness.post(lead, Idempotency_Key="overloaded")).code == 503
    harness.queue._queue_size = 100
    assert id_of(await harness.post(lead, Idempotency_Key="overloaded")) == first + 1


async def test_C20_after_a_failed_duplicate_the_next_is_stored(
    start_harness: StartHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = intake._lead_row
    failed: list[str] = []

    def failing_once(submission: intake.Submission, *rest: Any) -> dict[str, Any]:
        row = real(submission, *rest)
        # The row fails in the batch, and again when the writer retries it alone.
        if submission.request_id in failed or not failed:
            failed.append(submission.request_id)
            return {**row, "property_type": None}  # NOT NULL fails
        return row

    harness = await start_without_deliveries(start_harness)
    monkeypatch.setattr(intake, "_lead_row", failing_once)
    answers = await in_one_batch(harness, *(harness.post(LEAD, Idempotency_Key=KEY) for _ in range(3)))
    assert sorted(answer.code for answer in answers) == [201, 201, 500]
    [stored] = {id_of(answer) for answer in answers if answer.code == 201}
    assert id_of(await harness.post(LEAD, Idempotency_Key=KEY)) == stored
    assert [lead["id"] for lead in await harness.leads()] == [stored]


@pytest.mark.parametrize("depth", [100, 300, 1_000])
async def test_C7_C20_deeply_nested_body_with_key_is_accepted(harness: ServerHarness, depth: int) -> None:
    nested = json.dumps(LEAD)[:-1] + ', "extra": ' + "[" * depth + "]" * depth + "}"
    for _ in range(2):
        assert id_of(await harness.request("POST", LEADS, nested, Idempotency_Key=KEY)) == 1
    assert (await harness.post(OTHER, Idempotency_Key=KEY)).code == 422


async def test_C7_C20_too_deeply_nested_body_is_400_with_key_too(harness: ServerHarness) -> None:
    nested = json.dumps(LEAD)[:-1] + ', "extra": ' + "[" * 5_000 + "]" * 5_000 + "}"
    rejected = await harness.request("POST", LEADS, nested, Idempotency_Key=KEY)
    assert (rejected.code, rejected.body) == (400, (await harness.request("POST", LEADS, nested)).body)


async def test_C20_only_digests_of_a_key_are_stored(
    harness: ServerHarness, caplog: pytest.LogCaptureFixture
) -> None:
    key = "jane-key@renter.test"  # some clients make a key from the renter's data
    assert id_of(await harness.post(LEAD, Idempotency_Key=key)) == 1
    assert (await harness.post(OTHER, Idempotency_Key=key)).code == 422
    rows: list[Any] = await harness.server.storage.read(lambda: list(IdempotencyKey.select().dicts()))
    [row] = rows
    digests = [row.pop(name) for name in ("digest", "body", "source")]
    assert [len(digest) for digest in digests] == [32, 32, 32]
    assert row == {"lead": 1, "created_at": harness.clock.now()}
    stored = databases.contents(harness.data_dir)
    assert b"jane@renter.test" in stored
    assert key.encode() not in stored
    assert key not in caplog.text


async def test_C1_C20_both_paths_share_keys(harness: ServerHarness) -> None:
    for path in (LEADS, "/api/v1/tour_requests", "/api/v1/tour_requests/"):
        assert id_of(await harness.post(LEAD, path, Idempotency_Key=KEY)) == 1
    assert (await harness.post(OTHER, "/api/v1/tour_requests", Idempotency_Key=KEY)).code == 422


async def test_C20_C28_retry_counts_against_the_rate_limit(start_harness: StartHarness) -> None:
    harness = await start_without_deliveries(start_harness, rate_limit="3/60")
    sent = [(LEAD, 201, "2"), (LEAD, 201, "1"), (OTHER, 422, "0"), (LEAD, 429, "0")]
    for lead, status, remaining in sent:
        answer = await harness.post(lead, Idempotency_Key=KEY)
        assert (answer.code, answer.headers["RateLimit-Remaining"]) == (status, remaining)


async def keyed(harness: ServerHarness, source: str, lead: dict[str, Any] = LEAD) -> HTTPResponse:
    return await harness.post(lead, Idempotency_Key="1", X_Forwarded_For=source)


async def test_C20_a_strangers_key_costs_nobody_a_lead(start_harness: StartHarness) -> None:
    harness = await start_without_deliveries(start_harness, trusted_proxies="127.0.0.1")
    assert id_of(await keyed(harness, "192.0.2.1")) == 1
    assert id_of(await keyed(harness, "192.0.2.2", OTHER)) == 2
    # Both retries find their own leads, also from another network.
    assert id_of(await keyed(harness, "192.0.2.3")) == 1
    assert id_of(await keyed(harness, "192.0.2.3", OTHER)) == 2
    third = {**LEAD, "tour_request": {**RENTER, "message": "Third"}}
    assert (await keyed(harness, "192.0.2.1", third)).code == 422
    assert (await keyed(harness, "192.0.2.2", third)).code == 422
    assert id_of(await keyed(harness, "192.0.2.4", third)) == 3


async def test_C20_a_strangers_key_in_the_same_batch_costs_no_lead(start_harness: StartHarness) -> None:
    harness = await start_without_deliveries(start_harness, trusted_proxies="127.0.0.1")
    answers = await in_one_batch(
        harness,
        keyed(harness, "192.0.2.1"),
        keyed(harness, "192.0.2.2", OTHER),
        keyed(harness, "192.0.2.1"),
        keyed(harness, "192.0.2.3", OTHER),
    )
    ids = [id_of(answer) for answer in answers]
    assert len(await harness.leads()) == 2
    assert ids[0] == ids[2] != ids[1] == ids[3]


@pytest.mark.parametrize("word", ["undefined", "null", " undefined ", ""])
async def test_C20_a_word_of_javascript_is_no_key(harness: ServerHarness, word: str) -> None:
    assert [id_of(await harness.post(LEAD, Idempotency_Key=word)) for _ in range(2)] == [1, 2]
    lead = {**LEAD, "idempotency_key": word}
    assert [id_of(await harness.post(lead)) for _ in range(2)] == [3, 4]


FORM = "token=maple&tour_request[requestor_email]=jane@renter.test"


async def posted_form(harness: ServerHarness, body: str, **headers: str) -> int:
    response = await harness.request(
        "POST", LEADS, body, Content_Type="application/x-www-form-urlencoded", **headers
    )
    return id_of(response)


async def test_C20_a_form_sends_its_key_as_a_field(harness: ServerHarness) -> None:
    assert await posted_form(harness, FORM + "&idempotency_key=one") == 1
    assert await posted_form(harness, FORM + "&idempotency_key=one") == 1
    assert await posted_form(harness, FORM + "&idempotency_key=two") == 2
    # A visitor who goes back and writes something else has the same key in the page.
    assert await posted_form(harness, FORM + "&idempotency_key=one&tour_request[message]=Hi") == 3
    assert await posted_form(harness, FORM + "&idempotency_key=one&tour_request[message]=Hi") == 3
    assert await posted_form(harness, FORM + "&idempotency_key=one", Idempotency_Key="undefined") == 1
    # The header counts if there are both.
    assert await posted_form(harness, FORM + "&idempotency_key=one", Idempotency_Key="other") == 4


async def test_C20_a_field_key_over_255_characters_is_400(harness: ServerHarness) -> None:
    response = await harness.post({**LEAD, "idempotency_key": "x" * 256})
    assert response.code == 400
    assert json.loads(response.body) == {"error": "idempotency_key is too long (maximum is 255 characters)"}
