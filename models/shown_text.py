"""Texts as people are shown them: cut to a length, and without characters that deceive the eye.

Renters' texts reach the operator's terminal. Some characters in them are instructions to the terminal, are
seen as nothing, or change the order of what stands around them.
"""

import re
import unicodedata

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

# str.isprintable is False for controls, format characters (Cf), line and paragraph separators, surrogates,
# private and unassigned characters, and spaces other than U+0020. These are invisible too: joiners, fillers,
# vowels that are only implied, variation selectors, blanks.
INVISIBLE = frozenset(
    map(
        chr,
        (
            *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, 0x16FE4, 0x1D159),
            *range(0x180B, 0x1810),
            *range(0xFE00, 0xFE10),
            *range(0xE0100, 0xE01F0),
        ),
    )
)
# Where honest text has an invisible character: between letters of the scripts from Arabic to Malayalam, of
# Burmese and from Khmer to Mongolian, which it joins or keeps apart, and in an emoji. Anywhere else it only
# hides something. Each is judged by its neighbours, so there are never two in a row.
_JOINED = "\u0600-\u0dff\u1000-\u109f\u1780-\u18af"
_EMOJI = "\u00a9\u00ae\u203c-\u3299\U0001f000-\U0001faff"
_NEEDED = (
    f"(?<=[{_JOINED}])[\u200c\u200d](?=[{_JOINED}])"
    f"|(?<=[{_EMOJI}])\ufe0f"
    f"|(?<=[{_EMOJI}\ufe0f])\u200d(?=[{_EMOJI}])"
    "|(?<=[0-9#*])\ufe0f(?=\u20e3)"
)
_UNUSUAL = re.compile("[^ -~]")
_UNUSUAL_OR_NEEDED = re.compile(f"({_NEEDED})|[^ -~]")


def cut(text: str, maximum: int) -> str:
    """Return the text; of a longer one only so many characters, with '…' behind them."""
    return text if len(text) <= maximum else f"{text[:maximum]}…"


def is_visible(character: str) -> bool:
    """Return True if a person sees the character, and sees where it stands."""
    return character.isprintable() and character not in INVISIBLE


def printable(text: str) -> str:
    """Return the text on one line. Each character that is not visible is replaced, spaces by U+0020."""
    return text if text.isascii() and text.isprintable() else _UNUSUAL_OR_NEEDED.sub(_shown, text)


def escaped(json_text: str) -> str:
    """Return JSON that means the same, with each character that is not visible as an escape."""
    return json_text if json_text.isascii() and json_text.isprintable() else _UNUSUAL.sub(_escape, json_text)


def _shown(found: re.Match[str]) -> str:
    character = found[0]
    if found[1] or is_visible(character):
        return character
    return " " if character in "\r\n\t" or unicodedata.category(character) == "Zs" else REPLACEMENT


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    if is_visible(character):
        return character
    units = character.encode("utf-16-be", "surrogatepass").hex()  # two beyond the Basic Multilingual Plane
    return re.sub("....", r"\\u\g<0>", units)
