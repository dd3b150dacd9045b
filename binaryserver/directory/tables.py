"""
What TOML and JSON give, read key by key.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, TypeVar

from binaryserver.errors import DirectoryUnavailable
from binaryserver.transcode.events import isName

_SECRET_KEYS = frozenset({"secret", "password", "passwd", "token", "key"})

_T = TypeVar("_T")


class BadRecord(DirectoryUnavailable):
    """
    What a directory says of something cannot be understood. The message is one line, which names the thing, the key and
    what is wrong, and shows no secret.
    """


class Table:
    """
    A mapping from text to values, each read by its type. Whatever reads raises L{BadRecord}.

    @ivar where: what the mapping is, for messages, e.g. C{'account "acme", limits'}
    """

    def __init__(self, data: object, where: str, isStrict: bool) -> None:
        """
        @param isStrict: keys that nobody reads are refused, and nulls too; if not, the former are passed over and the
            latter stand for keys that are not there
        @raise BadRecord: it is no mapping
        """
        if not isinstance(data, dict):
            raise BadRecord(f"{where}: is to be a table of keys and values, not {kindOf(data)}")
        self.where = where
        self._data: dict[Any, Any] = data
        self._isStrict = isStrict
        self._asked: dict[str, None] = {}

    def fault(self, key: str, text: str) -> BadRecord:
        """
        The error that says what is wrong with a key.
        """
        return BadRecord(f"{self.where}: {key}: {text}")

    def take(self, key: str) -> Any:
        """
        @return: the value of a key; L{None}: it is not there
        """
        self._asked[key] = None
        value = self._data.get(key)
        if value is None and self._isStrict and key in self._data:
            raise self.fault(key, "has no value")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """
        True or false.
        """
        value = self.take(key)
        if value is not None and not isinstance(value, bool):
            raise self.fault(key, f"is to be true or false, not {kindOf(value)}")
        return default if value is None else value

    def text(self, key: str, default: str = "") -> str:
        """
        A text that has a UTF-8 form.
        """
        value = self.take(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.fault(key, f"is to be a text, not {kindOf(value)}")
        if not hasBytes(value):
            raise self.fault(key, "is no proper Unicode")
        return value

    def name(self, key: str) -> str:
        """
        A name as accounts, assets and channels have; it must be there.
        """
        value = self.text(key)
        if not isName(value):
            what = f"{value!r:.80} is no name: 1 to 64 of A-Z a-z 0-9 . _ -" if value else "is missing"
            raise self.fault(key, what)
        return value

    def number(self, key: str, most: float, default: float = 0.0) -> float:
        """
        A number from 0 to C{most}.
        """
        value = self.take(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.fault(key, f"is to be a number, not {kindOf(value)}")
        if not 0 <= value <= most or not math.isfinite(value):
            raise self.fault(key, f"is to be 0 to {most:,.0f}")
        return float(value)

    def integer(self, key: str, least: int, most: int) -> int | None:
        """
        A whole number; L{None}: the key is not there.
        """
        value = self.take(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise self.fault(key, f"is to be a whole number, not {kindOf(value)}")
        if value is not None and not least <= value <= most:
            raise self.fault(key, f"is to be {least} to {most:,}")
        found: int | None = value
        return found

    def list(self, key: str, most: int) -> list[Any] | None:
        """
        A list of at most so many values; L{None}: the key is not there.
        """
        value = self.take(key)
        if value is not None and not isinstance(value, list):
            raise self.fault(key, f"is to be a list, not {kindOf(value)}")
        if value is not None and len(value) > most:
            raise self.fault(key, f"has {len(value)} entries; {most} are the most")
        found: list[Any] | None = value
        return found

    def texts(self, key: str, most: int, keySize: int, valueSize: int) -> dict[str, str]:
        """
        A mapping from text to text.

        @param most: entries
        @param keySize: characters that a key of it may have
        @param valueSize: characters that a value of it may have
        """
        value = self.take(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.fault(key, f"is to be a table of keys and texts, not {kindOf(value)}")
        if len(value) > most:
            raise self.fault(key, f"has {len(value)} entries; {most} are the most")
        for name, text in value.items():
            if not isinstance(name, str) or not 0 < len(name) <= keySize or not hasBytes(name):
                raise self.fault(key, f"each of its keys is to be a text of 1 to {keySize} characters")
            if not isinstance(text, str) or len(text) > valueSize or not hasBytes(text):
                raise self.fault(key, f"{name!r:.80} is to be a text of at most {valueSize} characters")
        return dict(value)

    def inner(self, key: str, read: Callable[[Table], _T], default: _T) -> _T:
        """
        A table within, read by C{read}, to its end.
        """
        value = self.take(key)
        if value is None:
            return default
        return self.within(value, key, read)

    def within(self, value: object, title: str, read: Callable[[Table], _T]) -> _T:
        """
        What stands within this one, read by C{read}, to its end.
        """
        return readTable(value, f"{self.where}, {title}", self._isStrict, read)

    def check(self) -> None:
        """
        Whether there is anything that nobody read.

        @raise BadRecord: there is, and it is refused
        """
        if not self._isStrict:
            return
        for key in self._data:
            if key in self._asked:
                continue
            if isinstance(key, str) and key.lower() in _SECRET_KEYS and "secret_hash" in self._asked:
                raise BadRecord(
                    f"{self.where}: {key!r:.80} is no key: secrets are kept as secret_hash, which binaryserver-ctl "
                    "hash-secret makes"
                )
            near = get_close_matches(str(key), self._asked, 1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(self._asked))}"
            raise BadRecord(f"{self.where}: {key!r:.80} is no key; {hint}")


def readTable(data: object, where: str, isStrict: bool, read: Callable[[Table], _T]) -> _T:
    """
    Have a mapping read, and see that nothing of it is left.

    @raise BadRecord: see L{Table}
    """
    table = Table(data, where, isStrict)
    found = read(table)
    table.check()
    return found


def kindOf(value: object) -> str:
    """
    What a value is, in words that show nothing of it.
    """
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case dict():
            return "a table"
    return "a date or time"


def hasBytes(text: str) -> bool:
    """
    Whether a text has a UTF-8 form: half of a surrogate pair, which JSON can bring, has none.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
