"""
When a simulated box records its tracks, and how many of them may be sent by now.
"""

from __future__ import annotations

from math import inf
from random import Random

from binaryserver.tools.box_store import TrackStore


class Recorder:
    """
    Of one box. Times (C{now}) are seconds of the fleet's clock.

    @ivar recorded: the tracks of this run are in the store
    """

    def __init__(self, store: TrackStore, tracks: int, rate: float | None, random: Random, leastMs: int = 1) -> None:
        """
        @param tracks: how many the box records in this run
        @param rate: tracks a second; L{None}: all at once
        @param leastMs: ms, the least from one track to the next
        """
        self.recorded = False
        self._store = store
        self._tracks = tracks
        self._rate = rate
        self._random = random
        self._leastMs = leastMs
        self._firstNew = 0
        self._from = 0.0

    def record(self, now: float, wallOffset: float, after: int = 0) -> None:
        """
        The tracks of this run come into being: the last one about now, or when the rate will have brought it about.

        @param wallOffset: s, what C{now} lacks to Unix time
        @param after: an index that they must lie behind, as it is in use already
        """
        tracks, rate = self._tracks, self._rate
        self._from = now - (self._random.random() / rate if rate else 0.0)
        end = self._from + (tracks / rate if rate else 0.0) + wallOffset
        stepMs = 1000 if rate is None or rate >= 1 else round(1000 / rate)
        self._store.record(tracks, round(end * 1000), stepMs, after, self._leastMs)
        self._firstNew = self._store.next - tracks
        self.recorded = True

    def ready(self, now: float, size: int) -> int:
        """
        @param size: the tracks of a whole batch
        @return: how many tracks the next batch may have; 0: none may go now
        """
        head = self._store.head()
        if head is None:
            return 0
        if self._rate is None or head < self._firstNew:
            return size
        # What has been sent before, and is cut anew, was recorded long ago: only the newest has to wait for its time.
        recorded = min(self._tracks, int((now - self._from) * self._rate + 1e-6))
        ready = recorded - (head - self._firstNew)
        return min(size, ready) if ready >= size or recorded == self._tracks else 0

    def readyAt(self, size: int) -> float:
        """
        @return: s of the clock, when the next batch will have all its tracks at a given rate; else infinity
        """
        head, rate = self._store.head(), self._rate
        if head is None or rate is None or head < self._firstNew:
            return inf
        done = head - self._firstNew
        return self._from + (done + min(size, self._tracks - done)) / rate


class AckLoss:
    """
    Which acks of a box get lost.
    """

    def __init__(self, share: float, every: int, random: Random) -> None:
        """
        @param share: 0 to 1, of those that get lost by chance
        @param every: instead: each ack of so many; 0: none
        """
        self._share = share
        self._every = every
        self._random = random
        self._count = 0

    def strikes(self) -> bool:
        """
        @return: the ack that has come now is lost
        """
        if self._every:
            self._count += 1
            return self._count % self._every == 0
        return bool(self._share) and self._random.random() < self._share
