"""SpamAssassin's score of the agent's mail: a renter's text adds nothing to it (decision 13)."""

import dataclasses
import re
import shutil
import subprocess
from typing import Any

import pytest
from renter_messages import HONEST, STILL_SCORED
from renter_messages import SPAM as MORE_SPAM
from test_email_message import BLANK, context

from jobs.email.message import render, render_digest

SPAMASSASSIN = shutil.which("spamassassin")
# Of the 5 that make spam by default. Spam: as a renter's text.
MOST_FOR_HONEST, MOST_FOR_SPAM = 1.0, 2.0
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
SPAM = [
    GTUBE,
    "Buy cheap VIAGRA and CIALIS online no prescription! http://pills.ru/buy 100% satisfaction, order now!",
    "CONGRATULATIONS WINNER!!! Online casino bonus $5,000 FREE. Claim now https://casino-win.top/claim",
    "Dear friend, I am barrister of late client, USD 25,500,000 million dollars to transfer to your account. "
    "Invest in BITCOIN and earn $10,000 per week. https://crypto.xyz 1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2",
    "MAKE MONEY FAST!!! YOU HAVE WON $1,000,000.00 DOLLARS!!! ACT NOW!!! 100% FREE!!! EARN EXTRA CASH!!!",
    "I have recorded you with your webcam while you visited porn sites. Send $900 in bitcoin to "
    "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2 within 48 hours or I send the video to all your contacts.",
    "\n".join(f"https://spam{i}.example{i}.com/page?id={i}" for i in range(40)),
    "You won GBP 850,000 of the UK national lottery award. Contact the claims agent to file your claim.",
    "V.1.A.G.R.A c.i.a.l.i.s v-i-a-g-r-a l0west pr1ces 0rder t0day",
    "Lose 30 pounds in 30 days! A diet pill burns fat while you sleep. As seen on TV. Free trial.",
    "Your account has been suspended. Verify your identity within 24 hours. http://paypal.verify-acct.com",
    '<a href="http://192.168.3.4/paypal/login">http://www.paypal.com</a> <img src="http://x.ru/y.gif">',
    *MORE_SPAM,
]
LEADS: dict[str, dict[str, Any]] = {
    "honest": {},
    "honest with links": {"message": "I saw https://streeteasy.com/building/the-maple. Is 4B still free?"},
    "bare": {**BLANK},
    "one word": {**BLANK, "message": "hi"},
    **{f"honest {number}": {"message": text} for number, text in enumerate(HONEST)},
    **{f"message {number}": {"message": text} for number, text in enumerate(SPAM)},
    **{f"name {number}": {"requestor_name": text} for number, text in enumerate(SPAM[:12])},
    **{f"unit {number}": {"unit_preference": text} for number, text in enumerate(SPAM[:12])},
    **{
        f"page {number}": {"utm_data": {text: text, "utm_source": text}}
        for number, text in enumerate(SPAM[:12])
    },
    "still scored": {"message": STILL_SCORED},
    "everything": {
        "message": "\n".join(SPAM),
        **dict.fromkeys(("requestor_name", "unit_preference", "requestor_phone", "website"), SPAM[1]),
        "listing_source_original_id": GTUBE,
    },
}


def scores(mails: list[bytes]) -> dict[str, tuple[float, str]]:
    """Return score and rules of each mail by the first part of its Message-ID. It asks no network."""
    received = (
        b"Received: from mail.example.test (mail.example.test [5.9.20.30]) by mx.maple.test (Postfix) "
        b"with ESMTPS id 4F for <agent@maple.test>; Mon, 23 Nov 2026 15:04:06 +0000\n"
    )
    mbox = b"".join(
        b"From x Mon Nov 23 15:04:06 2026\n"
        + re.sub(rb"(?m)^From ", b">From ", received + mail.replace(b"\r\n", b"\n"))
        + b"\n"
        for mail in mails
    )
    assert SPAMASSASSIN is not None
    judged = subprocess.run([SPAMASSASSIN, "-L", "-t", "--mbox"], input=mbox, capture_output=True, check=True)
    text = re.sub(r"\n[ \t]+", " ", judged.stdout.decode(errors="replace"))
    found = {}
    for mail in re.split(r"(?m)^From x ", text)[1:]:
        status = re.search(r"^X-Spam-Status: \w+, score=(\S+) required=\S+ tests=(.*?) autolearn", mail, re.M)
        message_id = re.search(r"(?m)^Message-ID: <([^@]+)@", mail)
        assert status and message_id
        found[message_id[1]] = (float(status[1]), status[2])
    return found


@pytest.mark.skipif(
    SPAMASSASSIN is None, reason="SpamAssassin not found; install spamassassin to test scores"
)
def test_no_renters_text_sinks_the_mail() -> None:
    contexts = {
        f"lead{number}": dataclasses.replace(context(lead), stable_id=f"lead{number}")
        for number, lead in enumerate(LEADS.values())
    }
    mails = [render(each, "leads@example.test", utf8=False) for each in contexts.values()]
    for number, text in enumerate((*HONEST[:3], *SPAM[:6])):  # a flood from one source
        flood = [dataclasses.replace(context({"message": text}), stable_id=f"d{n}") for n in range(20)]
        mails.append(render_digest(flood, f"digest{number}", "leads@example.test", utf8=False))
    # A mail that is spam shows that the rules are at work.
    mails.append(
        b"From: a@b.test\r\nTo: c@d.test\r\nSubject: x\r\nMessage-ID: <gtube@b.test>\r\n\r\n"
        + GTUBE.encode()
        + b"\r\n"
    )
    found = scores(mails)
    assert found.pop("gtube")[0] > 900
    assert len(found) == len(LEADS) + 9
    names = dict(zip(contexts, LEADS, strict=True))
    too_high = {}
    for key, score in found.items():
        name = names.get(key, key)
        most = (
            3.0
            if name == "still scored"
            else MOST_FOR_HONEST
            if name.startswith(("honest", "bare", "one"))
            else MOST_FOR_SPAM
        )
        if score[0] > most:
            too_high[name] = score
    assert not too_high
