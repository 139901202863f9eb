"""Where the quotes of shell text are, as far as finding plain separators and open quotes goes."""

from __future__ import annotations


def scan_quotes(text: str, quote: str = "") -> tuple[str, list[int]]:
    """Return the quote that is open behind ``text`` ('' for none), and the positions of its plain characters: neither
    quoted nor escaped.

    Args:
        text: a piece of shell text.
        quote: the one that is open before it.
    """
    escaped, plain = False, []
    for position, char in enumerate(text):
        if escaped:
            escaped = False
        elif char == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        else:
            plain.append(position)
    return quote, plain
