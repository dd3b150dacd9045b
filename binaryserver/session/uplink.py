"""
From batches of boxes to flushes of the bus, and back from commits to acks and marks.

What one turn of the reactor brought for one partition (and lane, where the bus has some) goes to the bus at once, in a
few parts if it is much, with one Deferred for each. When it fires, each batch in it is settled with its stream
(L{binaryserver.session.index}) or with its box's fingerprints (L{binaryserver.session.fingerprints}), the links
concerned are told once each, and the marks that rose and the fingerprints that were added are handed to the session
store, merged.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.errors import BinaryServerError
from binaryserver.interfaces import IBus, ILanes, ISessionStore
from binaryserver.model import FingerprintUpdate, MarkUpdate, Record
from binaryserver.session.fingerprints import DEFAULT_WINDOW, Fingerprints
from binaryserver.session.index import Stream, Taken
from binaryserver.session.writebehind import WriteBehind

if TYPE_CHECKING:
    from binaryserver.session.box import BoxSession
    from binaryserver.session.line import AckLine

GLOBAL_WINDOW = 256 * 1024 * 1024
"""Bytes of records that may wait for the bus in one process, whether their links live or not (G7)."""

_EARLY_FLUSH = 32 * 1024
"""Bytes of records of one partition that go to the bus within the turn: while they are in the processor's caches."""

_RELIEF_PERIOD = 0.5


class Batch(Taken):
    """
    One PUBLISH of a box, or several of QoS 1 whose indices follow each other, or one MD21 block, on its way through the
    bus.

    @ivar link: whom to tell; L{None} once that link is gone
    @ivar packetIds: of the PUBLISHes, 0 with QoS 0; of a block, what its link knows its ack by
    @ivar size: bytes that count in the windows
    @ivar since: s of the reactor's clock, when it was taken
    @ivar parts: flushes that it waits for
    @ivar broken: one of them failed
    """

    __slots__ = ("box", "broken", "link", "packetIds", "parts", "qos", "since", "size")

    def __init__(
        self,
        link: AckLine,
        stream: Stream | Fingerprints | None,
        lastIndex: int,
        latest: int,
        packetIds: Sequence[int],
        qos: int,
        size: int,
        since: float,
    ) -> None:
        self.stream = stream
        self.lastIndex = lastIndex
        self.latest = latest
        self.outcome = None
        self.box: BoxSession = link.box
        self.link: AckLine | None = link
        self.packetIds = packetIds
        self.qos = qos
        self.size = size
        self.since = since
        self.parts = 0
        self.broken = False


class _Flush:
    """
    What gathers for one partition during one turn of the reactor.
    """

    __slots__ = ("batches", "records", "size")

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.batches: list[Batch] = []
        self.size = 0


class Uplink:
    """
    The way of everything that boxes send.

    @ivar onPressure: called when more than the global window waits for the bus
    @ivar onRelief: called when there is room again
    @ivar otherBytes: gives the bytes that wait elsewhere and count in the global window
    @ivar onBoxSettled: called with a box that may have nothing in flight, or nothing unwritten, any more
    @ivar fingerprintWindow: how many tracks of a box are known by their fingerprints
    @ivar flushes: that the bus was handed, since the start
    @ivar failures: of those, how many it did not take
    """

    log = Logger()

    def __init__(
        self,
        bus: IBus,
        store: ISessionStore,
        clock: IReactorTime,
        window: int = GLOBAL_WINDOW,
        fingerprintWindow: int = DEFAULT_WINDOW,
    ) -> None:
        """
        @param window: bytes, the global window
        """
        self._bus = bus
        self._store = store
        self._clock = clock
        self._window = window
        lanes: ILanes | None = ILanes(bus, None)
        self._laneOf: Callable[[bytes], Hashable] = _onlyLane if lanes is None else lanes.laneOf
        self._open: dict[tuple[str, int, Hashable], _Flush] = {}
        self._openBytes = 0
        self._handed: list[tuple[Deferred[None], str, int, int, _Flush]] = []
        # Those that the bus has not told of, in the order in which it was handed them.
        self._untold: dict[_Flush, None] = {}
        self.flushes = 0
        self.failures = 0
        self.fingerprintWindow = fingerprintWindow
        self._marks = WriteBehind(clock, "marks", self._writeMarks, self._marksWritten)
        self._fingerprints = WriteBehind(clock, "fingerprints", self._writeFingerprints, self._fingerprintsWritten)
        self.isFull = False
        self.onPressure: Callable[[], None] = _nothing
        self.onRelief: Callable[[], None] = _nothing
        self.onBoxSettled: Callable[[BoxSession], None] = _nothingFor
        self.otherBytes: Callable[[], int] = _noBytes

    @property
    def pendingBytes(self) -> int:
        """
        Bytes of records that are not durable yet.
        """
        return self._openBytes + self._bus.pendingBytes + self.otherBytes()

    def oldestSince(self) -> float | None:
        """
        Since when the oldest data is here that the bus has been handed and has not told of, s of the reactor's clock;
        L{None}: there is none. Whether its links live or not.
        """
        return next((flush.batches[0].since for flush in self._untold), None)

    @property
    def unwritten(self) -> int:
        """
        Marks that have risen, and boxes' fingerprints that were added, which the session store does not have yet.
        """
        return len(self._marks) + len(self._fingerprints)

    @property
    def hasRoom(self) -> bool:
        """
        The global window is not full.
        """
        return not self.isFull and self.pendingBytes <= self._window

    @property
    def hasUnwrittenMarks(self) -> bool:
        """
        Marks have risen, or fingerprints were added, that the session store does not have yet.
        """
        return not (self._marks.isEmpty and self._fingerprints.isEmpty)

    def isUnwritten(self, stream: Stream | Fingerprints) -> bool:
        """
        The session store does not have this stream's mark, or all of these fingerprints, yet.
        """
        return stream in self._marks if isinstance(stream, Stream) else stream in self._fingerprints

    def writeAgain(self, box: BoxSession) -> None:
        """
        The session store has lost its memory: it is to have all that is known of a box's fingerprints.
        """
        if box.fingerprints is not None and box.fingerprints.isLoaded:
            box.fingerprints.writeAgain()
            self._fingerprints.dirty[box.fingerprints] = box
            self._fingerprints.start()

    def submit(self, topic: str, partition: int, records: Sequence[Record], size: int, batch: Batch) -> None:
        """
        Send records of a batch; C{batch} is settled when all that was submitted for it is.

        @param size: bytes of the records
        """
        key = (topic, partition, self._laneOf(records[0].key))
        flush = self._open.get(key)
        if flush is None:
            if not self._open and not self._handed:
                self._clock.callLater(0, self.flush)
            flush = self._open[key] = _Flush()
        flush.records += records
        flush.batches.append(batch)
        flush.size += size
        batch.parts += 1
        self._openBytes += size
        if flush.size >= _EARLY_FLUSH:
            del self._open[key]
            self._handOver(topic, partition, flush)
        if not self.isFull and self.pendingBytes > self._window:
            self.isFull = True
            self._clock.callLater(_RELIEF_PERIOD, self._checkRelief)
            self.onPressure()

    def flush(self) -> None:
        """
        Hand what has gathered to the bus now.
        """
        flushes, self._open = self._open, {}
        for (topic, partition, _), flush in flushes.items():
            self._handOver(topic, partition, flush)
        handed, self._handed = self._handed, []
        self.flushes += len(handed)
        for done, topic, partition, count, flush in handed:
            self._untold[flush] = None
            done.addCallbacks(
                self._committed, self._failed, callbackArgs=(flush,), errbackArgs=(topic, partition, count, flush)
            )

    def _handOver(self, topic: str, partition: int, flush: _Flush) -> None:
        """
        Give a flush to the bus. What becomes of it is listened to at the end of the turn: a batch may have other parts.
        """
        # The records are not kept: there are many, and the bus lets go of them as soon as it can.
        records, flush.records = flush.records, []
        self._openBytes -= flush.size
        count = len(records)
        self._handed.append((self._bus.publish(topic, partition, records), topic, partition, count, flush))

    def _committed(self, _: None, flush: _Flush) -> None:
        del self._untold[flush]
        self._settle(flush.batches)

    def _failed(self, failure: Failure, topic: str, partition: int, count: int, flush: _Flush) -> None:
        del self._untold[flush]
        self.failures += 1
        self.log.warn(
            "bus did not take a flush: {reason}",
            reason=failure.getErrorMessage(),
            topic=topic,
            partition=partition,
            records=count,
        )
        if not failure.check(BinaryServerError):
            self.log.failure("bus failed in an unforeseen way", failure)
        for batch in flush.batches:
            batch.broken = True
        self._settle(flush.batches)

    def _settle(self, batches: list[Batch]) -> None:
        links: dict[AckLine, None] = {}
        dirty, dirtyFingerprints = self._marks.dirty, self._fingerprints.dirty
        boxes: dict[BoxSession, None] = {}
        for batch in batches:
            batch.parts -= 1
            if batch.parts:
                continue
            box, stream = batch.box, batch.stream
            if stream is None:
                batch.outcome = not batch.broken
                if batch.link is not None:
                    links[batch.link] = None
                box.inFlight -= 1
            else:
                for known in stream.settle(batch, not batch.broken):
                    link = known.link  # type: ignore[attr-defined]
                    if link is not None:
                        links[link] = None
                box.inFlight -= 1
                if isinstance(stream, Stream):
                    dirty[stream] = box
                elif not batch.broken:
                    dirtyFingerprints[stream] = box
            if not box.inFlight:
                boxes[box] = None
        for link in links:
            try:
                link.settled()
            except Exception:
                # The others of this flush are to have their acks all the same.
                self.log.failure("a link failed at its acks in an unforeseen way")
                link.abort()
        for box in boxes:
            self.onBoxSettled(box)
        if dirty:
            self._marks.start()
        if dirtyFingerprints:
            self._fingerprints.start()
        if self.isFull:
            self._relieve()

    def _relieve(self) -> None:
        if self.pendingBytes < self._window * 7 // 8:
            self.isFull = False
            self.onRelief()

    def _checkRelief(self) -> None:
        # What waits elsewhere may be the last to go, and nothing of it is settled here.
        if self.isFull:
            self._relieve()
        if self.isFull:
            self._clock.callLater(_RELIEF_PERIOD, self._checkRelief)

    def _writeMarks(self, streams: Mapping[Stream, BoxSession]) -> Deferred[None]:
        return self._store.commitMarks(
            [
                MarkUpdate(box.key, stream.number, stream.committed, stream.latest)
                for stream, box in streams.items()
                if stream.committed >= 0
            ]
        )

    def _marksWritten(self, streams: Mapping[Stream, BoxSession]) -> None:
        for box in dict.fromkeys(streams.values()):
            self.onBoxSettled(box)

    def _writeFingerprints(self, added: Mapping[Fingerprints, BoxSession]) -> Deferred[None]:
        updates = [FingerprintUpdate(box.key, fingerprints.toWrite()) for fingerprints, box in added.items()]
        return self._store.commitFingerprints(updates, self.fingerprintWindow)

    def _fingerprintsWritten(self, added: Mapping[Fingerprints, BoxSession]) -> None:
        for fingerprints, box in added.items():
            fingerprints.written()
            self.onBoxSettled(box)


def _nothing() -> None:
    """
    Until the gateway says what is to be done.
    """


def _noBytes() -> int:
    """
    Likewise.
    """
    return 0


def _onlyLane(key: bytes) -> Hashable:
    """
    Of a bus that has no others.
    """
    return None


def _nothingFor(box: BoxSession) -> None:
    """
    Likewise.
    """
