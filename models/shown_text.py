"""Texts as people are shown them: cut to a length."""


def cut(text: str, maximum: int) -> str:
    """Return the text; of a longer one only so many characters, with '…' behind them."""
    return text if len(text) <= maximum else f"{text[:maximum]}…"
