"""
What a simulated box sends of its store and of its application's answers, what it makes of acks and of the index, and
what it sends again. Bytes go out of here and packet ids come in; there is no link.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from random import Random
from typing import Final

from binaryserver.errors import ProtocolViolation
from binaryserver.mqtt.packets import encodePubrel
from binaryserver.tools.box_inbox import Answer
from binaryserver.tools.box_payload import Tape
from binaryserver.tools.box_plan import BoxPlan
from binaryserver.tools.box_recorder import AckLoss, Recorder
from binaryserver.tools.box_store import TrackStore
from binaryserver.tools.box_sums import Sums
from binaryserver.tools.box_window import AckOrder, AnswerInFlight, Awaiting, InFlight, TracksInFlight, Window

_CHUNK: Final = 32
"""PUBLISHes between two looks at whether the transport wants more."""


class Outbox:
    """
    The way from the store of one box, and from its application, to acks. Times (C{now}) are seconds of the fleet's
    clock.

    @ivar mark: every index up to it is committed, as far as the gateway has said
    """

    def __init__(
        self,
        asset: str,
        plan: BoxPlan,
        store: TrackStore,
        tracks: int,
        random: Random,
        sums: Sums,
        complain: Callable[[str], None],
    ) -> None:
        """
        @param tracks: how many the box records in this run
        @param complain: told what a person should hear of
        """
        self.mark = 0
        self._plan = plan
        self._store = store
        self._recorder = Recorder(store, tracks, plan.rate, random)
        self._loss = AckLoss(plan.loseAcks, plan.loseEvery, random)
        self._sums = sums
        self._complain = complain
        self._window = Window(Tape(asset, store.stream, plan.form), plan.qos)
        # By the id of the message that each answers, in the order of their making.
        self._answers: dict[str, Answer] = {}

    @property
    def recorded(self) -> bool:
        """
        The tracks of this run are in the store.
        """
        return self._recorder.recorded

    @property
    def empty(self) -> bool:
        """
        Nothing is to be sent, and nothing waits for an ack.
        """
        return self.recorded and not (self._store.waiting or self._window.entries or self._answers)

    @property
    def unconfirmed(self) -> bool:
        """
        Tracks wait for an ack or, at QoS 0, for an index notice.
        """
        return bool(self._window.tracks())

    def nextId(self) -> int:
        """
        @return: a packet id for a packet that is no PUBLISH
        """
        return self._window.nextId()

    def record(self, now: float, wallOffset: float) -> None:
        """
        The tracks of this run come into being: the last one about now, or when the rate will have brought it about.

        @param wallOffset: s, what C{now} lacks to Unix time
        """
        self._recorder.record(now, wallOffset, self.mark)

    def answer(self, answer: Answer) -> None:
        """
        The box's application answers a message. Until that is acked it is sent, and is not needed twice.
        """
        if answer.ackOf not in self._answers and not any(
            entry.answer.ackOf == answer.ackOf
            for entry in self._window.entries.values()
            if isinstance(entry, AnswerInFlight)
        ):
            self._answers[answer.ackOf] = answer

    # Sending.

    def take(self, now: float) -> tuple[bytes, bool]:
        """
        @return: the next PUBLISHes, and whether there may be more of them
        """
        store, sums, publish = self._store, self._sums, self._window.publish
        packets: list[bytes] = []
        while self._answers and len(packets) < _CHUNK and len(self._window.entries) < self._plan.inflight:
            answer = self._answers.pop(next(iter(self._answers)))
            sums.messages.acks += 1
            packets.append(self._window.publishAnswer(answer, now))
        while len(packets) < _CHUNK and (size := self._mayTake(now)):
            batch, again = store.take(size)
            sums.sent += batch.end - batch.first - again
            sums.resent += again
            packets.append(publish(batch, now))
        return b"".join(packets), len(packets) == _CHUNK

    def _mayTake(self, now: float) -> int:
        """
        @return: how many tracks the next PUBLISH may have; 0: none may go now
        """
        plan = self._plan
        if plan.qos and len(self._window.entries) >= plan.inflight:
            return 0
        return self._recorder.ready(now, plan.batch)

    def recordedAt(self) -> float:
        """
        @return: s of the clock, when the next PUBLISH will have all its tracks at a given rate; else infinity
        """
        return self._recorder.readyAt(self._plan.batch)

    def resume(self, now: float) -> bytes:
        """
        There is a link again, and the index has been read if it is to be.

        @return: what has to be sent again for what is in flight, in the old order [MQTT-4.4.0-1], [MQTT-4.6.0-1]
        """
        self.applyMark(now)
        sums = self._sums
        if self._plan.qos == 1:
            # The notice is as good as the PUBACK that did not come. (At QoS 2 the session holds the packet id.)
            for entry in self._window.confirm(self.mark):
                size = self._store.ack(entry.batch)
                sums.ackedByIndex += size
                sums.droppedByIndex += size
        return b"".join([self._again(entry, now) for entry in self._window.entries.values()])

    def oldestSent(self, now: float) -> float:
        """
        @return: s of the clock, when that which has waited longest for an ack was sent last; C{now} if nothing waits
        """
        return min((entry.lastSent for entry in self._window.entries.values()), default=now)

    def resendOverdue(self, now: float) -> tuple[bytes, float]:
        """
        Send again what has no ack for long; at QoS 0, put it back into the store.

        @return: what has to be sent for it, and the time of the clock when to look again
        """
        after = self._plan.resendAfter
        if after is None:
            return b"", inf
        overdue = self._window.overdue(now - after)
        if self._plan.qos == 0 and any(isinstance(entry, TracksInFlight) for entry in overdue):
            self.forgetUnconfirmed()
            overdue = [entry for entry in overdue if isinstance(entry, AnswerInFlight)]
        return b"".join([self._again(entry, now) for entry in overdue]), after + self.oldestSent(now)

    def _again(self, entry: InFlight, now: float) -> bytes:
        if isinstance(entry, AnswerInFlight):
            self._sums.messages.acksResent += 1
        elif isinstance(entry, TracksInFlight) and entry.awaiting is not Awaiting.pubcomp:
            self._sums.resent += entry.batch.end - entry.batch.first
        return self._window.again(entry, now)

    def linkLost(self) -> None:
        """
        No ack of the link comes any more.
        """
        self._window.linkLost()

    def forgetSession(self) -> None:
        """
        What is in flight goes back to where it came from.
        """
        answers = {answer.ackOf: answer for answer in self._window.clear()}
        self._answers = {**answers, **self._answers}
        self._store.putBack()

    def forgetUnconfirmed(self) -> None:
        """
        What was sent at QoS 0 and is not confirmed goes back into the store.
        """
        self._window.dropUnconfirmed()
        self._store.putBack()

    # What the gateway says.

    def notice(self, lastIndex: int) -> None:
        """
        Raise the mark.

        @param lastIndex: as an index notice names it
        """
        self.mark = max(self.mark, lastIndex)
        if self.recorded and lastIndex >= self._store.next:
            self._sums.indexBeyondStore += 1
            self._complain(f"an index notice of {lastIndex}; the last index in use is {self._store.next - 1}")

    def applyMark(self, now: float) -> None:
        """
        Drop what the mark covers.
        """
        sums = self._sums
        dropped = self._store.drop(self.mark)
        sums.ackedByIndex += dropped
        sums.droppedByIndex += dropped
        confirmed = self._window.confirm(self.mark) if self._plan.qos == 0 else []
        for entry in confirmed:
            sums.ackedByIndex += self._store.ack(entry.batch)
            sums.ackTimes.note(now - entry.firstSent)
        if dropped or confirmed:
            sums.ended = now

    def puback(self, packetId: int, now: float) -> None:
        """
        @raise ProtocolViolation: no tracks go at QoS 1, and no answer asks for it
        """
        if self._plan.qos != 1 and not self._window.expectsPuback(packetId):
            raise ProtocolViolation("a PUBACK, and no PUBLISH had QoS 1", "MQTT-4.3.2-2")
        if self._counts(packetId, "PUBACK"):
            entry = self._window.entries.get(packetId)
            if entry is None or entry.awaiting is not Awaiting.puback:
                return
            del self._window.entries[packetId]
            if isinstance(entry, TracksInFlight):
                self._credit(entry, now)
            else:
                self._sums.messages.acksConfirmed += 1

    def pubrec(self, packetId: int, now: float) -> bytes:
        """
        @return: the PUBREL; empty if the PUBREC was lost or is a second one
        @raise ProtocolViolation: the box sends nothing at QoS 2
        """
        if self._plan.qos != 2:
            raise ProtocolViolation("a PUBREC, and no PUBLISH had QoS 2", "MQTT-4.3.3-2")
        entry = self._window.entries.get(packetId)
        if not self._counts(packetId, "PUBREC") or not isinstance(entry, TracksInFlight):
            return b""
        if entry.awaiting is not Awaiting.pubrec:
            return b""
        self._credit(entry, now)
        entry.awaiting = Awaiting.pubcomp
        entry.lastSent = now
        return encodePubrel(packetId)

    def pubcomp(self, packetId: int) -> None:
        """
        The gateway has forgotten a packet id.
        """
        entry = self._window.entries.get(packetId)
        if entry is None or entry.awaiting is not Awaiting.pubcomp:
            self._unexpected("PUBCOMP", packetId)
        else:
            del self._window.entries[packetId]

    def _counts(self, packetId: int, kind: str) -> bool:
        """
        Judge an ack by what was sent on the link.

        @return: the box has got it; not, if it is to be taken for lost
        """
        order = self._window.order(packetId, kind == "PUBREC")
        if order is AckOrder.unexpected:
            self._unexpected(kind, packetId)
            return False
        if order is AckOrder.outOfOrder:
            self._sums.acksOutOfOrder += 1
        if self._loss.strikes():
            self._sums.acksIgnored += 1
            return False
        return True

    def _unexpected(self, kind: str, packetId: int) -> None:
        self._sums.unexpectedAcks += 1
        self._complain(f"a {kind} of packet id {packetId}, which nothing asked for")

    def _credit(self, entry: TracksInFlight, now: float) -> None:
        sums = self._sums
        sums.pubacked += self._store.ack(entry.batch)
        sums.ackTimes.note(now - entry.firstSent)
        sums.ended = now
