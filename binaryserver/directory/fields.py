"""
The field dictionary that comes with the gateway: C{fields.toml} beside this module.
"""

from __future__ import annotations

import tomllib
from importlib.resources import files

FIELD_TYPES = frozenset({"int", "bool", "string", "double", "bytes"})
"""The types that a field may have; each is a kind of C{md30.v1.Value}."""


def parseFields(text: str) -> dict[int, tuple[str, str]]:
    """
    Read a field dictionary.

    @param text: TOML, one C{[[field]]} table a field with C{id}, C{name}, C{type}; other keys are for people to read
    @return: name and type by number
    @raise ValueError: it is not TOML, or an entry is incomplete, has an unknown type or repeats a number or name
    """
    entries = tomllib.loads(text).get("field")
    if not isinstance(entries, list):
        raise ValueError("a field dictionary is a list of [[field]] tables")
    dictionary: dict[int, tuple[str, str]] = {}
    names: set[str] = set()
    for entry in entries:
        match entry:
            case {"id": int(number), "name": str(name), "type": str(kind)} if number > 0 and name:
                pass
            case _:
                raise ValueError(f"a field needs id (above 0), name and type: {entry!r}")
        if kind not in FIELD_TYPES:
            raise ValueError(f"field {number}: unknown type {kind!r}; known: {', '.join(sorted(FIELD_TYPES))}")
        if number in dictionary or name in names:
            raise ValueError(f"field {number} {name}: its number or name is there twice")
        dictionary[number] = (name, kind)
        names.add(name)
    return dictionary


def packagedFields() -> dict[int, tuple[str, str]]:
    """
    The packaged dictionary: name and type (as in L{IDirectorySource.fieldName}) by number.
    """
    return parseFields(files("binaryserver.directory").joinpath("fields.toml").read_text("utf-8"))
