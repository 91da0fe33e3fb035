"""A renter's or a page's text can't pass for the mail's own, nor sink the mail in a filter."""

import re
from typing import Any, cast

import pytest
from test_email_message import Page, content, context, parse, rendered

from jobs.email.message import render
from jobs.email.renter_text import is_bait

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
]


def lines_of(lead: dict[str, Any]) -> list[str]:
    return content(rendered({"sms_consent": False, **lead}), "plain").splitlines()


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
    labels = [match[0] for line in lines if (match := LABEL.match(line))]
    assert labels == [match[0] for line in honest if (match := LABEL.match(line))]
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
        assert "renter.txt has this as it was sent: Message." in content(message, "plain")


@pytest.mark.parametrize(
    "text",
    [
        "Buy VIAGRA now",
        "v1agra",
        "c1al!s",
        "V.1.A.G.R.A today",
        "GBP 850,000",
        "ＶＩＡＧＲＡ",
        "via\u200bgra",
        "Earn 1.000.000 dollars",
        "$1,000,000",
        "send it to 1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2",
        "ACT NOW!",
        "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X",
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
    # Keys are cleaned of what shows nothing.
    assert text in sent or text.replace("\u200b", "") in sent
    assert not sent.startswith(text)


@pytest.mark.parametrize(
    "text",
    [
        "Is the roof open? I have a small dog.",
        "I won the housing lottery and look for a 1 bedroom under $2,750/month, moving 12/01/2026.",
        "PLEASE CALL ME ASAP 555-123-4567!!!",
        "Min Seo, Kin Wong and Keto Gelashvili would like a tour slot at 10 or 11.",
        "Es el apartamento 4B todavía disponible? Gracias, José",
        "My income is $120,000 a year, my credit score 780.",
    ],
)
def test_honest_texts_are_no_bait(text: str) -> None:
    assert not is_bait(text)
    message = rendered({"message": text, "slot": None})
    assert text in content(message, "plain") and not list(message.iter_attachments())


def test_name_with_a_link_is_no_subject() -> None:
    message = rendered({"requestor_name": "Visit https://x.top now", "unit_preference": "www.y.top"})
    assert message["Subject"] == "New lead: jane+rent@home.test at The Maple"
    assert message["Reply-To"] == "jane+rent@home.test"
    assert content(message, "plain").startswith("Visit x[.]top now\nwww[.]y[.]top at The Maple\n")
