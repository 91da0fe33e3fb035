"""What a mail server's refusal means for a mail (C24a)."""

import pytest

from jobs.email.replies import Stage, classify, enhanced_code
from models.outbox.outcomes import FailureKind

AMBIGUOUS, REFUSED = FailureKind.AMBIGUOUS, FailureKind.REFUSED
PERMANENT, TRANSIENT = FailureKind.PERMANENT, FailureKind.TRANSIENT


def judged(stage: Stage, reply: str, **given: bool) -> tuple[FailureKind, str]:
    code, _, text = reply.partition(" ")
    found = classify(stage, int(code), text, **{"accepts_others": False, "uses_smtputf8": False, **given})
    return found.kind, found.hint


@pytest.mark.parametrize("stage", [Stage.RCPT, Stage.DATA])
@pytest.mark.parametrize(
    "reply",
    [
        "550 5.1.1 no such user",
        "550 5.1.2 no such host",
        "553 5.1.3 bad syntax",
        "551 5.1.6 moved",
        "556 5.1.10 null MX",
        "550 5.2.1 mailbox disabled",
        "552 5.3.4 too big",
        "554 5.6.0 bad content",
        "554 5.6.7 no SMTPUTF8",
        "550 sorry, no mailbox here by that name. (#5.1.1)",
        "550 #5.1.1 unknown recipient",
    ],
)
def test_C24a_refused_recipient_or_content_is_given_up(stage: Stage, reply: str) -> None:
    assert judged(stage, reply)[0] is PERMANENT


@pytest.mark.parametrize("stage", [Stage.RCPT, Stage.DATA])
@pytest.mark.parametrize(
    ("reply", "hint"),
    [
        ("550 5.4.5 Daily user sending limit exceeded", "limit"),
        ("452 4.5.3 too many recipients", "limit"),
        ("550 5.7.60 SMTP; Client does not have permissions to SendAs", "LEADS_MAIL_FROM"),
        ("553 5.7.1 <a@b>: Sender address rejected: not owned by user c", "LEADS_MAIL_FROM"),
        ("550 5.1.8 sender domain does not exist", "LEADS_MAIL_FROM"),
        ("554 5.7.1 <a@b>: Relay access denied", "relay"),
        ("554 relay denied", "relay"),
        ("550 relay not permitted", "relay"),
        ("553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)", "relay"),
        ("504 5.5.2 <box>: Helo command rejected: need fully-qualified hostname", "helo"),
        ("550 5.7.1 Helo command rejected: Host not found", "helo"),
        ("450 4.7.1 <box>: Helo command rejected: Host not found", "helo"),
        ("530 5.7.0 Must issue a STARTTLS command first", "starttls=always"),
        ("530 5.7.0 Authentication required", "user and password"),
        ("550 5.7.25 no PTR record", "reverse DNS"),
        ("550 5.7.26 unauthenticated mail, SPF", "SPF"),
        ("554 5.7.1 Service unavailable; client host blocked using a list", "reverse DNS"),
        ("552 5.2.2 mailbox full", "full"),
        ("554 5.7.1 message is spam", "who runs"),
        ("554 no", "who runs"),
        ("550 5.1.0 address rejected", "who runs"),
    ],
)
def test_C24a_other_refusals_are_retried_and_say_what_to_do(stage: Stage, reply: str, hint: str) -> None:
    kind, said = judged(stage, reply)
    assert kind in (TRANSIENT, REFUSED)
    assert hint in said


@pytest.mark.parametrize("reply", ["550 no", "551 not here", "553 no such user"])
def test_C24a_bare_refusal_at_rcpt_counts_once_others_are_accepted(reply: str) -> None:
    assert judged(Stage.RCPT, reply)[0] is REFUSED
    assert judged(Stage.RCPT, reply, accepts_others=True)[0] is PERMANENT
    assert judged(Stage.DATA, reply, accepts_others=True)[0] is REFUSED


@pytest.mark.parametrize(
    "reply",
    [
        "550 relay not permitted",
        "550 Sender verify failed",
        "550 Daily sending quota exceeded",
        "553 Invalid HELO name",
        "553 sorry, that domain is not in my list of allowed rcpthosts",
        "550 blocked by a list",
    ],
)
def test_C24a_bare_refusal_that_names_another_cause_is_held(reply: str) -> None:
    assert judged(Stage.RCPT, reply, accepts_others=True)[0] is REFUSED


@pytest.mark.parametrize("reply", ["554 5.6.0 bad", "552 5.3.4 too big", "554 no", "550 5.7.1 spam"])
def test_C24c_refused_content_is_told_from_other_refusals(reply: str) -> None:
    code, _, text = reply.partition(" ")
    given = {"accepts_others": True, "uses_smtputf8": False}
    assert classify(Stage.DATA, int(code), text, **given).is_of_content
    for other in ("5.4.5 limit", "5.7.60 SendAs", "5.1.1 unknown", "relay denied"):
        assert not classify(Stage.DATA, 550, other, **given).is_of_content


@pytest.mark.parametrize("reply", ["550 5.1.1 who", "550 5.4.5 limit", "501 5.1.7 bad sender", "554 no"])
def test_C24a_refused_sender_is_never_laid_at_the_recipient(reply: str) -> None:
    assert judged(Stage.MAIL, reply, accepts_others=True)[0] is FailureKind.NEEDS_OPERATOR


def test_C24a_refused_smtputf8_is_the_mails_own() -> None:
    assert judged(Stage.MAIL, "550 5.6.7 no", uses_smtputf8=True)[0] is PERMANENT
    assert judged(Stage.MAIL, "555 what", uses_smtputf8=True)[0] is PERMANENT
    assert judged(Stage.MAIL, "550 5.7.1 no", uses_smtputf8=True)[0] is REFUSED


@pytest.mark.parametrize("stage", list(Stage))
def test_C24a_421_may_be_the_mails_own(stage: Stage) -> None:
    assert judged(stage, "421 4.7.0 closing")[0] is AMBIGUOUS


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("5.1.1 no", "5.1.1"),
        ("no (#5.1.1)", "5.1.1"),
        ("no\n5.7.1 more", "5.7.1"),
        ("5.1.1.", "5.1.1"),
        ("5.1.1", "5.1.1"),
        ("5.1.1.9 is an address", ""),
        ("exim 4.96.2", ""),
        ("15.1.1", ""),
        ("3.1.1", ""),
        ("", ""),
    ],
)
def test_enhanced_code_is_read_where_servers_write_it(text: str, code: str) -> None:
    assert enhanced_code(text) == code
