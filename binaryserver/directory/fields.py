"""
The field dictionary that comes with the gateway: C{fields.toml} beside this module.
"""

from __future__ import annotations

import tomllib
from importlib.resources import files

FIELD_TYPES = frozenset({"int", "bool", "string", "double", "bytes"})
"""The types that a field may have; each is a kind of C{md30.v1.Value}."""

MAX_NUMBER = 2**32 - 1
"""The highest number that a field can have in a track."""


def dictionaryOf(entries: object) -> dict[int, tuple[str, str]]:
    """
    Read the entries of a field dictionary.

    @param entries: a list of mappings, one a field, with C{id}, C{name}, C{type}; other keys are for people to read
    @return: name and type by number
    @raise ValueError: it is no list, or an entry is incomplete, has an unknown type or repeats a number or name
    """
    if not isinstance(entries, list):
        raise ValueError("a field dictionary is a list of fields")
    dictionary: dict[int, tuple[str, str]] = {}
    names: set[str] = set()
    for place, entry in enumerate(entries, 1):
        match entry:
            case {"id": bool()}:
                raise ValueError(f"field {place} of the list needs id (a number), name and type")
            case {"id": int(number), "name": str(name), "type": str(kind)} if 0 < number <= MAX_NUMBER and name:
                pass
            case _:
                raise ValueError(f"field {place} of the list needs id (above 0), name and type")
        if kind not in FIELD_TYPES:
            raise ValueError(f"field {number}: unknown type {kind!r:.80}; known: {', '.join(sorted(FIELD_TYPES))}")
        if not name.isprintable() or len(name) > 64:
            raise ValueError(f"field {number}: its name is to be 1 to 64 printable characters")
        if number in dictionary or name in names:
            raise ValueError(f"field {number} {name}: its number or name is there twice")
        dictionary[number] = (name, kind)
        names.add(name)
    return dictionary


def parseFields(text: str) -> dict[int, tuple[str, str]]:
    """
    Read a field dictionary.

    @param text: TOML, one C{[[field]]} table a field
    @return: see L{dictionaryOf}
    @raise ValueError: it is not TOML, or see L{dictionaryOf}
    """
    return dictionaryOf(tomllib.loads(text).get("field"))


def packagedFields() -> dict[int, tuple[str, str]]:
    """
    The packaged dictionary: name and type by number.
    """
    return parseFields(files("binaryserver.directory").joinpath("fields.toml").read_text("utf-8"))
