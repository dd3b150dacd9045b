"""
The names of the topics on the bus (DESIGN 10).
"""

from __future__ import annotations

from typing import NamedTuple

DEFAULT_PREFIX = "binaryserver."
"""What stands before every topic's name unless it is configured otherwise."""


class Topics(NamedTuple):
    """
    The topics that the gateway publishes to, by what they carry.

    @ivar tracks: C{cloudnext.v1.Event} with a track
    @ivar messages: C{cloudnext.v1.Event} with an uplink message
    @ivar presences: C{cloudnext.v1.Event} with a presence
    @ivar rejects: C{cloudnext.v1.Reject}: what could not be taken
    """

    tracks: str
    messages: str
    presences: str
    rejects: str

    @classmethod
    def named(cls, prefix: str = DEFAULT_PREFIX) -> Topics:
        """
        The topics under a prefix, which includes its own separator: C{"binaryserver."} gives C{binaryserver.tracks}.
        """
        return cls(*(prefix + kind for kind in cls._fields))

    @property
    def all(self) -> tuple[str, ...]:
        """
        Every topic: those that must exist before the gateway starts.
        """
        return tuple(self)
