"""
What a session store in memory knows of one box.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from binaryserver.model import EPOCH_2010_MS, KEPT_STREAMS, MqttSession, Owner, StreamMark
from binaryserver.session.boxrecords import BoxEvent, EventKind

EPOCH_KEPT_MS = 86_400_000
"""
A link epoch is a time as well, or close behind one. The last one of a box that was erased is kept until so long after
that time: a clock that is right to the day gives a higher one by then.
"""


@dataclass(slots=True)
class MemoryBox:
    """
    One box.

    @ivar lastEpoch: the last link epoch; less than 0: it never had one. Stays when the box is erased
    @ivar madeAt: Unix ms, when something was first kept of it; counts where it has no owner
    @ivar adopted: the attempt that adopted it, and the epoch that was lost
    @ivar since: Unix ms, when its last link was claimed
    @ivar events: the last ones, the oldest first
    """

    madeAt: int = 0
    lastEpoch: int = -1
    owner: Owner | None = None
    previous: Owner | None = None
    attempt: str = ""
    adopted: tuple[str, int] | None = None
    protocol: str = ""
    peer: str = ""
    isListening: bool = False
    marks: dict[int, StreamMark] = field(default_factory=dict)
    mqtt: MqttSession | None = None
    fingerprints: bytes = b""
    since: int = 0
    events: list[BoxEvent] = field(default_factory=list)

    @property
    def isConnected(self) -> bool:
        """
        It has an owner that has not released it.
        """
        return self.owner is not None and self.owner.connected

    @property
    def isKnown(self) -> bool:
        """
        More than a last epoch is kept of it.
        """
        return self.owner is not None or bool(self.marks or self.fingerprints or self.events)

    @property
    def wasRefused(self) -> bool:
        """
        One of its events is that.
        """
        return any(event.kind is EventKind.refused for event in self.events)

    @property
    def seenAt(self) -> int:
        """
        Unix ms, from which on it counts for how long it is kept.
        """
        if self.owner is not None:
            return self.owner.seenAt
        return self.madeAt if self.lastEpoch < 0 else epochKeptUntil(self.lastEpoch)

    def nextEpoch(self, nowMs: int) -> int:
        """
        The epoch of its next link.
        """
        return max(self.lastEpoch + 1, nowMs - EPOCH_2010_MS)

    def raiseMark(self, mark: StreamMark) -> None:
        """
        Merge a mark by maximum.
        """
        stream, committed, latest = mark
        old = self.marks.pop(stream, None)
        if old is not None:
            committed, latest = max(committed, old.committed), max(latest, old.latest)
        self.marks[stream] = StreamMark(stream, committed, latest)
        while len(self.marks) > KEPT_STREAMS:
            del self.marks[next(iter(self.marks))]


def epochKeptUntil(epoch: int) -> int:
    """
    Until when, Unix ms, the last link epoch of a box that was erased is kept.
    """
    return EPOCH_2010_MS + epoch + EPOCH_KEPT_MS
