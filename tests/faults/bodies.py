"""Fault runs of request bodies: garbage, and text that would inject mail headers."""

import asyncio
import json
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from fault_run import FaultRun, fault
from launched_server import LaunchedServer
from lead_client import Disconnected, Ledger, lead_body
from stored_leads import stored_leads


@fault("fuzz", "random and damaged bodies", short=1_000, long=10_000, mutants=("trusts json",))
async def fuzz(run: FaultRun) -> None:
    ledger, chances = Ledger(), run.seeded_random()
    bodies = _bodies(chances)
    async with LaunchedServer(run, smtp_url="", june_homes_url="") as server:
        await server.start()

        async def send_some() -> None:
            client = server.client()
            for _ in range(run.times // 8):
                media_type, body, headers = next(bodies)
                with suppress(Disconnected):
                    answer = await client.post(body, media_type, **headers)
                    ledger.answers[answer.status] += 1
                    if answer.status == 201:
                        ledger.acknowledged[json.loads(answer.body)["id"]] = ""
                    else:
                        run.require(set(json.loads(answer.body)) == {"error"}, "an error is JSON")
                run.tried += 1
            await client.close()

        await asyncio.gather(*(send_some() for _ in range(8)))
        mended_at = time.monotonic()
        await server.first_answer(Ledger())
        run.recovery = time.monotonic() - mended_at
        await server.stop()
        stored = stored_leads(server.data_dir / "leads.db")
    run.require(sum(ledger.answers.values()) == run.tried, "every request is answered")
    run.require(max(ledger.answers) < 500, "no 5xx")
    run.lost = len(ledger.acknowledged.keys() - stored.keys())
    run.require(len(stored) <= len(ledger.acknowledged) + 1, "a refused lead is not stored")
    run.seen = ", ".join(f"{n} × {status}" for status, n in sorted(ledger.answers.items()))


def _bodies(chances: random.Random) -> Iterator[tuple[str, bytes, dict[str, str]]]:
    fields = (
        "requestor_email",
        "requestor_name",
        "message",
        "slot",
        "utm_data",
        "listing_source",
        "sms_consent",
        "requestor_phone",
        "unit_preference",
        "request_host",
        "listing_source_original_id",
        "unknown",
    )
    values: tuple[Any, ...] = (
        "a@b.test",
        "",
        " ",
        None,
        True,
        0,
        -1,
        1.5,
        10**30,
        [],
        {},
        ["x"],
        {"a": 1},
        "x" * 1001,
        "\0",
        "\ud83c\udf3b",
        "2026-12-01T10:00",
        "9999-12-31T23:59:59-23:59",
        "0001-01-01",
        "?utm_a=%ff&=&%zz",
        "june_homes",
        "+1555",
        "'; DROP TABLE lead; --",
        "\r\nBcc: x@y.test",
        "\u202e",
        "=cmd()",
        "ü@ü.test",
        "a" * 400 + "@b.test",
    )
    while True:
        tour = {chances.choice(fields): chances.choice(values) for _ in range(chances.randrange(8))}
        if chances.random() < 0.6:
            tour["requestor_email"] = f"f{chances.random()}@renter.test"
        outer: dict[str, Any] = {"token": chances.choice(["maple", "none", None, 5]), "tour_request": tour}
        if chances.random() < 0.1:
            outer["tour_request"] = chances.choice(values)
        body = json.dumps(outer).encode()
        media_type = chances.choice(
            ["application/json"] * 4
            + ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
        )
        match chances.randrange(8):
            case 0:  # bytes changed
                changed = bytearray(body)
                for _ in range(chances.randrange(1, 6)):
                    changed[chances.randrange(len(changed))] = chances.randrange(256)
                body = bytes(changed)
            case 1:
                body = body[: chances.randrange(len(body))]
            case 2:
                body = chances.randbytes(chances.randrange(300))
            case 3:
                depth = chances.randrange(1, 3_000)
                opening, closing = chances.choice([(b"[", b"]"), (b'{"a":', b"}")])
                body = (
                    b'{"tour_request": {"requestor_email": "a@b.test"}, "x": '
                    + opening * depth
                    + b"1"
                    + closing * depth
                )
                body += b"}"
            case 4:
                pairs = [f"tour_request[{name}]={value}" for name, value in tour.items()]
                body = "&".join(pairs).encode("utf-8", "replace")
            case 5:
                parts = [
                    f'--x\r\nContent-Disposition: form-data; name="tour_request[{name}]"\r\n\r\n{value}\r\n'
                    for name, value in tour.items()
                ]
                body = ("".join(parts) + "--x--\r\n").encode("utf-8", "replace")
        headers = {}
        if chances.random() < 0.3:
            headers["Idempotency_Key"] = chances.choice(
                ["a", "b", "ü", "x" * 300, "k" * chances.randrange(1, 255)]
            )
        yield media_type, body[:70_000], headers


@fault(
    "header-injection",
    "renters' text that would add headers or recipients to the mail",
    short=60,
    long=500,
    mutants=("writes headers unescaped",),
)
async def header_injection(run: FaultRun) -> None:
    ledger, chances = Ledger(), run.seeded_random()
    injections = [
        f"{before}{line_break}{header}: {value}"
        for before in ("", "Jane", 'Jane" <x@y.test>', "=?utf-8?q?Jane?=")
        for line_break in (
            "\r\n",
            "\n",
            "\r",
            "\r\n ",
            "\x0b",
            "\x0c",
            "\x1c",
            "\x85",
            "\u2028",
            "\u2029",
            "\0",
            "%0d%0a",
        )
        for header in ("Bcc", "Cc", "To", "Subject", "Reply-To", "X-Extra", "Content-Type", "RCPT TO")
        for value in ("evil@evil.test", "<evil@evil.test>\r\n\r\nbody")
    ]
    chances.shuffle(injections)
    async with LaunchedServer(run) as server:
        await server.start()
        await server.first_answer(ledger)
        client = server.client()
        for number, text in enumerate(injections[: run.times]):
            email = f"i{number}@renter.test"
            field = ("requestor_name", "unit_preference", "requestor_phone", "message", "utm_data")[
                number % 5
            ]
            body = lead_body(
                email, **{field: text, "listing_source": "june_homes", "slot": "2026-12-01T10:00"}
            )
            answer = await client.post(body, Idempotency_Key=json.dumps(text)[:200])
            ledger.answers[answer.status] += 1
            run.require(
                not any("evil" in value for value in answer.headers.values()),
                "no response header repeats the text",
            )
            if answer.status == 201:
                ledger.acknowledge(json.loads(answer.body)["id"], email)
            run.tried += 1
        began = time.monotonic()
        while len(server.mail.mails) < len(ledger.acknowledged) and time.monotonic() - began < 30:
            await asyncio.sleep(0.02)
        run.recovery = time.monotonic() - began
        await client.close()
        await server.stop()
    usual = [name for name, _ in server.mail.mails[0].items()]
    for mail, recipients in zip(server.mail.mails, server.mail.recipients, strict=True):
        names = [name for name, _ in mail.items()]
        run.require(names == usual, f"no mail has another header ({[n for n in names if n not in usual]})")
        run.require(recipients == ["agent@maple.test"], f"no mail has another recipient ({recipients})")
        run.require("evil" not in str(mail["To"]) + str(mail["From"]), "no mail has another address")
    arrived = {str(mail["Reply-To"]).rpartition("<")[2].rstrip(">") for mail in server.mail.mails}
    run.lost = sum(email not in arrived for email in ledger.acknowledged.values())
    run.duplicated = len(server.mail.mails) - len(arrived)
