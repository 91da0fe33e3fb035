"""Delivery to June Homes: the body, the signature, and the meaning of each response."""

import json
from datetime import timedelta

import pytest
from conftest import SECRET, ServerHarness, StartHarness, SteppedClock
from standardwebhooks.webhooks import Webhook, WebhookVerificationError


async def sent(harness: ServerHarness, **fields: str) -> tuple[dict[str, str], bytes]:
    await harness.lead(token="maple", listing_source="june_homes", **fields)
    await harness.settled()
    return harness.partner.calls[-1]


async def test_C23_signature_follows_standard_webhooks(
    harness: ServerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers, body = await sent(harness)
    small = {name.lower(): value for name, value in headers.items()}
    # The reference implementation uses the machine's clock, the server the test's.
    monkeypatch.setattr(Webhook, "_Webhook__verify_timestamp", lambda self, text: harness.clock.now())
    Webhook(SECRET).verify(body, small)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body + b" ", small)
    assert small["webhook-timestamp"] == str(int(harness.clock.now().timestamp()))
    assert small["content-type"] == "application/json"


async def test_C23_body_has_the_lead_and_its_building(harness: ServerHarness) -> None:
    _, body = await sent(
        harness,
        requestor_name="Jané",
        message="hi",
        utm_data="utm_source=x",
        listing_source_original_id="JH-7",
    )
    message = json.loads(body)
    data = message["data"]
    assert (message["type"], message["timestamp"]) == ("lead.created", data["created_at"])
    assert (data["requestor_name"], data["utm_data"]) == ("Jané", {"utm_source": "x"})
    assert data["listing_source_original_id"] == "JH-7"
    assert data["building"]["name"] == "The Maple"
    assert not {"customer", "deal", "deliveries"} & set(data)


async def test_C23_retry_has_the_same_id_and_body(harness: ServerHarness, clock: SteppedClock) -> None:
    harness.partner.replies = [(500, {})]
    first = await sent(harness)
    clock.step(20)
    await harness.settled()
    second = harness.partner.calls[-1]
    assert len(harness.partner.calls) == 2
    assert first[1] == second[1]
    ids = [{n.lower(): v for n, v in headers.items()}["webhook-id"] for headers, _ in (first, second)]
    assert ids[0] == ids[1]


@pytest.mark.parametrize("status", [500, 502, 504, 408, 425])
async def test_C24_transient_failure_is_retried(
    harness: ServerHarness, clock: SteppedClock, status: int
) -> None:
    harness.partner.replies = [(status, {})]
    await sent(harness)
    assert [d["state"] for d in await harness.deliveries(kind="june_homes")] == ["pending"]
    clock.step(20)
    assert [d["state"] for d in await harness.settled(kind="june_homes")] == ["delivered"]


@pytest.mark.parametrize("status", [400, 413, 415, 422])
async def test_C24_permanent_failure_is_kept_as_failed(harness: ServerHarness, status: int) -> None:
    harness.partner.replies = [(status, {})]
    await sent(harness)
    (delivery,) = await harness.settled(kind="june_homes")
    assert delivery["state"] == "failed"
    assert delivery["reason"].startswith(f"June Homes answered {status}")


@pytest.mark.parametrize("retry_after", ["600", "Mon, 23 Nov 2026 15:10:00 GMT"])
@pytest.mark.parametrize("status", [429, 503])
async def test_C24_retry_after_holds_the_whole_destination(
    harness: ServerHarness, clock: SteppedClock, status: int, retry_after: str
) -> None:
    harness.partner.replies = [(status, {"Retry-After": retry_after})]
    await sent(harness)
    await sent(harness)
    assert len(harness.partner.calls) == 1
    clock.step(595)
    await harness.settled()
    assert len(harness.partner.calls) == 1
    clock.step(10)
    await harness.settled()
    assert len(await harness.deliveries(kind="june_homes", state="delivered")) >= 1


@pytest.mark.parametrize(
    "garbage",
    ["soon", "-5", "99999999999999999999", "", "Mon, 99 Foo 2026"]
    + ["Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "Mon, 01 Jan 2026 00:00:00 +99999999999999"],
)
async def test_C24_invalid_retry_after_is_ignored(
    harness: ServerHarness, clock: SteppedClock, garbage: str
) -> None:
    harness.partner.replies = [(503, {"Retry-After": garbage})]
    await sent(harness)
    clock.step(86_401)
    assert [d["state"] for d in await harness.settled(kind="june_homes")] == ["delivered"]


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (302, "LEADS_JUNE_HOMES_URL"),
        (307, "LEADS_JUNE_HOMES_URL"),
        (404, "LEADS_JUNE_HOMES_URL"),
        (410, "LEADS_JUNE_HOMES_URL"),
        (401, "LEADS_JUNE_HOMES_SECRET"),
        (403, "LEADS_JUNE_HOMES_SECRET"),
    ],
)
async def test_C24_failure_names_the_setting_to_check_and_is_retried(
    harness: ServerHarness, clock: SteppedClock, status: int, hint: str
) -> None:
    harness.partner.replies = [(status, {"Location": harness.partner.url})]
    await sent(harness)
    await sent(harness)
    assert len(harness.partner.calls) == 1, "a redirect must not be followed"
    reason = (await harness.destination("june_homes"))["waits_because"]
    assert reason.startswith("held until 2026-11-23T15:00:")
    assert hint in reason
    clock.step(20)
    assert [d["state"] for d in await harness.settled(kind="june_homes")] == ["delivered"] * 2


async def test_C24_one_always_refused_lead_does_not_block_others(
    harness: ServerHarness, clock: SteppedClock
) -> None:
    harness.partner.refused = b"OR 1=1"
    await sent(harness, message="' OR 1=1 --")
    while (await harness.settled(kind="june_homes"))[0]["state"] == "pending":
        clock.step(900)
        good = await harness.lead(token="maple", listing_source="june_homes")
        for _ in range(2):
            clock.step(900)
            await harness.settled()
        assert (await harness.stored(good))["deliveries"][1]["state"] == "delivered"
    assert (await harness.deliveries(kind="june_homes"))[0]["state"] == "failed"


async def test_C24_only_the_status_of_a_long_response_counts(harness: ServerHarness) -> None:
    harness.partner.answer = b"x" * 3_000_000
    await sent(harness)
    assert [d["state"] for d in await harness.settled(kind="june_homes")] == ["delivered"]
    assert len(harness.partner.calls) == 1


async def test_reason_does_not_quote_the_partners_reason_phrase(harness: ServerHarness) -> None:
    harness.partner.replies = [(403, {"X-Why": "jane@renter.test"})]
    harness.partner.reason = "jane@renter.test is blocked"
    await sent(harness)
    assert "jane" not in (await harness.destination("june_homes"))["waits_because"]


async def test_C24_lead_with_503_for_days_fails_in_the_end(
    harness: ServerHarness, clock: SteppedClock
) -> None:
    harness.partner.replies = [(503, {})] * 1_000
    await sent(harness)
    began = clock.now()
    while (await harness.settled(kind="june_homes"))[0]["state"] == "pending":
        clock.step(600)
    assert clock.now() - began >= timedelta(hours=72)
    assert (await harness.deliveries(kind="june_homes"))[0]["state"] == "failed"


async def test_C24_unreachable_partner_is_held(start_harness: StartHarness, clock: SteppedClock) -> None:
    harness = await start_harness(june_homes_url="http://127.0.0.1:1/leads")
    await harness.building()
    await harness.lead(token="maple", listing_source="june_homes")
    await harness.settled()
    assert "can't be reached" in (await harness.destination("june_homes"))["waits_because"]
    await harness.restart()  # with an address that works
    assert [d["state"] for d in await harness.settled(kind="june_homes")] == ["delivered"]


@pytest.mark.parametrize(
    "reply", [301, 400, 401, 404, 500, 503, "unreachable", "no TLS", "no name", "no host"]
)
async def test_no_reason_and_no_log_line_shows_a_secret_of_the_partner_url(
    start_harness: StartHarness, caplog: pytest.LogCaptureFixture, reply: int | str
) -> None:
    harness = await start_harness()
    base = harness.partner.url.removeprefix("http://")
    places = {
        "unreachable": "http://june:hunter2@127.0.0.1:1/leads",
        "no TLS": f"https://june:hunter2@{base}",
        "no name": "https://june:hunter2@none.invalid/leads",
        "no host": "https://june:hunter2@a..b/leads",
    }
    place = places.get(str(reply), f"http://june:hunter2@{base}")
    await harness.restart(june_homes_url=f"{place}?key=k3y&k3y#fr4gment")
    if isinstance(reply, int):
        harness.partner.replies = [(reply, {"Location": f"{place}?key=k3y"})]
    await harness.building()
    await harness.lead(token="maple", listing_source="june_homes")
    (delivery,) = await harness.settled(kind="june_homes")
    shown = json.dumps([delivery, await harness.destination("june_homes")])
    logged = json.dumps(
        [{**vars(record), "said": record.getMessage()} for record in caplog.records], default=str
    )
    assert delivery["attempts"] == 1 and "reason" in delivery
    assert not any(secret in shown + logged for secret in ("hunter2", "k3y", "fr4gment"))
