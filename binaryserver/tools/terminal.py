"""
What may be shown to a person.
"""

from __future__ import annotations


def printable(text: str) -> str:
    """
    Without the control characters that somebody else may have put there, which a terminal would obey.
    """
    return "".join(character if character.isprintable() else "�" for character in text)
