"""What a mail server's refusal of a mail means: for that mail, and for the others that wait (C24a)."""

import enum
import re

from models.outbox.outcomes import FailureKind

# Enhanced status codes (RFC 3463) that refuse this recipient or this content, whoever sends it.
GIVEN_UP = frozenset(("5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1", "5.3.4"))
CONTENT = "5.6."
# Without an enhanced code these refuse the recipient, or any mail of this client: relaying denied.
BARE_RECIPIENT = (550, 551, 553)

# At the beginning of a line, after '#' as qmail and IronPort write it, or in brackets.
_ENHANCED = re.compile(r"(?:^|[#(\[])([245]\.\d{1,3}\.\d{1,3})(?!\.?\d)", re.MULTILINE)

# By enhanced code and text, the first that matches: what the operator can do.
_HINTS = tuple(
    (re.compile(pattern, re.IGNORECASE), hint)
    for pattern, hint in (
        (r"^5\.2\.2|mailbox (is )?full|over ?quota", "the mailbox is full: tell the agent"),
        (
            r"^5\.1\.[78]|^5\.7\.60|send ?as|sender|mail from|from address|owned by",
            "check LEADS_MAIL_FROM: the user in LEADS_SMTP_URL must be allowed to send from it",
        ),
        (
            r"relay",
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


class Stage(enum.Enum):
    """The command of a mail that was refused."""

    MAIL = "MAIL FROM"
    RCPT = "RCPT TO"
    DATA = "DATA"


def enhanced_code(reply: str) -> str:
    """Return the enhanced status code (RFC 3463) of a reply, such as 5.1.1; '' for none."""
    match = _ENHANCED.search(reply)
    return match[1] if match else ""


def classify(
    stage: Stage, code: int, text: str, *, accepts_others: bool, uses_smtputf8: bool
) -> tuple[FailureKind, str]:
    """Return what a refusal means, and what the operator can do about it.

    accepts_others: whether the server accepted another recipient within the hour. uses_smtputf8: whether
    MAIL FROM asked for SMTPUTF8, which only this mail's recipient needs.
    """
    enhanced = enhanced_code(text)
    if code == 421:
        return FailureKind.AMBIGUOUS, ""
    if not 500 <= code <= 599:
        return FailureKind.TRANSIENT, _hint(code, enhanced, text, "")
    is_content = enhanced.startswith(CONTENT) or enhanced == "5.3.4"
    if stage is Stage.MAIL:
        if uses_smtputf8:
            refuses_utf8 = is_content or code == 555
            return FailureKind.PERMANENT if refuses_utf8 else FailureKind.REFUSED, ""
        default = "check LEADS_MAIL_FROM, and the user in LEADS_SMTP_URL"
        return FailureKind.NEEDS_OPERATOR, _hint(code, enhanced, text, default)
    if is_content or enhanced in GIVEN_UP:
        return FailureKind.PERMANENT, ""
    if stage is Stage.RCPT and not enhanced and code in BARE_RECIPIENT:
        if accepts_others:
            return FailureKind.PERMANENT, ""
        return FailureKind.REFUSED, _hint(code, enhanced, text, "check the agent's address")
    # The recipient's mailbox: full, over its quota, ambiguous.
    of_mailbox = enhanced.startswith("5.2.") or enhanced == "5.1.4"
    kind = FailureKind.TRANSIENT if of_mailbox else FailureKind.REFUSED
    return kind, _hint(code, enhanced, text, _ASK)


def _hint(code: int, enhanced: str, text: str, default: str) -> str:
    subject = f"{enhanced or code} {text}"
    return next((hint for pattern, hint in _HINTS if pattern.search(subject)), default)
