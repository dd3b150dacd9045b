"""
The PUBLISHes of a simulated box that are not done with: packet ids, copies, and the order of acks.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Final

from binaryserver.mqtt.packets import encodePublish, encodePubrel
from binaryserver.tools.box_inbox import Answer
from binaryserver.tools.box_payload import Tape
from binaryserver.tools.box_store import Batch

MESSAGE_TOPIC: Final = "m"


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

    __slots__ = ("awaiting", "firstSent", "lastSent", "packetId")

    def __init__(self, packetId: int, awaiting: Awaiting, now: float) -> None:
        self.packetId = packetId
        self.awaiting = awaiting
        self.firstSent = self.lastSent = now


class TracksInFlight(InFlight):
    """
    One with tracks.
    """

    __slots__ = ("batch",)

    def __init__(self, packetId: int, batch: Batch, awaiting: Awaiting, now: float) -> None:
        super().__init__(packetId, awaiting, now)
        self.batch = batch


class AnswerInFlight(InFlight):
    """
    One with an application's ack, always at QoS 1.
    """

    __slots__ = ("answer",)

    def __init__(self, packetId: int, answer: Answer, now: float) -> None:
        super().__init__(packetId, Awaiting.puback, now)
        self.answer = answer


class Window:
    """
    What is in flight.

    @ivar entries: by packet id, or by the negated index of the first track at QoS 0; in the order of their sending
    """

    def __init__(self, tape: Tape, qos: int) -> None:
        self.entries: dict[int, InFlight] = {}
        self._tape = tape
        self._qos = qos
        self._lastId = 0
        # What PUBACKs and PUBRECs are to come, in their order, which MQTT demands of each kind [MQTT-4.6.0-2].
        self._pubacks: deque[int] = deque()
        self._pubrecs: deque[int] = deque()

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
            (self._pubacks if qos == 1 else self._pubrecs).append(packetId)
        self.entries[packetId or -batch.first] = TracksInFlight(packetId, batch, _FIRST[qos], now)
        return encodePublish(tape.topic, tape.serialize(batch), qos, packetId)

    def publishAnswer(self, answer: Answer, now: float) -> bytes:
        """
        @return: bytes of a new PUBLISH
        """
        packetId = self.nextId()
        self._pubacks.append(packetId)
        self.entries[packetId] = AnswerInFlight(packetId, answer, now)
        return encodePublish(MESSAGE_TOPIC, answer.payload, 1, packetId)

    def again(self, entry: InFlight, now: float) -> bytes:
        """
        @return: bytes of what has to be sent once more for it: the PUBLISH with DUP [MQTT-3.3.1-1], or the PUBREL
        """
        entry.lastSent = now
        if entry.awaiting is Awaiting.pubcomp:
            return encodePubrel(entry.packetId)
        if isinstance(entry, AnswerInFlight):
            self._pubacks.append(entry.packetId)
            return encodePublish(MESSAGE_TOPIC, entry.answer.payload, 1, entry.packetId, dup=True)
        assert isinstance(entry, TracksInFlight)
        # At QoS 2 one PUBREC answers all copies that come before it.
        if self._qos == 1:
            self._pubacks.append(entry.packetId)
        elif entry.packetId not in self._pubrecs:
            self._pubrecs.append(entry.packetId)
        return encodePublish(self._tape.topic, self._tape.serialize(entry.batch), self._qos, entry.packetId, dup=True)

    def expectsPuback(self, packetId: int) -> bool:
        """
        @return: a PUBACK of that packet id is to come
        """
        return packetId in self._pubacks

    def order(self, packetId: int, isPubrec: bool) -> AckOrder:
        """
        A PUBACK or PUBREC has come: tick one copy off.
        """
        expected = self._pubrecs if isPubrec else self._pubacks
        if expected and expected[0] == packetId:
            expected.popleft()
            return AckOrder.inOrder
        try:
            expected.remove(packetId)
        except ValueError:
            entry = self.entries.get(packetId)
            if isPubrec and entry is not None and entry.awaiting is Awaiting.pubcomp:
                return AckOrder.inOrder  # a second one, for a copy
            return AckOrder.unexpected
        return AckOrder.outOfOrder

    def tracks(self) -> list[TracksInFlight]:
        """
        @return: the PUBLISHes that have tracks
        """
        return [entry for entry in self.entries.values() if isinstance(entry, TracksInFlight)]

    def confirm(self, lastIndex: int) -> list[TracksInFlight]:
        """
        Give up what an index notice covers.

        @return: the PUBLISHes of which all tracks have an index of at most C{lastIndex}
        """
        covered = [entry for entry in self.tracks() if entry.batch.end <= lastIndex + 1]
        for entry in covered:
            del self.entries[entry.packetId or -entry.batch.first]
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
        self._pubacks.clear()
        self._pubrecs.clear()

    def clear(self) -> list[Answer]:
        """
        The session is gone, and every PUBLISH with it.

        @return: the answers that were in flight, in the order of their sending
        """
        answers = [entry.answer for entry in self.entries.values() if isinstance(entry, AnswerInFlight)]
        self.linkLost()
        self.entries.clear()
        return answers

    def dropUnconfirmed(self) -> None:
        """
        Forget the PUBLISHes at QoS 0.
        """
        self.entries = {key: entry for key, entry in self.entries.items() if key > 0}
