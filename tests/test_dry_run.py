"""Dry runs: `Prefer: dry-run` judges a request and stores nothing, on every server (C33)."""

import json
from typing import Any

import pytest
from conftest import LEADS, ServerHarness, StartHarness

from models.daily_count import DRY_RUNS, DailyCount

LEAD: dict[str, Any] = {"token": "maple", "tour_request": {"requestor_email": "jane@renter.test"}}
DRY = {"Prefer": "dry-run"}


async def dry_runs(harness: ServerHarness) -> int:
    rows = await harness.server.storage.read(lambda: list(DailyCount.select()))
    return sum(row.count for row in rows if row.name == DRY_RUNS)


@pytest.mark.parametrize("path", [LEADS, "/api/v1/tour_requests"])
@pytest.mark.parametrize("prefer", ["dry-run", "Dry-Run", "respond-async, dry-run", "dry-run; x=1"])
async def test_C33_a_dry_run_stores_nothing(harness: ServerHarness, path: str, prefer: str) -> None:
    response = await harness.post(LEAD, path, Prefer=prefer)
    assert (response.code, json.loads(response.body)) == (200, {"dry_run": True})
    assert response.headers["Preference-Applied"] == "dry-run"
    assert await harness.leads() == [] and await harness.deliveries() == []


async def test_C33_the_answer_tells_nothing_of_building_or_key(harness: ServerHarness) -> None:
    await harness.post(LEAD, Idempotency_Key="one")
    bodies = {
        (await harness.post({**LEAD, **fields}, Idempotency_Key="one", **DRY)).body
        for fields in ({}, {"token": "unknown"}, {"unified_address_id": "x", "token": ""}, {"return_to": "x"})
    }
    assert bodies == {b'{"dry_run": true}'}
    assert len(await harness.leads()) == 1


@pytest.mark.parametrize(
    ("lead", "headers", "status"),
    [
        ({"tour_request": {}}, {}, 400),
        ({"tour_request": {"requestor_email": "jane"}}, {}, 400),
        (LEAD, {"Origin": "https://elsewhere.test"}, 403),
        (LEAD, {"Idempotency_Key": "x" * 256}, 400),
    ],
)
async def test_C33_what_would_be_refused_is_refused(
    harness: ServerHarness, lead: dict[str, Any], headers: dict[str, str], status: int
) -> None:
    wet = await harness.post(lead, **headers)
    dry = await harness.post(lead, **headers, **DRY)
    assert (dry.code, dry.body) == (wet.code, wet.body) and dry.code == status
    assert await harness.leads() == []


async def test_C33_C28_a_dry_run_takes_a_token(start_harness: StartHarness) -> None:
    harness = await start_harness(rate_limit="2/60")
    answers = [await harness.post(LEAD, **DRY) for _ in range(3)]
    assert [answer.code for answer in answers] == [200, 200, 429]


async def test_C33_dry_runs_are_counted(harness: ServerHarness) -> None:
    for _ in range(3):
        await harness.post(LEAD, **DRY)
    while await dry_runs(harness) < 3:
        pass
    assert await dry_runs(harness) == 3


async def test_C33_other_preferences_are_ignored(harness: ServerHarness) -> None:
    response = await harness.post(LEAD, Prefer="code=503, delay=2, cut")
    assert response.code == 201 and "Preference-Applied" not in response.headers
