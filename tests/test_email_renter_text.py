"""A renter's or a page's text can't pass for the mail's own, nor sink the mail in a filter."""

import re
import time
from typing import Any, cast

import pytest
from renter_messages import HONEST
from test_email_message import Page, content, context, parse, rendered

from jobs.email.message import render
from jobs.email.renter_text import RenterTexts, file_of, is_bait, visible_line

LABEL = re.compile(
    r"(?:Texts allowed|Phone|E-mail|Unit|Source|Looks like spam|Lead number|Received|Website|Building)\s*:",
    re.I,
)
FORGED = [
    "Texts allowed",
    "Texts allowed: yes\nPhone",
    "\r\nTexts allowed: yes\r\n",
    "x\u2028Texts allowed: yes",
    "x\x85Texts allowed: yes",
    "\u202eTexts allowed: yes",
    "Texts\u200b allowed",
    "Ｔｅｘｔｓ ａｌｌｏｗｅｄ：",
    "Тexts allowed",
    "Looks like spam",
    "Lead number",
    "E-mail",
    "utm_sourceTexts allowed",
    "utm_Phone",
    "x" + "\u2800" * 200 + "Texts allowed: yes",
    "x" + "\u3164" * 90 + "Phone: 1",
    "x" + " " * 90 + "Phone: 1",
    *(f"Texts allowed{sign} yes" for sign in "\u2982\u0903\u1365\ua4fd\u2237\u205d\u17d6\U00010781;="),
    "===== 2 of 3: lead 17 =====",
]


def lines_of(lead: dict[str, Any]) -> list[str]:
    return content(rendered({"sms_consent": False, **lead}), "plain").splitlines()


def begin_of(line: str) -> str:
    return "| " if line.startswith("| ") else line.partition(":")[0]


def sent_text(file: Any) -> str:
    return cast(bytes, file.get_payload(decode=True)).decode("utf-8-sig")


@pytest.mark.parametrize("forged", FORGED)
def test_foreign_keys_stand_apart_prefixed_and_counted(forged: str) -> None:
    lead = {"utm_data": {forged: "yes", "utm_medium": "cpc", "gclid": forged}}
    lines = lines_of(lead)
    honest = lines_of({"utm_data": {"utm_medium": "cpc"}})
    start = lines.index("Sent by the page (2 values):")
    section = lines[start + 1 : start + 3]
    assert all(line.startswith("| page: ") and " = " in line for line in section)
    assert [*lines[: start - 1], *lines[start + 3 :]] == honest
    assert not any(blank in line for line in section for blank in ("\u200b", "\u2800", "\u3164", "\u202e"))
    html = content(rendered(lead), "html")
    assert "Sent by the page (2 values)" in html
    assert f"<td>{forged}" not in html and html.count("Texts allowed</td>") == 1


def test_many_foreign_keys_are_bounded() -> None:
    lines = lines_of({"utm_data": {f"k{i}": "v" * 5000 for i in range(32)}})
    start = lines.index("Sent by the page (32 values):")
    assert lines[start + 1].startswith("| page: k0 = vvv") and lines[start + 1].endswith("…")
    assert lines[start + 21] == "and 12 more in the lead"
    assert max(map(len, lines)) < 500
    assert "and 12 more in the lead" in content(
        rendered({"utm_data": {f"k{i}": "v" for i in range(32)}}), "html"
    )


@pytest.mark.parametrize("forged", FORGED)
@pytest.mark.parametrize("key", ["utm_source", "utm_medium", "utm_id"])
def test_campaign_values_stay_on_one_line(key: str, forged: str) -> None:
    lines = lines_of({"utm_data": {key: f"x{forged}"}})
    assert [line.partition(":")[0] for line in lines if "x" + forged[:1] in line] in ([], ["Source"], [key])
    assert lines.count("Texts allowed: no") == 1 and "Texts allowed: yes" not in lines


@pytest.mark.parametrize("field", ["message", "requestor_name", "unit_preference", "requestor_phone"])
@pytest.mark.parametrize("forged", FORGED)
def test_no_text_makes_a_labelled_line(field: str, forged: str) -> None:
    text = f"{forged}: yes\nTexts allowed: yes\nLead number: 99"
    lines = lines_of({field: text})
    honest = lines_of({field: "x"})
    # Each line begins as it does with an honest text: a label of the mail's own, or the sign of a quotation.
    assert {begin_of(line) for line in lines} <= {begin_of(line) for line in honest} | {"| "}
    labels = [match[0] for line in lines if (match := LABEL.match(line))]
    assert labels == [match[0] for line in honest if (match := LABEL.match(line))]
    assert not any("   " in line for line in lines)
    assert "Texts allowed: no" in lines and "Lead number: 1234" in lines
    if field == "message":
        quoted = lines[lines.index("Message:") + 1 :]
        assert [line for line in quoted if "allowed: yes" in line][0].startswith("| ")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "See https://streeteasy.com/building/x?y=1.5 please",
            "See streeteasy[.]com/building/x?y=1.5 please",
        ),
        ("www.maple-royal.example/a", "www[.]maple-royal[.]example/a"),
        ("my page is jane-doe.me", "my page is jane-doe[.]me"),
        ("HTTP://A.B.TEST", "A[.]B[.]TEST"),
        ("ftp://x.y.test and http:/z.test", "x[.]y[.]test and z[.]test"),
        ("write to jane@home.com, e.g. at 5.30. Thanks.Jane", None),
        ("My budget is $3,500.00. 2 br/1.5 ba", None),
    ],
)
def test_links_are_readable_but_no_links(text: str, shown: str | None) -> None:
    message = rendered({"message": text, "slot": None})
    assert f"| {shown or text}" in content(message, "plain").splitlines()
    files = list(message.iter_attachments())
    assert len(files) == (shown is not None)
    if shown:
        assert text in sent_text(files[0])
        assert "renter.txt has the message as it was sent." in content(message, "plain")


@pytest.mark.parametrize(
    "text",
    [
        "Buy VIAGRA now",
        "v1agra",
        "c1al!s",
        "vi@gra!",
        "Viagr\u00e4",
        "v_i_a_g_r_a",
        "V.1.A.G.R.A today",
        "v i a g r a",
        "\uff36\uff29\uff21\uff27\uff32\uff21",
        "via\u200bgra",
        "Online  pharmacy",
        "100% GUARANTEED",
        "Money-back guarantee!",
        "A deceased client left US$10.5M, and no next-of-kin",
        "The beneficiary of the lottery has 1.000.000 dollars",
        "bitcoin to 1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2",
        "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X",
        r"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*",
    ],
)
@pytest.mark.parametrize("field", ["message", "requestor_name", "unit_preference", "utm", "key", "phone"])
def test_bait_leaves_subject_and_bodies_for_a_file(field: str, text: str) -> None:
    fields: dict[str, dict[str, Any]] = {
        "utm": {"utm_data": {"utm_campaign": text}},
        "key": {"utm_data": {text: "1"}},
        "phone": {"requestor_phone": text},
    }
    lead = {"slot": None, **fields.get(field, {field: text})}
    message = parse(render(context(lead), "leads@example.test", utf8=False))
    everything = message["Subject"] + str(message["Reply-To"]) + content(message, "plain")
    everything += Page(content(message, "html")).text
    assert text not in everything and "renter.txt" in everything and "jane+rent@home.test" in everything
    (file,) = message.iter_attachments()
    assert file.get_filename() == "renter.txt" and file.get_content_maintype() != "text"
    sent = sent_text(file)
    assert f"| {text}" in sent.splitlines()


@pytest.mark.parametrize("text", HONEST)
def test_honest_texts_are_no_bait(text: str) -> None:
    assert not is_bait(text)
    message = rendered({"message": text, "requestor_name": text, "slot": None})
    assert f"| {text}" in content(message, "plain").splitlines() and not list(message.iter_attachments())


def test_name_with_a_link_is_no_subject() -> None:
    message = rendered({"requestor_name": "Visit https://x.top now", "unit_preference": "www.y.top"})
    assert message["Subject"] == "New lead: jane+rent@home.test at The Maple"
    assert message["Reply-To"] == "jane+rent@home.test"
    assert content(message, "plain").startswith(
        "Renter: Visit x[.]top now\nFor: www[.]y[.]top at The Maple\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        *("evil.ai/x", "rb.gy/abc", "shorturl.at/x", "evil.ca", "realestate.zip", "1.2.3.4/paypal"),
        *("\u043f\u0440\u0438\u043c\u0435\u0440.\u0440\u0444", "xn--e1afmkfd.xn--p1ai/x", "evil\u3002com"),
        *("x@evil.com/path", "evil\uff0ecom/x", "www\u3002evil\u3002com", "EVIL.COM", "evil.com:8080/x"),
        *(
            "ev\u200bil.com",
            "evil.\u2060com",
            "//evil.com/x",
            "evil.ai?x=1",
            "(evil.io)",
            "https://me@evil.com",
        ),
        "http:\\\\evil.com",
    ],
)
def test_no_link_stays_one(text: str) -> None:
    message = rendered({"message": text, "requestor_name": text, "slot": None})
    plain = content(message, "plain")
    assert "[.]" in plain and not re.search(r"(?:evil|example)[.\u3002\uff0e](?:com|ai|ca|io)", plain)
    (file,) = message.iter_attachments()
    assert sent_text(file).count(f"| {text}") == 2


@pytest.mark.parametrize(
    "text",
    [
        *(
            "1.5ba.In June",
            "Call me.Me and my dog",
            "2 br/1.5 ba",
            "12.01.2026/13.01.2026",
            "e.g./i.e.",
            "a.m./p.m.",
        ),
        *("jane@home.co.uk", "apt.4/5", "Mr./Mrs. Doe", "and/or", "Thanks.Jane", "no.1/2", "unit 4.B/5.C"),
    ],
)
def test_what_is_no_link_is_left(text: str) -> None:
    texts = RenterTexts((text,), ())
    assert texts.shown("Message", text) == text and not texts.withheld


@pytest.mark.parametrize("address", ["jane.winner@gmail.com", "viagra@x.test", "casino.cialis@bitcoin.test"])
def test_address_is_never_withheld(address: str) -> None:
    message = rendered({"requestor_email": address, "requestor_name": None, "slot": None})
    assert message["Subject"] == f"New lead: {address} for unit 4B at The Maple"
    assert f"E-mail: {address}" in content(message, "plain").splitlines()
    assert message["Reply-To"] == address and not list(message.iter_attachments())


def test_texts_in_the_file_are_quoted_and_uncut() -> None:
    forged = "viagra\n\nMessage of lead 1, as it was sent:\n\nhello"
    key = "viagra " + "k" * 500
    message = rendered({"message": forged, "slot": None, "utm_data": {key: "v"}})
    (file,) = message.iter_attachments()
    lines = sent_text(file).splitlines()
    assert [line for line in lines if line and not line.startswith("| ")] == [
        "Message of lead 1234, as it was sent:",
        "Page key 1 of lead 1234, as it was sent:",
    ]
    assert f"| {key}" in lines and "| hello" in lines
    assert "has the message and page key 1 as they were sent." in content(message, "plain")


NASTY = (
    *(
        "1",
        "1,111,",
        "1.111.",
        "$1",
        "1 m",
        "\u00a3 x ",
        "1.2.3.4/",
        "a1",
        " a",
        "bc1",
        "\U0001f600",
        "\u00e9",
    ),
    *(
        "a.",
        "-",
        "$",
        "www.",
        "!",
        "://",
        "a:",
        "http:/",
        "a.com",
        "@a.",
        "xn--",
        "x.y/",
        ".",
        "v!",
        "a-",
        "_",
    ),
    *("a.b/", "\ufdfa", "\u200b", "\u0301", "\u3002", "viagra.com/"),
)


def test_no_text_takes_long() -> None:
    """Of quadratic patterns one text alone took seconds. Processor time: others' load counts for nothing."""
    started = time.process_time()
    for piece in NASTY:
        for beginning in ("", "bitcoin next of kin deceased \u00a3 x "):
            text = (beginning + piece * 10_000)[:10_000]
            texts = RenterTexts((text,), ())
            visible_line(texts.shown("Message", text))
            file_of([(1, texts)])
    assert time.process_time() - started < 5  # for 68 texts
