"""Texts as a reply can carry them: plain UTF-8, and no longer than is promised.

Owns: the length of a result. May not import anything: every other room uses it.
Runs in: zygote (imported), worker, in any thread.
"""

from __future__ import annotations

# A longer representation of a value is cut.
MAX_RESULT = 40_000


def clean(text: str) -> str:
    """Make it a plain str that UTF-8 can carry; a lone surrogate becomes its escape."""
    text = "".join((text,))
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-8", "backslashreplace").decode()
    return text


def cut(text: str, length: int) -> str:
    """Keep head and tail of a text that is longer than `length`."""
    if len(text) <= length:
        return text
    half = length // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
