"""
Bodies of requests that are JSON objects, read field by field.
"""

from __future__ import annotations

import json
from typing import Any, Final

from binaryserver.transcode.events import isName

_MAX_PSEUDONYM: Final = 107
"""characters of that of the longest asset"""


class Fields:
    """
    The fields of a JSON object, each read by its type. Every method raises L{ValueError} with one line that names what
    is wrong.
    """

    def __init__(self, body: bytes) -> None:
        """
        @raise ValueError: it is no JSON object
        """
        try:
            given = json.loads(body)
        except (ValueError, RecursionError):
            raise ValueError("the body is no JSON") from None
        if not isinstance(given, dict):
            raise ValueError("the body is no JSON object")
        self._given: dict[str, Any] = given
        self._read: list[str] = []

    def take(self, name: str) -> Any:
        """
        @return: the value; L{None}: there is none
        """
        self._read.append(name)
        return self._given.get(name)

    def text(self, name: str) -> str:
        """
        Empty if it is not there.
        """
        value = self.take(name)
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{name} is no text")
        return value or ""

    def name(self, name: str, isOptional: bool = False) -> str:
        """
        One that accounts, assets and channels may have.
        """
        value = self.text(name)
        if not isName(value) and (value or not isOptional):
            raise ValueError(f"{name} is to be 1 to 64 of A-Z a-z 0-9 . _ -")
        return value

    def addressee(self, name: str) -> str:
        """
        An asset, or its pseudonym, which may be longer.
        """
        value = self.text(name)
        if not (value and len(value) <= _MAX_PSEUDONYM and all(isName(character) for character in value)):
            raise ValueError(f"{name} is to be 1 to {_MAX_PSEUDONYM} of A-Z a-z 0-9 . _ -")
        return value

    def flag(self, name: str) -> bool:
        """
        False if it is not there.
        """
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            raise ValueError(f"{name} is to be true or false")
        return bool(value)

    def checkAllRead(self) -> None:
        """
        There is nothing else.
        """
        unknown = sorted(set(self._given) - set(self._read))
        if unknown:
            raise ValueError(f"unknown field {unknown[0]!r:.80}; known: {', '.join(self._read)}")


def utf8(name: str, value: object) -> bytes:
    """
    A text's bytes.

    @param name: of the field that it is
    @raise ValueError: it is no text that has any
    """
    if not isinstance(value, str):
        raise ValueError(f"{name} is no text")
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} has half a surrogate pair") from None
