"""Owns the trials of clients: slow and silent ones, too many, ones that send garbage, ones that attack."""

import asyncio
import ipaddress
import json
import os
import random
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from conftest import LEADS
from fault_run import FaultRun, fault
from load_clients import (
    Gone,
    Ledger,
    ServerProcess,
    cpu_seconds,
    judge_storage,
    lead_body,
    post_lead,
    seeded,
    stored_leads,
)
from mutants import for_a_while

from handlers.api.rate_limit import RateLimiter
from models.settings import Rate

HALF = f"POST {LEADS} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode() + b'{"tour'


@asynccontextmanager
async def silent(port: int, count: int) -> Any:
    """So many connections that send part of a request, each another part, and then nothing."""
    writers: list[asyncio.StreamWriter] = []

    async def connect(number: int) -> None:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HALF[: number % len(HALF)])
            writers.append(writer)

    await asyncio.gather(*(connect(number) for number in range(count)))
    try:
        yield writers
    finally:
        for writer in writers:
            writer.transport.abort()


@fault(
    "slow-sockets",
    "sockets that send half a request, or nothing, beside clients that send leads",
    short=100,
    long=500,
    mutants=("takes ten connections at once",),
)
async def slow_sockets(trial: FaultRun) -> None:
    ledger, waits = Ledger(), []
    async with ServerProcess(trial) as box:
        await box.start()
        async with silent(box.port, trial.times):
            opened_at = time.monotonic()

            async def visit() -> None:
                client = box.client()
                while time.monotonic() - opened_at < 10:  # then the server begins to close the silent ones
                    began = time.monotonic()
                    await post_lead(client, ledger)
                    waits.append(time.monotonic() - began)
                    if len(waits) >= 10 * trial.times:
                        break
                    await asyncio.sleep(0.02)
                await client.close()

            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.gather(*(visit() for _ in range(8))), 12)
            trial.require(len(waits) > trial.times / 4, "others are served while they wait")
            p99 = sorted(waits)[int(len(waits) * 0.99)] if waits else 60.0
            trial.require_quick(p99, 0.250, "p99 of the others")
        mended_at = time.monotonic()
        await box.first_answer(ledger)
        trial.recovery = time.monotonic() - mended_at
        await box.stop()
    trial.tried = trial.times
    trial.seen = f"{len(waits)} leads meanwhile, p99 {1000 * p99:.0f} ms"
    judge_storage(trial, ledger, stored_leads(box.data_dir / "leads.db"))


@fault(
    "descriptors",
    "more clients than the process has file descriptors for, and then not one left at all",
    short=2,
    long=10,
    mutants=("accepts as tornado does",),
)
async def descriptors(trial: FaultRun) -> None:
    ledger, shares, lines = Ledger(), [], []
    async with ServerProcess(trial) as box:
        for taken in (False, True):
            await box.start(limit_descriptors=100)
            assert box.process
            pid = box.process.pid
            await box.first_answer(ledger)
            if taken:  # by whatever: then it is the system that refuses the next one
                count = len(os.listdir(f"/proc/{pid}/fd"))
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (count, 100))
            events = ("no more connections", "Exception in callback")
            said, used, began = sum(map(box.log_lines, events)), cpu_seconds(pid), time.monotonic()
            async with silent(box.port, 200):
                await asyncio.sleep(trial.times)
                seconds = time.monotonic() - began
                shares.append((cpu_seconds(pid) - used) / seconds)
                lines.append((sum(map(box.log_lines, events)) - said) / (seconds + 2))
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (100, 100))
            mended_at = time.monotonic()
            await box.first_answer(ledger)
            trial.recovered_since(mended_at)
            trial.tried += 200
            await box.stop()
    trial.require(0 < max(lines) <= 1, f"one line of the log a second ({max(lines):.1f} were)")
    trial.require(max(shares) < 0.2, f"under 20 % of a processor ({max(shares):.0%} was)")
    trial.seen = f"{max(shares):.1%} of a processor, {max(lines):.1f} lines of the log a second"
    judge_storage(trial, ledger, stored_leads(box.data_dir / "leads.db"))


@fault("fuzz", "bodies that no website would send", short=1_000, long=10_000, mutants=("trusts json",))
async def fuzz(trial: FaultRun) -> None:
    ledger, chances = Ledger(), seeded(trial)
    bodies = _bodies(chances)
    async with ServerProcess(trial, smtp_url="", june_homes_url="") as box:
        await box.start()

        async def send_some() -> None:
            client = box.client()
            for _ in range(trial.times // 8):
                media_type, body, headers = next(bodies)
                with suppress(Gone):
                    answer = await client.post(body, media_type, **headers)
                    ledger.answers[answer.status] += 1
                    if answer.status == 201:
                        ledger.acknowledged[json.loads(answer.body)["id"]] = ""
                    else:
                        trial.require(set(json.loads(answer.body)) == {"error"}, "a refusal is JSON")
                trial.tried += 1
            await client.close()

        await asyncio.gather(*(send_some() for _ in range(8)))
        mended_at = time.monotonic()
        await box.first_answer(Ledger())
        trial.recovery = time.monotonic() - mended_at
        await box.stop()
        stored = stored_leads(box.data_dir / "leads.db")
    trial.require(sum(ledger.answers.values()) == trial.tried, "every one of them is answered")
    trial.require(max(ledger.answers) < 500, "no 5xx")
    trial.lost = len(ledger.acknowledged.keys() - stored.keys())
    trial.require(len(stored) <= len(ledger.acknowledged) + 1, "what is refused is not stored")
    trial.seen = ", ".join(f"{n} × {status}" for status, n in sorted(ledger.answers.items()))


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
    "renters' words that would be headers or recipients of the mail",
    short=60,
    long=500,
    mutants=("writes headers as they come",),
)
async def header_injection(trial: FaultRun) -> None:
    ledger, chances = Ledger(), seeded(trial)
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
    async with ServerProcess(trial) as box:
        await box.start()
        await box.first_answer(ledger)
        client = box.client()
        for number, text in enumerate(injections[: trial.times]):
            email = f"i{number}@renter.test"
            field = ("requestor_name", "unit_preference", "requestor_phone", "message", "utm_data")[
                number % 5
            ]
            body = lead_body(
                email, **{field: text, "listing_source": "june_homes", "slot": "2026-12-01T10:00"}
            )
            answer = await client.post(body, Idempotency_Key=json.dumps(text)[:200])
            ledger.answers[answer.status] += 1
            trial.require(
                not any("evil" in value for value in answer.headers.values()), "no answer repeats it"
            )
            if answer.status == 201:
                ledger.acknowledge(json.loads(answer.body)["id"], email)
            trial.tried += 1
        began = time.monotonic()
        while len(box.mail.mails) < len(ledger.acknowledged) and time.monotonic() - began < 30:
            await asyncio.sleep(0.02)
        trial.recovery = time.monotonic() - began
        await client.close()
        await box.stop()
    usual = [name for name, _ in box.mail.mails[0].items()]
    for mail, recipients in zip(box.mail.mails, box.mail.recipients, strict=True):
        names = [name for name, _ in mail.items()]
        trial.require(names == usual, f"no mail has another header ({[n for n in names if n not in usual]})")
        trial.require(recipients == ["agent@maple.test"], f"no mail has another recipient ({recipients})")
        trial.require("evil" not in str(mail["To"]) + str(mail["From"]), "no mail has another address")
    arrived = {str(mail["Reply-To"]).rpartition("<")[2].rstrip(">") for mail in box.mail.mails}
    trial.lost = sum(email not in arrived for email in ledger.acknowledged.values())
    trial.duplicated = len(box.mail.mails) - len(arrived)


@fault(
    "million-addresses",
    "a million source addresses, a thousand of them over their limit",
    short=800_000,
    long=1_000_000,
    mutants=("forgets everyone when there are many", "forgets nobody"),
)
async def million_addresses(trial: FaultRun) -> None:
    with for_a_while(trial.mutant):
        throttle, now = RateLimiter(Rate(300, 300)), 1_000_000_000_000
        greedy = [ipaddress.ip_address(f"10.0.{n // 250}.{n % 250}") for n in range(1_000)]
        for address in greedy:
            while throttle.take(address, now).allowed:
                pass
        longest, largest = 0.0, 0
        for number in range(trial.times):
            address = ipaddress.IPv4Address(0x0B000000 + number)
            began = time.monotonic()
            throttle.take(address, now + number)
            longest = max(longest, time.monotonic() - began)
            trial.tried += 1
            if number % 10_000 == 0:
                largest = max(largest, _size_of(throttle))
        largest, end = max(largest, _size_of(throttle)), now + trial.times
        trial.lost = sum(throttle.take(address, end).allowed for address in greedy)
    began = time.monotonic()
    trial.require(throttle.take(ipaddress.ip_address("192.0.2.1"), end).allowed, "a new one gets through")
    trial.recovery = time.monotonic() - began
    trial.require(largest < 64e6, f"the limiter stays under 64 MB ({largest / 1e6:.0f} MB were)")
    trial.require_quick(longest, 0.1, "nobody waits for the limiter to forget others")
    trial.seen = f"{largest / 1e6:.1f} MB at most; the slowest answer took {1000 * longest:.0f} ms"


def _size_of(throttle: RateLimiter) -> int:
    buckets = throttle._full_at
    return sys.getsizeof(buckets) + sum(sys.getsizeof(k) + sys.getsizeof(v) for k, v in buckets.items())
