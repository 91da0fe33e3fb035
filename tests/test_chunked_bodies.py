"""Chunked bodies: extensions and trailers are ignored, and framing that is ambiguous is refused (C5, C30)."""

import asyncio
import json
import random
import re

import pytest
from conftest import LEADS, ServerHarness
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers import chunked_body
from handlers.chunked_body import CHUNK_LINE, TRAILER_LINE

BODY = json.dumps({"tour_request": {"requestor_email": "jane@renter.test", "message": "Hé 🏠" * 50}}).encode()
HEAD = f"POST {LEADS} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n".encode()
CREATED, BAD_REQUEST = b"HTTP/1.1 201 ", b"HTTP/1.1 400 "


def chunked(body: bytes, size: int = 50, extension: bytes = b"", trailers: bytes = b"") -> bytes:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    chunks = b"".join(b"%x%s\r\n%s\r\n" % (len(part), extension, part) for part in parts)
    return chunks + b"0%s\r\n%s\r\n" % (extension, trailers)


async def send(harness: ServerHarness, body: bytes, headers: bytes = b"Connection: close\r\n") -> bytes:
    return await harness.raw(HEAD + headers + b"\r\n" + body)


EXTENSIONS = [
    b"",
    b";",
    b";name",
    b";name=value",
    b" ; name = value",
    b"\t;a=1;b=2;c",
    b';name="quoted; \\"value\\", with = and \xe9"',
    b";sig=" + b"x" * 60,
    b";sig=" + b"x" * 1_000,
]


def is_refusal(answer: bytes) -> bool:
    """Return True for one answer of 400, in JSON, with the headers that every answer of the API has (C31)."""
    head, _, body = answer.partition(b"\r\n\r\n")
    wanted = (b"X-Request-Id: ", b"RateLimit-Limit: ", b"Link: </docs#status-400>", b"Connection: close")
    return (
        head.startswith(BAD_REQUEST)
        and answer.count(b"HTTP/1.1 ") == 1
        and all(header in head for header in wanted)
        and json.loads(body)["error"].startswith("malformed chunked body: ")
    )


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("size", [7, 50, 10_000])
async def test_C5_chunk_extensions_are_ignored(harness: ServerHarness, extension: bytes, size: int) -> None:
    answer = await send(harness, chunked(BODY, size, extension))
    assert answer.startswith(CREATED), answer
    assert (await harness.stored(1))["message"] == "Hé 🏠" * 50


TRAILERS = [
    b"Expires: Thu, 01 Jan 2026 00:00:00 GMT\r\n",
    b"X-Checksum:abc\r\nx_y.z:\r\n",
    b"Content-Length: 5\r\nTransfer-Encoding: gzip\r\nHost: y\r\n",
    b"Digest: " + b"x" * 16_000 + b"\r\n",
    b"a: b\r\n" * 2_000,
]


@pytest.mark.parametrize("trailers", TRAILERS)
async def test_C5_trailers_are_ignored(harness: ServerHarness, trailers: bytes) -> None:
    first = HEAD + b"Trailer: Expires\r\n\r\n" + chunked(BODY, trailers=trailers)
    last = HEAD + b"Connection: close\r\n\r\n" + chunked(BODY, extension=b";a=b", trailers=trailers)
    answers = await harness.raw(first + last)
    assert re.findall(rb"HTTP/1\.1 (\d+) ", answers) == [b"201", b"201"]
    assert (await harness.stored(1))["request_host"] == "x"


async def test_C5_chunked_form_is_taken(harness: ServerHarness) -> None:
    body = b"token=maple&tour_request[requestor_email]=jane@renter.test"
    headers = b"Connection: close\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    assert (await send(harness, chunked(body, 5, b";a"), headers)).startswith(CREATED)


async def test_C5_chunks_may_arrive_in_any_pieces(harness: ServerHarness) -> None:
    """Each read of the server may end anywhere, also within a line break."""
    sent = HEAD + b"Connection: close\r\n\r\n" + chunked(BODY, 60, b';a="b"', TRAILERS[1])
    rng = random.Random(1)
    for _ in range(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(harness.url.rpartition(":")[2]))
        left = sent
        while left:
            size = rng.choice((1, 2, 3, 40))
            writer.write(left[:size])
            left = left[size:]
            await asyncio.sleep(0)
        assert (await reader.read()).startswith(CREATED)
        writer.close()
        await writer.wait_closed()


async def test_C5_body_in_chunks_of_one_byte_is_taken(harness: ServerHarness) -> None:
    assert (await send(harness, chunked(BODY.ljust(5_000), 1))).startswith(CREATED)


async def test_C16_chunked_body_over_64_kib_is_413(harness: ServerHarness) -> None:
    answer = await send(harness, chunked(BODY.ljust(65_537), 4_000, b";a=b", TRAILERS[0]))
    assert answer.startswith(b"HTTP/1.1 413 ") and b'{"error": "the body is too large' in answer


LEAD = b"%x\r\n%s\r\n" % (len(BODY), BODY)


@pytest.mark.parametrize(
    "body",
    [
        b"0x5\r\nabcde\r\n",
        b"+5\r\nabcde\r\n",
        b"-5\r\nabcde\r\n",
        b"1_0\r\n" + b"a" * 16 + b"\r\n",
        b" 5\r\nabcde\r\n",
        b"5 \r\nabcde\r\n",
        b"5 a\r\nabcde\r\n",
        b"\r\n",
        b";a=b\r\n",
        b"five\r\n",
        b"5\nabcde\r\n",
        b"5;a\nabcde\r\n",
        b"5;a\rb\r\nabcde\r\n",
        b"5\r\r\nabcde\r\n",
        b"5;a=\x00\r\nabcde\r\n",
        b"5\r\nabcdefg\r\n",
        b"5\r\nabcde\n\n0\r\n\r\n",
        b"5\r\nabcde0\r\n\r\n",
        b"f" * 16 + b"\r\n",
        b"f" * 5_000,
        b"5;" + b"a" * 4_096 + b"\r\nabcde\r\n",
        LEAD + b"0\r\n\n",
        LEAD + b"0\n\n",
        LEAD + b"0\r\nname: value\n\r\n",
        LEAD + b"0\r\nname\r\n\r\n",
        LEAD + b"0\r\nname : value\r\n\r\n",
        LEAD + b"0\r\n: value\r\n\r\n",
        LEAD + b"0\r\n folded: value\r\n\r\n",
        LEAD + b"0\r\nname: a\rb\r\n\r\n",
        LEAD + b"0\r\nname: \x00\r\n\r\n",
        LEAD + b"0\r\nGET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
        LEAD + b"0\r\nname: " + b"x" * 16_384 + b"\r\n\r\n",
        LEAD + b"0\r\n" + b"a: b\r\n" * 3_000 + b"\r\n",
    ],
)
async def test_C30_malformed_or_excessive_framing_is_400(harness: ServerHarness, body: bytes) -> None:
    answer = await send(harness, body, b"")
    assert is_refusal(answer), answer
    assert await harness.leads() == []


@pytest.mark.parametrize(
    "body",
    [b"5;" + b"a" * 1_000_000, (b"1;" + b"a" * 1_000 + b"\r\na\r\n") * 600, b"1\r\na\r\n" * 40_000],
)
async def test_C30_endless_chunk_lines_close_the_connection(harness: ServerHarness, body: bytes) -> None:
    try:
        answer = await send(harness, body + LEAD + b"0\r\n\r\n")
    except ConnectionError:  # the client still sends, and the server does not read it
        answer = b""
    assert answer == b"" or is_refusal(answer)
    assert await harness.leads() == []
    assert await harness.lead() == 1


async def test_C30_line_of_4_kib_is_taken(harness: ServerHarness) -> None:
    line = b"%x;" % len(BODY)
    line += b"a" * (4_096 - 2 - len(line)) + b"\r\n"
    assert (await send(harness, line + BODY + b"\r\n0\r\n\r\n")).startswith(CREATED)


@pytest.mark.parametrize("trailers", [b"n: " + b"x" * 16_379 + b"\r\n", b"a: bcd\r\n" * 2_048])
async def test_C30_trailers_of_16_kib_are_taken(harness: ServerHarness, trailers: bytes) -> None:
    assert len(trailers) == 16_384
    assert (await send(harness, LEAD + b"0\r\n" + trailers + b"\r\n")).startswith(CREATED)


@pytest.mark.parametrize("headers", [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"])
async def test_C30_body_with_two_framings_is_400(harness: ServerHarness, headers: bytes) -> None:
    answer = await send(harness, chunked(BODY), headers)
    assert answer.startswith(BAD_REQUEST) and answer.count(b"HTTP/1.1 ") == 1
    assert await harness.leads() == []


async def test_C30_chunks_of_a_refused_request_are_read_to_their_end(harness: ServerHarness) -> None:
    refused = HEAD + b"Origin: https://evil.test\r\n\r\n" + chunked(BODY, 9, b";a=b", TRAILERS[1])
    answers = await harness.raw(refused + HEAD + b"Connection: close\r\n\r\n" + chunked(BODY))
    assert re.findall(rb"HTTP/1\.1 (\d+) ", answers) == [b"403", b"201"]


async def test_C30_chunks_sent_without_a_pause_delay_no_other_request(
    harness: ServerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked_body, "SLICE_BYTES", 32)
    pauses, sleep = [], asyncio.sleep

    async def count(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", count)
    assert (await send(harness, chunked(BODY.ljust(1_000), 1, trailers=b"a: b\r\n" * 100))).startswith(
        CREATED
    )
    assert len(pauses) >= 100


@given(st.from_regex(CHUNK_LINE, fullmatch=True) | st.from_regex(TRAILER_LINE, fullmatch=True))
@settings(deadline=None)
def test_C30_line_that_is_taken_has_one_line_break_at_its_end(line: bytes) -> None:
    assert line.endswith(b"\r\n") and line.count(b"\r") == line.count(b"\n") == 1
