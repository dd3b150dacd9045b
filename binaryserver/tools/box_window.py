"""
The PUBLISHes of a simulated box that are not done with: packet ids, copies, and the order of acks.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from binaryserver.mqtt.packets import encodePublish, encodePubrel
from binaryserver.tools.box_payload import Tape
from binaryserver.tools.box_store import Batch


class Awaiting(Enum):
    """
    What a PUBLISH waits for.
    """

    confirmation = "QoS 0: an index notice that covers it"
    puback = "QoS 1"
    pubrec = "QoS 2, first half"
    pubcomp = "QoS 2, second half: its tracks are acked"


_FIRST = (Awaiting.confirmation, Awaiting.puback, Awaiting.pubrec)


class AckOrder(Enum):
    """
    How an ack fits what was sent on the link.
    """

    inOrder = "the oldest copy that has no ack"
    outOfOrder = "an older copy has none yet"
    unexpected = "nothing sent on this link asks for it"


class InFlight:
    """
    One PUBLISH.

    @ivar packetId: 0 at QoS 0
    @ivar firstSent: s of the clock
    @ivar lastSent: s of the clock
    """

    __slots__ = ("awaiting", "batch", "firstSent", "lastSent", "packetId")

    def __init__(self, packetId: int, batch: Batch, awaiting: Awaiting, now: float) -> None:
        self.packetId = packetId
        self.batch = batch
        self.awaiting = awaiting
        self.firstSent = self.lastSent = now


class Window:
    """
    What is in flight.

    @ivar entries: by packet id, or by index of the first track at QoS 0; in the order of their sending
    """

    def __init__(self, tape: Tape, qos: int) -> None:
        self.entries: dict[int, InFlight] = {}
        self._tape = tape
        self._qos = qos
        self._lastId = 0
        self._expected: deque[int] = deque()

    def nextId(self) -> int:
        """
        @return: a packet id that is not in use. Each comes again after all others only, so that a late ack of a second
            copy is never taken for that of other tracks.
        """
        while True:
            self._lastId = self._lastId % 65535 + 1
            if self._lastId not in self.entries:
                return self._lastId

    def publish(self, batch: Batch, now: float) -> bytes:
        """
        @return: bytes of a new PUBLISH
        """
        tape, qos = self._tape, self._qos
        packetId = 0
        if qos:
            packetId = self.nextId()
            self._expected.append(packetId)
        self.entries[packetId or batch.first] = InFlight(packetId, batch, _FIRST[qos], now)
        return encodePublish(tape.topic, tape.serialize(batch), qos, packetId)

    def again(self, entry: InFlight, now: float) -> bytes:
        """
        @return: bytes of what has to be sent once more for it: the PUBLISH with DUP [MQTT-3.3.1-1], or the PUBREL
        """
        entry.lastSent = now
        if entry.awaiting is Awaiting.pubcomp:
            return encodePubrel(entry.packetId)
        # At QoS 2 one PUBREC answers all copies that come before it.
        if self._qos == 1 or entry.packetId not in self._expected:
            self._expected.append(entry.packetId)
        return encodePublish(self._tape.topic, self._tape.serialize(entry.batch), self._qos, entry.packetId, dup=True)

    def order(self, packetId: int) -> AckOrder:
        """
        A PUBACK or PUBREC has come: tick one copy off.
        """
        expected = self._expected
        if expected and expected[0] == packetId:
            expected.popleft()
            return AckOrder.inOrder
        try:
            expected.remove(packetId)
        except ValueError:
            entry = self.entries.get(packetId)
            if entry is not None and entry.awaiting is Awaiting.pubcomp:
                return AckOrder.inOrder  # a second PUBREC, for a copy
            return AckOrder.unexpected
        return AckOrder.outOfOrder

    def confirm(self, lastIndex: int) -> list[InFlight]:
        """
        Give up what an index notice covers.

        @return: the PUBLISHes of which all tracks have an index of at most C{lastIndex}
        """
        covered = [entry for entry in self.entries.values() if entry.batch.end <= lastIndex + 1]
        for entry in covered:
            del self.entries[entry.packetId or entry.batch.first]
        return covered

    def overdue(self, before: float) -> list[InFlight]:
        """
        @param before: s of the clock
        @return: those that were sent last before that time
        """
        return [entry for entry in self.entries.values() if entry.lastSent < before]

    def linkLost(self) -> None:
        """
        No ack of the link comes any more.
        """
        self._expected.clear()

    def clear(self) -> None:
        """
        The session is gone, and every PUBLISH with it.
        """
        self._expected.clear()
        self.entries.clear()
