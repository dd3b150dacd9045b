"""
The receiver's side of QoS 2 [MQTT-4.3.3-2]: which packet ids are where between PUBLISH and PUBREL.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Final

from binaryserver.mqtt.events import Publish

MAX_UNRELEASED: Final = 1024
"""The most packet ids that a client may leave without a PUBREL; MQTT 3.1.1 has no way to announce it."""


class Arrival(Enum):
    """
    What a QoS 2 PUBLISH is.
    """

    new = "to be committed"
    committing = "a copy of one that is being committed"
    committed = "a copy of one that is committed"


class Qos2Receiver:
    """
    The packet ids that one client has not released.

    @ivar received: those whose PUBLISH is committed
    """

    __slots__ = ("_carried", "_committing", "received")

    def __init__(self, carried: Iterable[int] = ()) -> None:
        """
        @param carried: what was in L{received} at the end of an earlier link of the same session
        """
        self.received = set(carried)
        self._carried = frozenset(self.received)
        self._committing: set[int] = set()

    @property
    def full(self) -> bool:
        """
        More than L{MAX_UNRELEASED} packet ids are not released.
        """
        return len(self._committing) + len(self.received) > MAX_UNRELEASED

    def arrive(self, publish: Publish) -> Arrival:
        """
        Note a PUBLISH, and say what it is.

        An id that was carried over may be stale: the client released it just before the gateway died. A packet that
        is sent again on a new link is marked so [MQTT-3.3.1-1]; one that is not is therefore new, and to answer it
        unread would lose it.
        """
        packetId = publish.packetId
        if packetId in self._committing:
            return Arrival.committing
        if packetId in self.received:
            if publish.dup or packetId not in self._carried:
                return Arrival.committed
            self._forget(packetId)
        self._committing.add(packetId)
        return Arrival.new

    def commit(self, packetId: int) -> None:
        """
        The PUBLISH of that id is committed.
        """
        self._committing.discard(packetId)
        self.received.add(packetId)

    def release(self, packetId: int) -> bool:
        """
        The client released that id. One that is not known may be released too: the PUBCOMP may have been lost with an
        earlier link.

        @return: C{False} when it may not be yet: there was no PUBREC for it
        """
        if packetId in self._committing:
            return False
        self._forget(packetId)
        return True

    def _forget(self, packetId: int) -> None:
        self.received.discard(packetId)
        self._carried -= {packetId}
