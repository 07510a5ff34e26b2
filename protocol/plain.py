r"""Words that somebody else wrote, made safe to show: a terminal obeys some characters.

Escape sequences move the cursor and change what was printed before; others turn the order of
letters round. None of them is printable, so all that is not printable becomes a question mark.

    >>> plain("approved\x1b[1A by \u202enobody")
    'approved?[1A by ?nobody'
"""

from __future__ import annotations


def plain(words: str) -> str:
    """Return anybody's words in one line, without what acts on whoever shows them."""
    return "".join(one if one.isprintable() else "?" for one in words)
