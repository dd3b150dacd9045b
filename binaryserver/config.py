"""
The file of C{--config}, with the lines that its settings stand in.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple, Protocol

from binaryserver.errors import ConfigError

_PLACE = re.compile(r" \(at line (\d+), column \d+\)$")


class Known(Protocol):
    """
    A setting that there is.
    """

    @property
    def name(self) -> str:
        """
        Its key in the file.
        """

    def parse(self, value: Any, where: str) -> Any:
        """
        Check a value and give it its type.

        @param where: where it stood, for the message
        @raise ConfigError: it is not of the kind
        """


class Problem(NamedTuple):
    """
    Something that is wrong with a file.

    @ivar line: counted from 1; 0: of no line in particular
    @ivar key: empty: it is about none
    @ivar detail: what is wrong with that, and what was expected
    """

    line: int
    key: str
    detail: str

    def text(self, path: str) -> str:
        """
        One line for a person.
        """
        return f"{_place(path, self.line)}: {f'{self.key} {self.detail}'.strip()}"


class ConfigFile(NamedTuple):
    """
    What a file says.

    @ivar values: as TOML has them, by their keys
    @ivar lines: where each stands; of one that is not here it is not known
    """

    path: str
    values: Mapping[str, Any]
    lines: Mapping[str, int]

    def where(self, key: str) -> str:
        """
        The place of a key, for messages.
        """
        return _place(self.path, self.lines.get(key, 0))

    def unknown(self, known: Sequence[Known]) -> Iterator[Problem]:
        """
        The keys that are no settings, each with the nearest that is.
        """
        names = [one.name for one in known]
        for key in self.values:
            if key not in names:
                near = get_close_matches(key, names, 1)
                detail = f"is no setting{f'; {near[0]} is' if near else ''}"
                yield Problem(self.lines.get(key, 0), key, detail)

    def unfit(self, known: Sequence[Known]) -> Iterator[Problem]:
        """
        The values that their settings do not take.
        """
        for one in known:
            if one.name in self.values:
                try:
                    one.parse(self.values[one.name], "")
                except ConfigError as error:
                    detail = str(error).removeprefix(f"{error.option}: : ")
                    yield Problem(self.lines.get(one.name, 0), one.name, f"cannot be used: {detail}")


def readConfig(path: str) -> ConfigFile:
    """
    Read a file.

    @raise ConfigError: it cannot be read, or is no TOML
    """
    try:
        with open(path, "rb") as file:
            text = file.read().decode("utf-8")
        values = tomllib.loads(text)
    except OSError as error:
        raise ConfigError("--config", f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError("--config", f"{_place(path, line)}: it is not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        place = _PLACE.search(str(error))
        if place is None:
            raise ConfigError("--config", f"{path}: {error}") from error
        raise ConfigError("--config", f"{_place(path, int(place[1]))}: {str(error)[: place.start()]}") from error
    return ConfigFile(path, values, _linesOf(text, values))


def _place(path: str, line: int) -> str:
    return f"{path}: line {line}" if line else path


def _linesOf(text: str, values: Mapping[str, Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        # The parser keeps no places. A line inside a text of several lines may look like a key: the first counts.
        key = re.match(r"""\s*\[*\s*(["']?)([A-Za-z0-9_-]+)\1\s*[]=.]""", line)
        if key is not None and key[2] in values:
            found.setdefault(key[2], number)
    return found
