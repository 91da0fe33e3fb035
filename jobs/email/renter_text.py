"""What of a renter's text a mail shows.

The agent's mail filter scores a mail by all of its text, so a renter's advertising could sink the lead. Such
text leaves the subject and the bodies, and goes into an attached file as it was sent. Links stay readable,
but are no links. Decision 13 has the scores.
"""

import re
from collections.abc import Iterable
from unicodedata import normalize

from jobs.adapter import one_line

MOST_LINKS = 5  # a text with more is withheld
FILE_NAME = "renter.txt"

# Words that SpamAssassin's own rules score in a mail's text, and the words of spam that forms get.
_BAIT_WORDS = frozenset(
    """
    viagra cialis levitra sildenafil tadalafil vicodin xanax valium phentermine ambien tramadol oxycontin meds
    erectile erection penis enlargement porn porno xxx sex nudes escorts masturbating masturbation
    casino jackpot roulette gambling betting winner winnings
    bitcoin bitcoins btc ethereum crypto cryptocurrency usdt forex
    barrister beneficiary inheritance consignment fiduciary million millions billion
    backlink backlinks replica rolex unsubscribe
    gtube eicar
    """.split()
)
_BAIT_PHRASES = (
    "act now",
    "order now",
    "call now",
    "buy now",
    "click here",
    "click below",
    "limited time",
    "no obligation",
    "risk free",
    "100% free",
    "100% satisfaction",
    "make money",
    "extra cash",
    "extra income",
    "work from home",
    "money back",
    "you have won",
    "you won",
    "no prescription",
    "online pharmacy",
    "cheap pills",
    "weight loss",
    "lose weight",
    "dear friend",
    "next of kin",
    "won the lottery",
    "lottery winner",
    "lottery award",
    "national lottery",
    "winning notification",
    "claims agent",
    "verify your account",
    "verify your identity",
    "been suspended",
    "diet pill",
    "burns fat",
    "free trial",
    "as seen on",
    "penny stock",
    "stock alert",
    "our mailing list",
    "is not spam",
    "keto diet",
    "seo service",
    "seo expert",
    "seo agency",
    "first page of google",
    "website traffic",
    "$$",
)
_WORD = re.compile(r"[a-z0-9]+")
_SUM = r"(?:\d{1,3}(?:[,.]\d{3}){2,}|\d{6,})"
_LARGE_SUM = re.compile(
    rf"(?:[$€£]|\b(?:usd|gbp|eur)) ?{_SUM}|{_SUM}(?:[.,]\d\d)? ?(?:dollars|euros?|pounds|usd|gbp|eur)\b"
    r"|\b(?:gbp|eur) ?\d{3}[,.]\d{3}"
)
_CURRENCIES = ("$", "€", "£", "usd", "gbp", "eur", "dollars", "pounds")
_WALLET_LENGTH = 25  # letters and digits: an address of a Bitcoin wallet has at least as many
_SPELLED_LENGTH = 5
_LEET = str.maketrans("0134578@$!", "oieastbasi")

# What mail programs and filters take for a link. Without a scheme or www, only hosts of common domains.
_DOMAINS = (
    r"com|net|org|info|biz|ru|su|cn|top|xyz|club|online|site|shop|icu|win|bid|loan|click|link|live|store"
    r"|space|website|tech|pro|work|fun|vip|cc|tk|ml|ga|cf|gq|pw|ws|in|io|co|me|us|uk|eu|de|fr|nl|pl|br"
    r"|app|dev|page|buzz|cyou|rest|life|world|today|mobi|date|men|stream|review|trade|party|science|racing|ly"
    r"|gl|gd"
)
_DOMAIN_END = re.compile(rf"\.(?:{_DOMAINS})(?![\w-])", re.I)
_LINK = re.compile(
    r"[a-z][a-z0-9+.-]{1,20}:/{1,3}(?P<authority>[^\s/?#<>\"']+)"
    rf"|(?<![@\w.-])(?P<host>www\.[^\s/?#<>\"',;]+|(?:[\w-]+\.)+(?:{_DOMAINS})(?![\w-]))",
    re.I,
)
# Characters that show nothing: no reader could see them, but they would part or pad a text.
_INVISIBLE = {
    **dict.fromkeys(
        [0xAD, 0x34F, 0x17B4, 0x17B5, 0x200B, 0xFEFF, *range(0x180B, 0x1810), *range(0x2060, 0x2070)], ""
    ),
    **dict.fromkeys([*range(0xFFF9, 0xFFFC), *range(0x1BCA0, 0x1BCA4), *range(0xE0000, 0xE1000)], ""),
    **dict.fromkeys([0x115F, 0x1160, 0x2800, 0x3164, 0xFFA0], " "),  # fillers, as wide as a letter
}


class RenterTexts:
    """The texts of one lead. withheld: those that the mail shows otherwise than they were sent, by label."""

    def __init__(self, texts: Iterable[str | None], addresses: Iterable[str | None]) -> None:
        """texts: all that will be shown, apart from addresses, whose links stay.

        Most leads have no text that matters, so one look at all of them is enough.
        """
        together = _spaced(texts)
        self._may_have_links = may_have_links(together)
        self._may_have_bait = is_bait(f"{together} {_spaced(addresses)}")
        self.withheld: dict[str, str] = {}

    def shown(self, label: str, text: str, *, links: bool = False) -> str:
        """Return the text as the mail shows it: '' if it is withheld. links: leave links as they are."""
        found = len(_LINK.findall(text)) if self._may_have_links and not links else 0
        if found > MOST_LINKS or (self._may_have_bait and is_bait(text)):
            shown = ""
        elif found:
            shown = _LINK.sub(_unlinked, text)
        else:
            return text
        self.withheld[label] = text
        return shown


def is_bait(text: str) -> bool:
    """Return whether a mail filter may take the text for spam."""
    text = (text if text.isascii() else normalize("NFKC", text).translate(_INVISIBLE)).lower()
    words = _WORD.findall(text)
    if not _BAIT_WORDS.isdisjoint(words) or any(map(text.__contains__, _BAIT_PHRASES)):
        return True
    if any(map(text.__contains__, _CURRENCIES)) and _LARGE_SUM.search(text):
        return True
    spelled = "".join([word if len(word) == 1 else " " for word in words]).translate(_LEET)  # v.i.a.g.r.a
    if any(bait in run for run in spelled.split() if len(run) >= _SPELLED_LENGTH for bait in _BAIT_WORDS):
        return True
    mixed = [word for word in words if not (word.isalpha() or word.isdigit())]
    if "!" in text or "$" in text:
        mixed += _WORD.findall(text.translate(_LEET))
    return any(
        word.translate(_LEET) in _BAIT_WORDS or (len(word) >= _WALLET_LENGTH and not word.isalpha())
        for word in mixed
    )


def may_have_links(text: str) -> bool:
    """Return whether the text may have a link. It takes a tenth of the time of looking for them."""
    return ":/" in text or "www." in text.lower() or _DOMAIN_END.search(text) is not None


def visible_line(text: object, limit: int | None = None) -> str:
    """Return the text on one line, as `one_line`, without characters that show nothing."""
    line = one_line(text, limit)
    return line if line.isascii() else one_line(line.translate(_INVISIBLE), limit)


def file_of(leads: Iterable[tuple[int, RenterTexts]]) -> bytes | None:
    """Return the text file of what is withheld of these leads, each with its number; None without any."""
    # It never begins with a renter's text: a virus scanner tells a file by how it begins.
    sections = [
        f"{label} of lead {number}, as it was sent:\n\n{text}\n"
        for number, texts in leads
        for label, text in texts.withheld.items()
    ]
    return "\n\n".join(sections).encode() if sections else None


def _spaced(texts: Iterable[str | None]) -> str:
    text = " ".join(" ".join(filter(None, texts)).split())
    return text if text.isascii() and text.isprintable() else visible_line(text)


def _unlinked(link: re.Match[str]) -> str:
    return (link["authority"] or link["host"]).replace(".", "[.]")
