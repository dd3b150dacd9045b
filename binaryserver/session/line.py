"""
A link's line of acks, and why a link is not read (G7).
"""

from __future__ import annotations

from collections.abc import Sequence
from random import random
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from binaryserver.session.reasons import Ending, Reason
from binaryserver.session.uplink import Batch

if TYPE_CHECKING:
    from binaryserver.gateway import Gateway
    from binaryserver.session.box import BoxSession
    from binaryserver.session.fingerprints import Fingerprints
    from binaryserver.session.index import Stream


class Pause:
    """
    Why a link is not read. Independent causes, bits of one number: it is read when there is none. (Plain numbers, as
    they are asked with every read: a C{Flag} makes an object each time.)

    @cvar claiming: the session store is asked for the box
    @cvar window: so much of it waits for the bus as one link may have
    @cvar globalWindow: so much waits for the bus as the process may have
    @cvar handover: it cannot be judged yet what of its data was seen
    @cvar decoding: a thread decodes a payload of it
    @cvar output: the peer does not read what it is sent
    @cvar memory: its unfinished packet has to wait for memory
    @cvar closing: it ends
    @cvar saving: its MQTT session is being written, and has changed since
    @cvar turn: it has had its share of this turn of the reactor
    @cvar asking: the session store is asked for what its box speaks of
    @cvar allowance: its account has had its share of messages or bytes for now
    @cvar controls: it had more packets without data answered than is good
    """

    none: Final = 0
    claiming: Final = 1
    window: Final = 2
    globalWindow: Final = 4
    handover: Final = 8
    decoding: Final = 16
    output: Final = 32
    memory: Final = 64
    closing: Final = 128
    saving: Final = 256
    turn: Final = 512
    asking: Final = 1024
    allowance: Final = 2048
    controls: Final = 4096


class AckLine:
    """
    What a link has taken and not acked, in its order. Subclassed by the links.

    @ivar box: the box's session; set by the registry's claim
    @ivar linkEpoch: set likewise
    @ivar pauses: why the link is not read: L{Pause}'s causes
    @ivar inFlight: what is taken and not acked
    """

    log = Logger()

    box: BoxSession
    linkEpoch: int

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.pauses: int = Pause.none
        # A list, not a deque, which keeps half a KiB for each idle link.
        self.inFlight: list[Batch] = []
        self._publishes = 0
        self._inFlightBytes = 0
        self._pausedSince: dict[int, float] = {}
        self._mustSettle = False
        self._unwritten: set[Batch] = set()
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

    def pause(self, cause: int) -> None:
        """
        Stop reading, for one cause more.

        @param cause: of L{Pause}
        """
        if cause not in self._pausedSince:
            self._pausedSince[cause] = self.gateway.clock.seconds()
        if not self.pauses:
            self.pauses = cause
            self.pauseReading()
        else:
            self.pauses |= cause

    def resume(self, cause: int) -> None:
        """
        One cause is gone.
        """
        if self.pauses & cause:
            self.pauses &= ~cause
            self._pausedSince.pop(cause, None)
            if not self.pauses:
                self.resumeReading()

    def pausedFor(self, cause: int, now: float) -> float:
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
        line = self.inFlight
        # What has its outcome waits for the session store, which links outlast.
        if line and line[0].outcome is None and now - line[0].since > deadline:
            self.end(Ending(Reason.socketClosed, "the bus did not take its data in time"))
        elif max(self.pausedFor(Pause.globalWindow, now), self.pausedFor(Pause.handover, now)) > deadline:
            self.end(Ending(Reason.socketClosed, "the bus had no room in time"))

    # The line of acks.

    def _batch(
        self,
        stream: Stream | Fingerprints | None,
        last: int,
        latest: int,
        qos: int,
        packetIds: Sequence[int],
        size: int,
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

    def hold(self, packetId: int, written: Deferred[None]) -> None:
        """
        Let the ack of the PUBLISH that was taken last, and so of all behind it, wait for something else than the bus,
        too.

        @param written: never fails
        """
        batch = self.inFlight[-1] if self.inFlight else None
        if batch is None or batch.packetIds != (packetId,):
            return
        self._unwritten.add(batch)

        def release(_: None) -> None:
            self._unwritten.discard(batch)
            if batch.link is self:
                self.settled()

        written.addCallback(release)

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
        gateway = self.gateway
        now = gateway.clock.seconds()
        observe = gateway.observed.acks.observe
        while line and line[0].outcome is not None:
            batch = line[0]
            if not batch.outcome:
                failed = True
                break
            if batch in self._unwritten or (batch.qos == 2 and not self.mayAcknowledge(batch)):
                # What failed behind it ends the link at once: a stream must not go on beyond it.
                failed = any(other.outcome is False for other in line)
                break
            line.pop(0)
            self._publishes -= len(batch.packetIds)
            self._inFlightBytes -= batch.size
            if batch.qos:
                acks.append(batch)
                observe(now - batch.since, len(batch.packetIds))
        if acks:
            self.acknowledge(acks)
        if failed:
            self.end(Ending(Reason.socketClosed, "the bus failed to take its data"))
        elif self.pauses & Pause.window:
            limits = gateway.limits
            if self._publishes <= limits.window // 2 and self._inFlightBytes <= limits.windowBytes // 2:
                self.resume(Pause.window)
