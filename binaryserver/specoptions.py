"""
What follows the question mark in the value of an option that names a back end.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import parse_qsl

from binaryserver.errors import ConfigError


def specOptions(query: str, known: Collection[str], option: str, whose: str) -> dict[str, str]:
    """
    The options of a back end, by their names.

    @param query: C{NAME=VALUE[&NAME=VALUE...]}, percent-encoded; empty: there are none
    @param known: the names that there are, in the order in which they are told
    @param option: the option's name, for errors; which never quote the whole, in which a part of a password may stand
    @param whose: whose options they are, for errors
    @raise ConfigError: it cannot be understood; an option is unknown, empty, or there twice
    """
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise ConfigError(option, "what follows the question mark is not option=value[&option=value...]") from None
    given = dict(pairs)
    for name, value in given.items():
        if name not in known:
            raise ConfigError(option, f"{whose} has no option {name!r:.80}; known: {', '.join(known)}")
        if not value:
            raise ConfigError(option, f"{name} is empty")
    if len(given) != len(pairs):
        raise ConfigError(option, "an option is given twice")
    return given
