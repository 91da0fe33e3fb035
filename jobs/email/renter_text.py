"""What of a renter's text a mail shows.

The agent's mail filter scores a mail by all of its text, so a renter's advertising could sink the lead. Such
text leaves the subject and the bodies, and goes into an attached file as it was sent. Links stay readable,
but are no links. Decision 13 has the scores.

A request can wait for each pattern here, so each takes time in proportion to the text: a repetition is
bounded, or begins only where the one before has ended.
"""

import re
from collections.abc import Iterable
from unicodedata import normalize

from jobs.adapter import one_line

MOST_LINKS = 5  # a text with more is withheld
FILE_NAME = "renter.txt"

# What SpamAssassin's rules score with a point or more in an ordinary sentence, and no renter has a reason to
# write. All are whole words in lower case, with one space for whatever parts them.
_DRUGS = frozenset("viagra cialis levitra tadalafil phentermine".split())
_ADVERTISING = (
    "erectile dysfunction",
    "premature ejaculation",
    "male enhancement",
    "your penis",
    "increase your stamina",
    "online pharmacy",
    "replica rolex",
    "100 guaranteed",
    "money back guarantee",
    "instant quote",
    "unclaimed funds",
    "diet pill",
    "diet pills",
    "dear winner",
    "gtube standard anti ube test email",
    "eicar standard antivirus test file",
)
# The words of advance-fee fraud. An honest text may have some: SpamAssassin too counts them, and scores more
# beside a large sum.
_FRAUD = (
    "next of kin",
    "deceased",
    "late husband",
    "late client",
    "barrister",
    "beneficiary",
    "inheritance fund",
    "remittance",
    "consignment",
    "your country",
    "foreign account",
    "business proposal",
    "reply urgently",
    "lottery",
    "fiduciary",
    "western union",
    "atm card",
    "bank account number",
    "full name",
)
MOST_FRAUD_WORDS, MOST_BESIDE_A_SUM = 3, 1  # a text with more is withheld
_LARGE_SUM = re.compile(
    r"\b[mb]illions?\b|\d ?m\b|[$€£] ?\d{7}|\d{7} ?(?:usd|dollars|euros?|pounds)\b"
    r"|(?<![\d,.])\d{1,3}(?:[,.]\d{3}){2}"
)
_WALLET = re.compile(r"\b(?:[13][a-km-zA-HJ-NP-Z1-9]{25,34}|bc1[a-z0-9]{30,90})\b")
_WORD = re.compile("[a-z0-9]+")
_ACCENT = re.compile("[\u0300-\u036f]")
# Letters that digits and signs stand for. Other signs between letters (v.i.a.g.r.a) are dropped.
_UNDISGUISED = str.maketrans("013457@$!|l", "oieastasiii", "#%&'()*+,-./:;<=>?[]^_{}~")
_DISGUISED_DRUGS = frozenset(word.translate(_UNDISGUISED) for word in _DRUGS)
_SHORTEST_DRUG = min(map(len, _DRUGS))

# What mail programs and filters take for a link: anything with a scheme, www or a path. A host alone only if
# it ends with one of these, in lower case: 'Call me.Me and my dog' has no link.
_DOMAINS = (
    r"com|COM|net|NET|org|ORG|info|biz|ru|su|cn|top|xyz|club|online|site|shop|icu"
    r"|win|bid|loan|click|link|live|store|space|website|tech|pro|work|fun|vip|cc|tk|ml"
    r"|ga|cf|gq|pw|ws|in|io|ai|co|me|us|ca|uk|eu|de|fr|nl|pl|br|au|nz|mx|es|ch"
    r"|se|jp|kr|za|ng|tr|vn|kz|ua|gy|app|dev|page|buzz|cyou|rest|life|world|today"
    r"|mobi|date|men|stream|review|trade|party|science|racing|zip|mov|ly|gl|gd|рф"
    r"|xn--[\w-]+"
)
_DOT = "[.\u3002\uff0e\uff61]"
_MAY_BE_LINK = re.compile(rf"{_DOT}(?:(?:{_DOMAINS})(?![\w-])|[\w-]+(?::\d{{1,5}})?/)")
_LABELS = rf"(?<![\w.-])(?:[\w-]+{_DOT})+"
_LINK = re.compile(
    r"[a-zA-Z][a-zA-Z0-9+.-]{1,20}:[/\\]{1,3}(?P<authority>[^\s/\\?#<>\"']+)"
    rf"|(?<![@\w.-])(?P<www>[wW]{{3}}{_DOT}[^\s/?#<>\"',;]+)"
    rf"|{_LABELS}(?:(?:[^\W\d_]{{2,24}}|[xX][nN]--[\w-]+)(?::\d{{1,5}})?(?=/\S))"
    r"|(?<![\w.-])\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?(?=/\S)"
    rf"|(?<!@){_LABELS}(?:{_DOMAINS})(?![\w-])"
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

    def __init__(self, texts: Iterable[str | None], hosts: Iterable[str | None]) -> None:
        """texts: all that will be shown, apart from hosts, whose links stay.

        Most leads have no text that matters, so one look at all of them is enough.
        """
        together = _spaced(texts)
        self._may_have_links = may_have_links(together)
        self._may_have_bait = is_bait(f"{together} {_spaced(hosts)}")
        self.withheld: dict[str, str] = {}

    def shown(self, label: str, text: str, *, links: bool = False) -> str:
        """Return the text as the mail shows it, without characters that show nothing: '' if it is withheld.

        links: leave links as they are.
        """
        visible = text if text.isascii() else text.translate(_INVISIBLE)
        found = len(_LINK.findall(visible)) if self._may_have_links and not links else 0
        if found > MOST_LINKS or (self._may_have_bait and is_bait(visible)):
            shown = ""
        elif found:
            shown = _LINK.sub(_unlinked, visible)
        else:
            return visible
        self.withheld[label] = text
        return shown


def is_bait(text: str) -> bool:
    """Return whether a mail filter would score the text for what it advertises."""
    lower = text.lower() if text.isascii() else _plain(text)
    words = _WORD.findall(lower)
    if not _DRUGS.isdisjoint(words) or _is_disguised(lower, words):
        return True
    sentence = f" {' '.join(words)} "
    if any(map(sentence.__contains__, _ADVERTISING)):
        return True
    fraud = sum(map(sentence.__contains__, _FRAUD))
    if fraud > MOST_FRAUD_WORDS or (fraud > MOST_BESIDE_A_SUM and _LARGE_SUM.search(lower)):
        return True
    return ("bitcoin" in words or "btc" in words) and _WALLET.search(text) is not None


def may_have_links(text: str) -> bool:
    """Return whether the text may have a link. It takes a tenth of the time of looking for them."""
    return ":/" in text or ":\\" in text or "www" in text.lower() or _MAY_BE_LINK.search(text) is not None


def visible_line(text: object, limit: int | None = None) -> str:
    """Return the text on one line, as `one_line`, without characters that show nothing or rows of spaces."""
    line = str(text)
    if not line.isascii():
        line = line.translate(_INVISIBLE)
    if not line.isprintable():
        line = one_line(line)
    line = " ".join(line.split())
    return one_line(line, limit) if limit else line


def file_of(leads: Iterable[tuple[int, RenterTexts]]) -> bytes | None:
    """Return the text file of what is withheld of these leads, each with its number; None without any."""
    # Each line of a renter begins with a sign, so that none passes for the file's own. The file begins with a
    # line of its own: a virus scanner tells a file by how it begins.
    sections = [
        f"{label} of lead {number}, as it was sent:\n\n{_quoted(text)}"
        for number, texts in leads
        for label, text in texts.withheld.items()
    ]
    return "\n\n".join(sections).encode() if sections else None


def _quoted(text: str) -> str:
    return "".join(f"| {line}\n" for line in text.splitlines())


def _spaced(texts: Iterable[str | None]) -> str:
    text = " ".join(" ".join(filter(None, texts)).split())
    return text if text.isascii() and text.isprintable() else visible_line(text)


def _plain(text: str) -> str:
    return _ACCENT.sub("", normalize("NFKD", text.translate(_INVISIBLE)).lower())


def _is_disguised(text: str, words: list[str]) -> bool:
    """Whether a drug is written as v1agra, vi@gra, v.i.a.g.r.a or v i a g r a."""
    long = [word for word in text.split() if len(word) >= _SHORTEST_DRUG]
    written = [word.strip("!.,").translate(_UNDISGUISED) for word in long if not word.isalpha()]
    spelled = "".join([word if len(word) == 1 else " " for word in words]).translate(_UNDISGUISED)
    return not _DISGUISED_DRUGS.isdisjoint(written) or any(map(spelled.__contains__, _DISGUISED_DRUGS))


def _unlinked(link: re.Match[str]) -> str:
    return re.sub(_DOT, "[.]", link["authority"] or link[0])
