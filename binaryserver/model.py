"""
Frozen values that pass between the parts of the gateway.

Units are in the names or docstrings; times are Unix ms unless they are said to be of the reactor's clock (float s).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

EPOCH_2010_MS = 1_262_304_000_000
"""2010-01-01 in Unix ms: the origin of ids and link epochs."""


class BoxKey(NamedTuple):
    """
    Who a box is.
    """

    account: str
    asset: str

    @property
    def busKey(self) -> bytes:
        """
        The key of its records on the bus: C{ACCOUNT/ASSET}.
        """
        return f"{self.account}/{self.asset}".encode()


class Record(NamedTuple):
    """
    One record for the bus.

    @ivar key: bytes, C{ACCOUNT/ASSET}
    @ivar value: bytes, one serialized message
    @ivar headers: pairs of name and UTF-8 value; a bus that keeps no headers drops them
    """

    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes]] = ()


class StoredRecord(NamedTuple):
    """
    One record as the bus gives it back.

    @ivar timestamp: Unix ms, when the bus took it
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes]] = ()


class StreamMark(NamedTuple):
    """
    How far a stream of a box is durable.

    @ivar committed: every index up to it is on the bus or was skipped by the box
    @ivar latest: the latest recorded time (Unix ms) among the tracks that the mark covers
    """

    stream: int
    committed: int
    latest: int


class MarkUpdate(NamedTuple):
    """
    A L{StreamMark} of one box, for the session store.
    """

    box: BoxKey
    stream: int
    committed: int
    latest: int


class Owner(NamedTuple):
    """
    Who holds, or last held, a box's link.

    @ivar incarnation: C{INSTANCE@START}: one run of one gateway process
    @ivar linkEpoch: the epoch it got with its claim
    @ivar connected: it has not said since that the link is gone
    """

    incarnation: str
    linkEpoch: int
    connected: bool


class MqttSession(NamedTuple):
    """
    What MQTT keeps of a client between its links [MQTT-3.1.2-5].

    @ivar subscriptions: pairs of topic filter and granted QoS, in the order of their making
    @ivar received: packet ids of QoS 2 PUBLISHes that were committed and not yet released (PUBREL)
    """

    subscriptions: tuple[tuple[str, int], ...] = ()
    received: tuple[int, ...] = ()


class Claim(NamedTuple):
    """
    What the session store answers when an instance takes a box.

    @ivar linkEpoch: the epoch of the new link
    @ivar previous: who held the box before; L{None} if nobody ever did
    @ivar marks: of the box's last streams, the most recently committed last, at most L{KEPT_STREAMS}
    @ivar mqtt: the MQTT session that was kept; L{None} if there was none or a clean one was asked for
    """

    linkEpoch: int
    previous: Owner | None
    marks: tuple[StreamMark, ...]
    mqtt: MqttSession | None


KEPT_STREAMS = 4
"""How many streams of a box are remembered (DESIGN 7)."""
