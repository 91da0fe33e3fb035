"""What an Idempotency-Key promises: a lead sent again is the same lead, whatever happened between (C20)."""

import asyncio
import json
import subprocess
from collections.abc import Coroutine, Sequence
from typing import Any

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
from models.storage.sqlite.connection import database

KEY = "8e03978e-40d5-43dd-bc93-6894a57f9324"
HOUR = 3_600
RENTER = {"requestor_email": "jane@renter.test", "requestor_name": "Zoë Doe", "message": "Two\nlines"}
LEAD = {"token": "maple", "tour_request": RENTER}
OTHER = {"token": "maple", "tour_request": {**RENTER, "message": "Three lines"}}


def id_of(response: HTTPResponse) -> int:
    assert response.code == 201, response.body
    return int(json.loads(response.body)["id"])


async def counted(harness: ServerHarness, *tables: Any) -> list[int]:
    """How many rows these tables have."""
    return await harness.server.storage.read(lambda: [table.select().count() for table in tables])


async def calm(start_harness: StartHarness, **options: str) -> ServerHarness:
    """A harness from which nothing leaves, so that the writer's queue holds leads alone."""
    harness = await start_harness(
        **{"rate_limit": "100000/1", "smtp_url": "", "june_homes_url": "", **options}
    )
    await harness.building(website_url="https://maple.test")
    return harness


async def in_one_batch(
    harness: ServerHarness, *posts: Coroutine[Any, Any, HTTPResponse]
) -> list[HTTPResponse]:
    """Have all of these wait for the writer, so that they meet in one transaction."""
    async with held(harness):
        sent = [asyncio.ensure_future(post) for post in posts]
        await queued(harness, len(sent))
    return [await response for response in sent]


async def test_C20_a_retry_is_answered_as_the_first_try_was_and_makes_nothing_more(
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
    assert await harness.lead(token="maple") == 2  # and no id was used up


async def test_C20_without_the_header_every_call_is_a_lead(harness: ServerHarness) -> None:
    assert [id_of(await harness.post(LEAD)) for _ in range(3)] == [1, 2, 3]
    assert id_of(await harness.post(LEAD, Idempotency_Key=KEY)) == 4
    assert id_of(await harness.post(LEAD)) == 5
    assert id_of(await harness.post(LEAD, Idempotency_Key=KEY)) == 4


@pytest.mark.parametrize("blank", ["", " ", "\t "])
async def test_C20_a_blank_key_is_none(harness: ServerHarness, blank: str) -> None:
    assert [id_of(await harness.post(LEAD, Idempotency_Key=blank)) for _ in range(2)] == [1, 2]
    assert await counted(harness, IdempotencyKey) == [0]


async def test_C20_white_space_around_a_key_is_no_part_of_it_and_case_is(harness: ServerHarness) -> None:
    keys = ["Key", "  Key ", "key", "Kéy", "K y"]
    assert [id_of(await harness.post(LEAD, Idempotency_Key=key)) for key in keys] == [1, 1, 2, 3, 4]


async def test_C20_a_key_has_255_characters_at_most(harness: ServerHarness) -> None:
    for _ in range(2):
        assert id_of(await harness.post(LEAD, Idempotency_Key="k" * 255)) == 1
    refused = await harness.post(LEAD, Idempotency_Key="k" * 256, Origin="https://maple.test")
    said = "Idempotency-Key is too long (maximum is 255 characters)"
    assert (refused.code, json.loads(refused.body)) == (400, {"error": said})
    assert refused.headers["Access-Control-Allow-Origin"] == "https://maple.test"
    assert len(await harness.leads()) == 1


def backwards(value: Any) -> Any:
    """The same value, its keys in the other order."""
    if not isinstance(value, dict):
        return value
    return {name: backwards(value[name]) for name in reversed(value)}


async def test_C20_json_written_another_way_is_the_same_body(harness: ServerHarness) -> None:
    bodies = [
        json.dumps(LEAD),
        json.dumps(backwards(LEAD)),
        json.dumps(LEAD, indent=4, ensure_ascii=False) + "\r\n",
        json.dumps(LEAD, separators=(",", ":")),
        "\ufeff" + json.dumps(LEAD),
    ]
    assert len(set(bodies)) == len(bodies)
    answers = [await harness.request("POST", LEADS, body, Idempotency_Key=KEY) for body in bodies]
    assert [id_of(answer) for answer in answers] == [1] * len(bodies)


async def test_C20_so_is_a_form_with_another_boundary_or_order(harness: ServerHarness) -> None:
    fields = {"token": "maple", **{f"tour_request[{name}]": value for name, value in RENTER.items()}}
    sent = [("----one", fields), ("----two", fields), ("----three", backwards(fields))]
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
        {"address_line_one": "12 Maple Street", "tour_request": RENTER},  # the same building by other means
    ],
)
async def test_C20_the_same_key_with_another_body_is_422_and_stores_nothing(
    harness: ServerHarness, other: dict[str, Any]
) -> None:
    assert id_of(await harness.post(LEAD, Idempotency_Key=KEY)) == 1
    refused = await harness.post(other, Idempotency_Key=KEY, Origin="https://maple.test")
    assert refused.code == 422
    assert refused.headers["Content-Type"] == "application/json"
    assert json.loads(refused.body) == {
        "error": "this Idempotency-Key came with another body before; a new lead takes a new key"
    }
    assert refused.headers["Access-Control-Allow-Origin"] == "https://maple.test"
    assert "X-Request-Id" in refused.headers["Access-Control-Expose-Headers"]
    assert await counted(harness, Lead, Deal, Customer, IdempotencyKey) == [1, 1, 1, 1]
    assert id_of(await harness.post(LEAD, Idempotency_Key=KEY)) == 1  # the first is still what the key means
    assert id_of(await harness.post(other, Idempotency_Key="a new one")) == 2


async def test_C20_twins_that_come_at_once_are_one_lead(harness: ServerHarness) -> None:
    answers = await asyncio.gather(*(harness.post(LEAD, Idempotency_Key=KEY) for _ in range(100)))
    assert {id_of(answer) for answer in answers} == {1}
    await harness.settled()
    assert await counted(harness, Lead, Deal, Customer, Delivery) == [1, 1, 1, 1]
    assert len(harness.mail.mails) == 1


async def test_C20_twins_that_meet_in_one_transaction_are_one_lead_and_harm_nobody(
    start_harness: StartHarness,
) -> None:
    harness = await calm(start_harness)
    keys: list[dict[str, str]] = [{"Idempotency_Key": key} if key else {} for key in ("a", "b", "", "a", "b")]
    answers = await in_one_batch(harness, *(harness.post(LEAD, **keys[n % 5]) for n in range(20)))
    found = [id_of(answer) for answer in answers]
    of_a, of_b = ({i for n, i in enumerate(found) if keys[n % 5] == {"Idempotency_Key": k}} for k in "ab")
    assert (len(of_a), len(of_b), len(set(found))) == (1, 1, 2 + 4)
    assert await counted(harness, Lead, Deal, IdempotencyKey) == [6, 6, 2]


async def test_C20_of_twins_in_one_transaction_with_different_bodies_one_is_taken(
    start_harness: StartHarness,
) -> None:
    harness = await calm(start_harness)
    leads = [{**LEAD, "tour_request": {**RENTER, "message": f"body {n}"}} for n in range(10)]
    answers = await in_one_batch(harness, *(harness.post(lead, Idempotency_Key=KEY) for lead in leads))
    codes = [answer.code for answer in answers]
    assert sorted(codes) == [201] + [422] * 9
    [stored] = await harness.leads()
    taken = codes.index(201)
    assert stored["message"] == f"body {taken}"
    assert id_of(await harness.post(leads[taken], Idempotency_Key=KEY)) == stored["id"]


async def test_C20_a_key_belongs_to_its_building(harness: ServerHarness) -> None:
    await harness.building(token="oak", name="The Oak")
    at_oak = {**LEAD, "token": "oak"}
    for _ in range(2):
        assert id_of(await harness.post(LEAD, Idempotency_Key=KEY)) == 1
        assert id_of(await harness.post(at_oak, Idempotency_Key=KEY)) == 2


async def test_C20_and_without_a_building_to_where_it_came_from(start_harness: StartHarness) -> None:
    harness = await calm(start_harness, trusted_proxies="127.0.0.0/8")
    nowhere = {"tour_request": RENTER}
    for expected, source in ((1, "203.0.113.1"), (2, "203.0.113.2"), (1, "203.0.113.1"), (3, "2001:db8::1")):
        assert id_of(await harness.post(nowhere, Idempotency_Key=KEY, X_Forwarded_For=source)) == expected
    # A building's page may be open on a phone that changes its network: there the source says nothing.
    for source in ("203.0.113.1", "203.0.113.2"):
        assert id_of(await harness.post(LEAD, Idempotency_Key=KEY, X_Forwarded_For=source)) == 4


async def test_C20_a_key_is_kept_for_24_hours_and_then_forgotten(
    harness: ServerHarness, clock: SteppedClock
) -> None:
    assert id_of(await harness.post(LEAD, Idempotency_Key=KEY)) == 1
    clock.step(24 * HOUR - 1)
    assert id_of(await harness.post(LEAD, Idempotency_Key=KEY)) == 1
    assert (await harness.post(OTHER, Idempotency_Key=KEY)).code == 422
    clock.step(1)  # a retry has not prolonged it
    assert id_of(await harness.post(OTHER, Idempotency_Key=KEY)) == 2
    assert (await harness.post(LEAD, Idempotency_Key=KEY)).code == 422
    clock.step(24 * HOUR)
    assert id_of(await harness.post(LEAD, Idempotency_Key="another")) == 3
    assert await counted(harness, IdempotencyKey) == [1]  # the row of the other is gone


async def test_C20_a_key_outlives_a_restart(harness: ServerHarness) -> None:
    assert id_of(await harness.post(LEAD, Idempotency_Key=KEY)) == 1
    await harness.restart(rate_limit="100000/1")
    assert id_of(await harness.post(LEAD, Idempotency_Key=KEY)) == 1
    assert (await harness.post(OTHER, Idempotency_Key=KEY)).code == 422


@pytest.mark.parametrize(
    "refused",
    [
        {"token": "maple", "tour_request": {"requestor_email": "jane"}},
        {"token": "maple", "tour_request": {**RENTER, "slot": "tomorrow"}},
        {"token": "maple"},
    ],
)
async def test_C20_a_first_try_that_was_refused_keeps_nothing(
    harness: ServerHarness, refused: dict[str, Any]
) -> None:
    assert (await harness.post(refused, Idempotency_Key=KEY)).code == 400
    assert id_of(await harness.post(LEAD, Idempotency_Key=KEY)) == 1


async def test_C20_C32_a_first_try_that_the_server_failed_keeps_nothing(harness: ServerHarness) -> None:
    lead = {"token": "maple", "tour_request": {**RENTER, "message": "m" * 10_000}}
    await submit_and_wait(harness.server.storage, _leave_pages, 0)
    assert (await harness.post(lead, Idempotency_Key=KEY)).code == 503
    assert await counted(harness, Lead, IdempotencyKey) == [0, 0]
    await submit_and_wait(harness.server.storage, _leave_pages, 10_000)
    for _ in range(2):
        assert id_of(await harness.post(lead, Idempotency_Key=KEY)) == 1
    harness.server.storage.writer._queue_size = 0
    assert (await harness.post(lead, Idempotency_Key="overloaded")).code == 503
    harness.server.storage.writer._queue_size = 100
    assert id_of(await harness.post(lead, Idempotency_Key="overloaded")) == 2


def _leave_pages(spare: Sequence[int]) -> list[None]:
    # SQLite's own limit stands in for the disk's end.
    (now,) = database.execute_sql("PRAGMA page_count").fetchone()
    database.execute_sql(f"PRAGMA max_page_count = {now + spare[0]}")
    return [None for _ in spare]


async def test_C20_of_twins_in_one_transaction_of_which_the_first_fails_the_next_is_taken(
    start_harness: StartHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = intake._lead_row
    failed: list[str] = []

    def failing_once(submission: intake.Submission, *rest: Any) -> dict[str, Any]:
        row = real(submission, *rest)
        # It fails in the set that all make, and again by itself.
        if submission.request_id in failed or not failed:
            failed.append(submission.request_id)
            return {**row, "property_type": None}  # NOT NULL fails
        return row

    harness = await calm(start_harness)
    monkeypatch.setattr(intake, "_lead_row", failing_once)
    answers = await in_one_batch(harness, *(harness.post(LEAD, Idempotency_Key=KEY) for _ in range(3)))
    assert sorted(answer.code for answer in answers) == [201, 201, 500]
    assert {id_of(answer) for answer in answers if answer.code == 201} == {1}
    assert id_of(await harness.post(LEAD, Idempotency_Key=KEY)) == 1


@pytest.mark.parametrize("depth", [100, 300, 1_000])
async def test_C7_C20_a_deeply_nested_body_with_a_key_is_taken(harness: ServerHarness, depth: int) -> None:
    nested = json.dumps(LEAD)[:-1] + ', "extra": ' + "[" * depth + "]" * depth + "}"
    for _ in range(2):
        assert id_of(await harness.request("POST", LEADS, nested, Idempotency_Key=KEY)) == 1
    assert (await harness.post(OTHER, Idempotency_Key=KEY)).code == 422


async def test_C7_C20_or_refused_as_it_is_without_one(harness: ServerHarness) -> None:
    nested = json.dumps(LEAD)[:-1] + ', "extra": ' + "[" * 5_000 + "]" * 5_000 + "}"
    refused = await harness.request("POST", LEADS, nested, Idempotency_Key=KEY)
    assert (refused.code, refused.body) == (400, (await harness.request("POST", LEADS, nested)).body)


async def test_C20_of_a_key_nothing_is_kept_but_digests(
    harness: ServerHarness, caplog: pytest.LogCaptureFixture
) -> None:
    key = "jane-key@renter.test"  # some make a key of what they know of the renter
    assert id_of(await harness.post(LEAD, Idempotency_Key=key)) == 1
    assert (await harness.post(OTHER, Idempotency_Key=key)).code == 422
    rows: list[Any] = await harness.server.storage.read(lambda: list(IdempotencyKey.select().dicts()))
    [row] = rows
    digests = [row.pop("digest"), row.pop("body")]
    assert [len(digest) for digest in digests] == [32, 32]
    assert row == {"lead": 1, "created_at": harness.clock.now()}
    # By another process: to close the database's file in this one would drop its locks.
    files = [str(file) for file in harness.data_dir.iterdir() if file.is_file()]
    stored = subprocess.run(["cat", *files], capture_output=True, check=True).stdout
    assert b"jane@renter.test" in stored
    assert key.encode() not in stored
    assert key not in caplog.text


async def test_C1_C20_both_routes_share_the_keys(harness: ServerHarness) -> None:
    for path in (LEADS, "/api/v1/tour_requests", "/api/v1/tour_requests/"):
        assert id_of(await harness.post(LEAD, path, Idempotency_Key=KEY)) == 1
    assert (await harness.post(OTHER, "/api/v1/tour_requests", Idempotency_Key=KEY)).code == 422


async def test_C20_C28_a_retry_counts_against_the_rate_limit(start_harness: StartHarness) -> None:
    harness = await calm(start_harness, rate_limit="3/60")
    sent = [(LEAD, 201, "2"), (LEAD, 201, "1"), (OTHER, 422, "0"), (LEAD, 429, "0")]
    for lead, status, remaining in sent:
        answer = await harness.post(lead, Idempotency_Key=KEY)
        assert (answer.code, answer.headers["RateLimit-Remaining"]) == (status, remaining)
