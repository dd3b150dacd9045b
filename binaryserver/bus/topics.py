"""
The names of the topics on the bus (DESIGN 10).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

DEFAULT_PREFIX = "binaryserver."
"""What stands before every topic's name unless it is configured otherwise."""


def prefixOption(topics: Sequence[str]) -> str:
    """
    What is to be added to a command that makes these topics (L{Topics.all}), where their prefix is not the usual one.
    """
    prefix = topics[0].removesuffix(Topics._fields[0]) if topics else DEFAULT_PREFIX
    return "" if prefix == DEFAULT_PREFIX else f" --topic-prefix '{prefix}'"


class Topics(NamedTuple):
    """
    The topics that the gateway publishes to and consumes from, by what they carry.

    @ivar tracks: C{cloudnext.v1.Event} with a track
    @ivar messages: C{cloudnext.v1.Event} with an uplink message
    @ivar presences: C{cloudnext.v1.Event} with a presence
    @ivar rejects: C{cloudnext.v1.Reject}: what could not be taken
    @ivar statuses: C{cloudnext.v1.Event} with a message's status
    @ivar downlink: consumed: C{cloudnext.v1.DownlinkMessage}
    @ivar directory: consumed: C{cloudnext.v1.DirectoryChange}
    """

    tracks: str
    messages: str
    presences: str
    rejects: str
    statuses: str
    downlink: str
    directory: str

    @classmethod
    def named(cls, prefix: str = DEFAULT_PREFIX) -> Topics:
        """
        The topics under a prefix, which includes its own separator: C{"binaryserver."} gives C{binaryserver.tracks}.
        """
        return cls(*(prefix + kind for kind in cls._fields))

    @property
    def published(self) -> tuple[str, ...]:
        """
        Those that the gateway publishes to.
        """
        return tuple(topic for topic in self if topic not in (self.downlink, self.directory))

    @property
    def all(self) -> tuple[str, ...]:
        """
        Every topic: those that must exist before the gateway starts.
        """
        return tuple(self)
