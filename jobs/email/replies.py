"""What a mail server's refusal of a mail means: for that mail, and for the others that wait (C24a)."""

import enum
import re
from dataclasses import dataclass

from models.outbox.outcomes import FailureKind

# Enhanced status codes (RFC 3463) that refuse this recipient or this content, whoever sends it.
OF_RECIPIENT = frozenset(("5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1"))
TOO_LARGE, CONTENT = "5.3.4", "5.6."
OF_MAILBOX = "5.2."  # full, over its quota
# Without an enhanced code these refuse the recipient, or any mail of this client: relaying denied.
BARE_RECIPIENT = (550, 551, 553)

# At the beginning of a line, after '#' as qmail and IronPort write it, or in brackets.
_ENHANCED = re.compile(r"(?:^|[#(\[])([245]\.\d{1,3}\.\d{1,3})(?!\.?\d)", re.MULTILINE)

_MAILBOX_FULL = "the mailbox is full: tell the agent"

# By enhanced code and text, the first that matches: what the operator can do.
_HINTS = tuple(
    (re.compile(pattern, re.IGNORECASE), hint)
    for pattern, hint in (
        (r"^5\.2\.2|mailbox (is )?full|over ?quota", _MAILBOX_FULL),
        (
            r"^5\.1\.[78]|^5\.7\.60|send ?as|sender|mail from|from address|owned by",
            "check LEADS_MAIL_FROM: the user in LEADS_SMTP_URL must be allowed to send from it",
        ),
        (
            r"relay|rcpthosts",
            "have the server relay for this machine, or put a user and password into LEADS_SMTP_URL",
        ),
        (r"helo|ehlo", "put ?helo= with this machine's name in the DNS into LEADS_SMTP_URL"),
        (r"starttls", "put starttls=always into LEADS_SMTP_URL"),
        (
            r"^5\.7\.2\d|\bspf\b|dkim|dmarc|reverse|\bptr\b|rdns|black ?list|block|reputation|dnsbl|\brbl\b",
            "check SPF, DKIM and the reverse DNS of the sender, or send through another server",
        ),
        (r"^5\.7\.0|authenticat|^530", "put a user and password into LEADS_SMTP_URL"),
        (
            r"^5\.4\.5|quota|limit|too many|too much|\brate\b",
            "the server's limit is reached: wait, or raise it",
        ),
    )
)
_ASK = "ask who runs the mail server why it refuses this mail"
_CHECK_RECIPIENT = "check the agent's address"
_CHECK_SENDER = "check LEADS_MAIL_FROM, and the user in LEADS_SMTP_URL"


class Stage(enum.Enum):
    """The command of a mail that was refused."""

    MAIL = "MAIL FROM"
    RCPT = "RCPT TO"
    DATA = "DATA"


def enhanced_code(reply: str) -> str:
    """Return the enhanced status code (RFC 3463) of a reply, such as 5.1.1; '' for none."""
    match = _ENHANCED.search(reply)
    return match[1] if match else ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a refusal means, and what the operator can do. is_of_content: the content seems to be refused."""

    kind: FailureKind
    hint: str = ""
    is_of_content: bool = False


def classify(stage: Stage, code: int, text: str, *, accepts_others: bool, uses_smtputf8: bool) -> Judgement:
    """Return what a refusal means.

    accepts_others: whether the server accepted another recipient within the hour. uses_smtputf8: whether
    MAIL FROM asked for SMTPUTF8, which only this mail's recipient needs.
    """
    enhanced = enhanced_code(text)
    hint = _hint(code, enhanced, text)
    if code == 421:
        return Judgement(FailureKind.AMBIGUOUS, hint)
    if not 500 <= code <= 599:
        return Judgement(FailureKind.TRANSIENT, hint)
    is_of_content = enhanced == TOO_LARGE or enhanced.startswith(CONTENT)
    if stage is Stage.MAIL:
        if uses_smtputf8:
            refuses_utf8 = is_of_content or code == 555
            return Judgement(FailureKind.PERMANENT if refuses_utf8 else FailureKind.REFUSED, hint)
        return Judgement(FailureKind.NEEDS_OPERATOR, hint or _CHECK_SENDER)
    if is_of_content:
        return Judgement(FailureKind.PERMANENT, is_of_content=True)
    if enhanced in OF_RECIPIENT:
        return Judgement(FailureKind.PERMANENT, _CHECK_RECIPIENT)
    if stage is Stage.RCPT and not enhanced and code in BARE_RECIPIENT and not hint:
        kind = FailureKind.PERMANENT if accepts_others else FailureKind.REFUSED
        return Judgement(kind, _CHECK_RECIPIENT)
    if enhanced.startswith(OF_MAILBOX) or enhanced == "5.1.4" or hint == _MAILBOX_FULL:
        return Judgement(FailureKind.TRANSIENT, hint or _CHECK_RECIPIENT)
    # A filter at the end of DATA names its policy, or nothing.
    seems_of_content = stage is Stage.DATA and not hint and enhanced in ("", "5.7.0", "5.7.1")
    return Judgement(FailureKind.REFUSED, hint or _ASK, seems_of_content)


def _hint(code: int, enhanced: str, text: str) -> str:
    subject = f"{enhanced or code} {text}"
    return next((hint for pattern, hint in _HINTS if pattern.search(subject)), "")
