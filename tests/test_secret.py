"""The installation's secret: made once, kept by backups and restores, and replaced without losing a retry."""

import hashlib
import json
import shutil
import stat
import zlib
from pathlib import Path

import databases
import orjson
import pytest
from command_line import ACTOR, Commands
from conftest import ServerHarness, StartHarness, SteppedClock
from test_plain_forms import send, thanked
from tornado.httpclient import HTTPResponse

from models.building_actions import update_building
from models.idempotency import IdempotencyKey
from models.secret import FILE_NAME, InstallationSecret, rotate_secret
from models.settings import SettingError
from models.spam import FLOOD_COUNT, RecentText
from models.storage.sqlite.backup import create_backup
from models.storage.sqlite.restore import restore_backup

LEAD = {"token": "maple", "tour_request": {"requestor_email": "jane@renter.test"}}
KEY = {"Idempotency_Key": "one-form"}


def id_of(response: HTTPResponse) -> int:
    assert response.code == 201, response.body
    return int(json.loads(response.body)["id"])


async def test_the_first_start_makes_a_private_secret(harness: ServerHarness) -> None:
    file = harness.data_dir / FILE_NAME
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_bytes()
    await harness.restart()
    assert file.read_bytes() == before


def test_each_installation_has_a_secret_of_its_own(tmp_path: Path, clock: SteppedClock) -> None:
    made = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        secret = InstallationSecret(tmp_path / name, clock)
        secret.open()
        made.append(secret.keys().keys)
    assert made[0] != made[1] and [len(key) for (key,) in made] == [32, 32]


async def test_a_secret_that_others_can_read_is_made_private(harness: ServerHarness) -> None:
    file = harness.data_dir / FILE_NAME
    await harness.server.stop()
    file.chmod(0o644)
    await harness.start()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_a_rotation_keeps_retries_and_pages_for_a_day(
    harness: ServerHarness, clock: SteppedClock
) -> None:
    assert id_of(await harness.post(LEAD, **KEY)) == 1
    page = await send(harness)
    before = harness.server._secret.keys().keys
    rotate_secret(harness.data_dir, clock.now())  # as a command beside the server does
    await thanked(harness, page)
    assert id_of(await harness.post(LEAD, **KEY)) == 1
    after = harness.server._secret.keys().keys
    assert after[0] != before[0] and after[1:] == before
    await thanked(harness, await send(harness))
    await harness.restart()
    assert id_of(await harness.post(LEAD, **KEY)) == 1
    clock.step(24 * 3_600 + 1)
    await harness.restart()
    assert harness.server._secret.keys().keys == after[:1]


async def test_a_secret_by_setting_is_rotated_by_naming_both(start_harness: StartHarness) -> None:
    harness = await start_harness(secret="the-first-secret-of-all")
    await harness.building()
    assert not (harness.data_dir / FILE_NAME).exists()
    assert id_of(await harness.post(LEAD, **KEY)) == 1
    await harness.restart(secret="another-long-secret, the-first-secret-of-all")
    assert id_of(await harness.post(LEAD, **KEY)) == 1
    if databases.IS_POSTGRESQL:  # where another server may have the secret
        with pytest.raises(SettingError, match="another secret"):
            await harness.restart(secret="a-third-secret-is-this")
        await harness.start(secret="another-long-secret")
    else:
        await harness.restart(secret="a-third-secret-is-this")
        assert id_of(await harness.post(LEAD, **KEY)) == 2


@pytest.mark.sqlite("backups of PostgreSQL hold no secret")
async def test_a_restored_backup_keeps_its_secret(harness: ServerHarness, clock: SteppedClock) -> None:
    assert id_of(await harness.post(LEAD, **KEY)) == 1
    backup = harness.data_dir / "b" / "copy.db"
    create_backup(harness.data_dir, backup)
    beside = backup.with_name("copy.db.secret")
    assert stat.S_IMODE(beside.stat().st_mode) == 0o600
    location = (await send(harness)).headers["Location"]
    await harness.server.stop()
    elsewhere = harness.data_dir.with_name("elsewhere")
    restore_backup(elsewhere, backup, clock.now(), lambda step: None, lambda now: None)
    harness.data_dir = elsewhere
    await harness.start()
    assert (await harness.request("GET", location)).code == 200
    assert id_of(await harness.post(LEAD, **KEY)) == 1


@pytest.mark.sqlite("backups of PostgreSQL hold no secret")
async def test_a_restore_over_a_rotated_secret_keeps_both(
    harness: ServerHarness, clock: SteppedClock
) -> None:
    assert id_of(await harness.post(LEAD, **KEY)) == 1
    backup = harness.data_dir / "b" / "copy.db"
    create_backup(harness.data_dir, backup)
    clock.step(3_600)
    rotate_secret(harness.data_dir, clock.now())
    (harness.data_dir / FILE_NAME).unlink()
    rotate_secret(harness.data_dir, clock.now())  # as if the key of the backup were long gone
    newest = harness.server._secret.keys().keys[0]
    await harness.server.stop()
    restore_backup(harness.data_dir, backup, clock.now(), lambda step: None, lambda now: None)
    await harness.start()
    keys = harness.server._secret.keys().keys
    assert len(keys) == 2 and keys[0] == newest
    assert id_of(await harness.post(LEAD, **KEY)) == 1


@pytest.mark.sqlite("a copied folder would be of the same database")
async def test_a_copied_folder_keeps_its_secret(harness: ServerHarness) -> None:
    assert id_of(await harness.post(LEAD, **KEY)) == 1
    await harness.server.stop()
    copied = harness.data_dir.with_name("copied")
    shutil.copytree(harness.data_dir, copied)
    harness.data_dir = copied
    await harness.start()
    assert id_of(await harness.post(LEAD, **KEY)) == 1


@pytest.mark.parametrize(
    "content", [b"", b"# only a comment\n", b"short\n", b"\xff\xfe", b"A" * 43 + b"= x y\n"]
)
def test_a_damaged_secret_is_put_aside(tmp_path: Path, content: bytes, clock: SteppedClock) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    secret = InstallationSecret(tmp_path, clock)
    secret.open()
    assert len(secret.keys().keys[0]) == 32
    [aside] = tmp_path.glob(FILE_NAME + ".damaged-*")
    assert aside.read_bytes() == content


@pytest.mark.sqlite("backups of PostgreSQL hold no secret")
async def test_a_damaged_secret_stops_no_backup_and_no_restore(
    harness: ServerHarness, clock: SteppedClock
) -> None:
    (harness.data_dir / FILE_NAME).write_bytes(b"damaged")
    assert (await harness.post(LEAD, **KEY)).code == 201  # the keys in memory count
    backup = harness.data_dir / "b" / "copy.db"
    create_backup(harness.data_dir, backup)
    await harness.server.stop()
    restored = restore_backup(harness.data_dir, backup, clock.now(), lambda step: None, lambda now: None)
    assert not restored.has_secret
    await harness.start()
    assert len(await harness.leads()) == 1
    assert not list(harness.data_dir.glob("*.partial"))


async def test_a_rotated_key_stops_to_count_in_a_running_server(
    harness: ServerHarness, clock: SteppedClock
) -> None:
    rotate_secret(harness.data_dir, clock.now())
    assert len(harness.server._secret.keys().keys) == 2
    clock.step(24 * 3_600 + 1)
    assert len(harness.server._secret.keys().keys) == 1


def test_secret_rotate_replaces_the_key(commands: Commands, clock: SteppedClock) -> None:
    if not databases.IS_POSTGRESQL:
        assert "no leads.db" in commands.refusal("secret", "rotate")
    commands.leads({})
    assert "the first start of the server makes it" in commands.refusal("secret", "rotate")
    InstallationSecret(commands.data_dir, clock).open()
    result = commands.row("secret", "rotate")
    assert result["file"] == str(commands.data_dir / FILE_NAME)
    first = Path(result["file"]).read_text().splitlines()
    commands.run("secret", "rotate")
    second = Path(result["file"]).read_text().splitlines()
    assert len(second) == len(first) + 1 and second[2].startswith(first[1] + " retired ")
    commands.settings["secret"] = "sixteen-characters"
    assert "LEADS_SECRET" in commands.refusal("secret", "rotate")
    commands.settings["secret"] = "short"
    refused = commands.refusal("secret", "rotate")
    assert "LEADS_SECRET" in refused and "short" not in refused


async def test_keys_of_schema_5_keep_making_retries_safe(harness: ServerHarness, clock: SteppedClock) -> None:
    """The retry of a lead that was stored before an upgrade gets that lead's id."""
    assert id_of(await harness.post(LEAD, **KEY)) == 1
    digest, body = unkeyed(LEAD, "one-form")
    await harness.change(lambda: IdempotencyKey.update(digest=digest, body=body, source=b"").execute())
    await harness.restart()
    rows = await harness.server.storage.read(lambda: list(IdempotencyKey.select()))
    assert rows[0].digest != digest and rows[0].source != b""
    assert id_of(await harness.post(LEAD, **KEY)) == 1


def unkeyed(lead: object, key: str) -> list[bytes]:
    """Return the digests of a key and a body as schema 5 stored them."""
    body = orjson.dumps(lead, option=orjson.OPT_SORT_KEYS)
    return [hashlib.sha256(text).digest() for text in (f"building 1\n{key}".encode(), body)]


MESSAGE = "Is 4B  still FREE?"
RENTER = {
    "requestor_name": "Jane Doe",
    "requestor_email": "jane@renter.test",
    "requestor_phone": "+1 718 555 0143",
    "message": MESSAGE,
}


async def defend(harness: ServerHarness, building: int = 1) -> None:
    change = {"spam_defence": "hold"}
    await harness.change(lambda: update_building(ACTOR, building, change, harness.clock.now()))


async def digests_of_texts(harness: ServerHarness) -> list[bytes]:
    rows = await harness.server.storage.read(lambda: list(RecentText.select().order_by(RecentText.lead)))
    return [bytes(row.digest) for row in rows]


def plain_digests(*texts: str) -> set[bytes]:
    """Return the digests that somebody could make of these texts without a secret, raw and as text."""
    made: set[bytes] = set()
    for text in texts:
        for form in {text, text.lower(), text.casefold(), " ".join(text.casefold().split())}:
            for name in (
                "md5",
                "sha1",
                "sha224",
                "sha256",
                "sha384",
                "sha512",
                "blake2b",
                "blake2s",
                "sha3_256",
            ):
                digest = hashlib.new(name, form.encode())
                made |= {digest.digest(), digest.hexdigest().encode()}
            made.add(str(zlib.crc32(form.encode())).encode())
    return made


async def test_no_stored_digest_of_a_renters_data_can_be_made_without_the_secret(
    harness: ServerHarness,
) -> None:
    await defend(harness)
    lead = {"token": "maple", "tour_request": RENTER}
    assert id_of(await harness.post(lead, **KEY)) == 1
    guesses = plain_digests(
        *RENTER.values(),
        "+17185550143",
        *("one-form", "building 1\none-form", "127.0.0.1", "source 127.0.0.1\none-form"),
        orjson.dumps(lead, option=orjson.OPT_SORT_KEYS).decode(),
    )
    stored = databases.values(harness.data_dir)
    assert MESSAGE.encode() in stored and any(len(value) == 32 for value in stored)
    assert not stored & guesses


async def test_a_text_has_another_digest_in_each_installation(start_harness: StartHarness) -> None:
    digests = []
    for _ in range(2):
        harness = await start_harness(rate_limit="100000/1")
        await harness.building()
        await defend(harness)
        for message in (MESSAGE, MESSAGE.lower(), "Another"):
            await harness.lead(token="maple", message=message)
        digests += await digests_of_texts(harness)
    assert digests[0] == digests[1] and digests[3] == digests[4]
    assert len(set(digests)) == 4


@pytest.mark.parametrize("rotations", [1, 2])
async def test_a_flood_is_known_across_a_rotation(start_harness: StartHarness, rotations: int) -> None:
    harness = await start_harness(rate_limit="100000/1")
    await harness.building()
    await defend(harness)

    async def suspected() -> bool:
        lead = await harness.lead(token="maple", message=MESSAGE)
        return (await harness.stored(lead))["suspected"] is not None

    assert not any([await suspected() for _ in range(3)])
    for _ in range(rotations):
        rotate_secret(harness.data_dir, harness.clock.now())
    assert not any([await suspected() for _ in range(FLOOD_COUNT - 3)])
    assert await suspected()
    assert len(set(await digests_of_texts(harness))) == 2


@pytest.mark.sqlite("no version without a secret was on PostgreSQL")
async def test_a_start_forgets_digests_that_were_made_without_the_secret(harness: ServerHarness) -> None:
    await defend(harness)
    lead = await harness.lead(token="maple", message=MESSAGE)
    plain = hashlib.sha256(" ".join(MESSAGE.casefold().split()).encode()).digest()

    def as_before() -> None:
        RecentText.update(digest=plain).where(RecentText.lead == lead).execute()

    await harness.change(as_before)
    assert await digests_of_texts(harness) == [plain]
    await harness.restart(rate_limit="100000/1")
    assert await digests_of_texts(harness) == []
