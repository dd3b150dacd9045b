"""
A link's line of acks, and why a link is not read (G7).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Flag
from random import random
from typing import TYPE_CHECKING

from twisted.logger import Logger

from binaryserver.session.reasons import Ending, Reason
from binaryserver.session.uplink import Batch

if TYPE_CHECKING:
    from binaryserver.gateway import Gateway
    from binaryserver.session.box import BoxSession
    from binaryserver.session.index import Stream


class Pause(Flag):
    """
    Why a link is not read. Independent causes: it is read when there is none.
    """

    none = 0
    claiming = 1
    window = 2
    globalWindow = 4
    handover = 8
    decoding = 16
    output = 32
    memory = 64
    closing = 128
    saving = 256


class AckLine:
    """
    What a link has taken and not acked, in its order. Subclassed by the links.

    @ivar box: the box's session; set by the registry's claim
    @ivar linkEpoch: set likewise
    @ivar pauses: why the link is not read
    @ivar inFlight: what is taken and not acked
    """

    log = Logger()

    box: BoxSession
    linkEpoch: int

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.pauses = Pause.none
        # A list, not a deque, which keeps half a KiB for each idle link.
        self.inFlight: list[Batch] = []
        self._publishes = 0
        self._inFlightBytes = 0
        self._pausedSince: dict[Pause, float] = {}
        self._mustSettle = False
        self._jitter = 1 + random() / 10

    # What the protocols provide.

    def pauseReading(self) -> None:
        """
        Stop reading from the peer, and its timers.
        """
        raise NotImplementedError

    def resumeReading(self) -> None:
        """
        Go on reading; first with what was read before and is not handled yet.
        """
        raise NotImplementedError

    def acknowledge(self, batches: Sequence[Batch]) -> None:
        """
        Tell the peer that these are durable, in this order.
        """
        raise NotImplementedError

    def mayAcknowledge(self, batch: Batch) -> bool:
        """
        Asked for each batch of QoS 2 at the head of the line; C{False}: not yet, L{settled} will be called again.
        """
        raise NotImplementedError

    def end(self, ending: Ending) -> None:
        """
        Close the link.
        """
        raise NotImplementedError

    def abort(self) -> None:
        """
        Let go of the transport at once.
        """
        raise NotImplementedError

    # Flow control (G7).

    def pause(self, cause: Pause) -> None:
        """
        Stop reading, for one cause more.
        """
        if cause not in self._pausedSince:
            self._pausedSince[cause] = self.gateway.clock.seconds()
        if not self.pauses:
            self.pauses = cause
            self.pauseReading()
        else:
            self.pauses |= cause

    def resume(self, cause: Pause) -> None:
        """
        One cause is gone.
        """
        if self.pauses & cause:
            self.pauses &= ~cause
            self._pausedSince.pop(cause, None)
            if not self.pauses:
                self.resumeReading()

    def pausedFor(self, cause: Pause, now: float) -> float:
        """
        How long the link has been paused for a cause, s.
        """
        return now - self._pausedSince.get(cause, now)

    def pauseForBus(self) -> None:
        """
        The global window is full.
        """
        self.pause(Pause.globalWindow)

    def resumeForBus(self) -> None:
        """
        There is room in it again.
        """
        self.resume(Pause.globalWindow)

    def mayTakeAgain(self) -> None:
        """
        The box's earlier owner, or what had failed, has settled.
        """
        self.resume(Pause.handover)

    def checkDeadline(self, now: float) -> None:
        """
        End the link if the bus has kept it waiting for longer than C{--batch-deadline}: with jitter, since all boxes
        would come back at the same time otherwise.
        """
        deadline = self.gateway.limits.batchDeadline * self._jitter
        if self.inFlight and now - self.inFlight[0].since > deadline:
            self.end(Ending(Reason.socketClosed, "the bus did not take its data in time"))
        elif max(self.pausedFor(Pause.globalWindow, now), self.pausedFor(Pause.handover, now)) > deadline:
            self.end(Ending(Reason.socketClosed, "the bus had no room in time"))

    # The line of acks.

    def _batch(
        self, stream: Stream | None, last: int, latest: int, qos: int, packetIds: Sequence[int], size: int
    ) -> Batch:
        return Batch(self, stream, last, latest, packetIds, qos, size, self.gateway.clock.seconds())

    def _done(self, qos: int, packetId: int) -> None:
        """
        Nothing is to be published: ack, in its turn.
        """
        if qos:
            batch = self._batch(None, 0, 0, qos, (packetId,), 0)
            batch.outcome = True
            self._mustSettle = True
            self._enqueue(batch)

    def _enqueue(self, batch: Batch) -> None:
        self.inFlight.append(batch)
        self._publishes += len(batch.packetIds)
        self._inFlightBytes += batch.size
        limits = self.gateway.limits
        if self._publishes >= limits.window or self._inFlightBytes >= limits.windowBytes:
            self.pause(Pause.window)

    def settleIfDue(self) -> None:
        """
        To be called after each read: acks what needed no bus.
        """
        if self._mustSettle:
            self._mustSettle = False
            self.settled()

    def settled(self) -> None:
        """
        Batches of this link have their outcome: ack those at the head of the line.
        """
        line = self.inFlight
        acks: list[Batch] = []
        failed = False
        while line and line[0].outcome is not None:
            batch = line[0]
            if not batch.outcome:
                failed = True
                break
            if batch.qos == 2 and not self.mayAcknowledge(batch):
                break
            line.pop(0)
            self._publishes -= len(batch.packetIds)
            self._inFlightBytes -= batch.size
            if batch.qos:
                acks.append(batch)
        if acks:
            self.acknowledge(acks)
        if failed:
            self.end(Ending(Reason.socketClosed, "the bus failed to take its data"))
        elif self.pauses & Pause.window:
            limits = self.gateway.limits
            if self._publishes <= limits.window // 2 and self._inFlightBytes <= limits.windowBytes // 2:
                self.resume(Pause.window)
