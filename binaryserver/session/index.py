"""
The track index: which tracks of a box are new, which were seen, and how far they are durable (G2, G4).

Sans-IO. A stream has two marks, C{taken} and C{committed}. L{Stream.judge} says what to do with a run of indices;
L{Stream.take} notes it as taken; L{Stream.settle} hears that the bus has it, or failed; C{committed} advances only over
an unbroken run of commits.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from binaryserver.session.fingerprints import Fingerprints

MAX_JUMP = 10_000_000
"""A larger step from the last index is taken for a corrupt one (DESIGN 7)."""

NO_INDEX = -1
"""The mark of a stream of which nothing is taken, or committed, yet."""


class Verdict(Enum):
    """
    What a run of indices is.
    """

    fresh = "publish it, without its first `skip` tracks"
    duplicate = "all of it is committed: ack, do not publish"
    inFlight = "all of it is taken, not all committed: ack once `committed` has reached its last index"
    jump = "too far ahead to be true: reject"
    lateDuplicate = (
        "seen by its index, recorded after all that the mark covers: another track under an old index; reject"
    )


class Judgement(NamedTuple):
    """
    @ivar skip: tracks at the beginning that were taken before
    @ivar missing: indices that the box skipped before the first
    """

    verdict: Verdict
    skip: int = 0
    missing: int = 0


class Taken:
    """
    A run of a stream's indices, or a block of tracks known by their fingerprints, between its taking and what became of
    it. Owners derive from it.

    @ivar stream: what settles it; L{None}: it stands for itself
    """

    __slots__ = ("lastIndex", "latest", "outcome", "stream")

    def __init__(self, stream: Stream | Fingerprints | None, lastIndex: int, latest: int) -> None:
        self.stream = stream
        self.lastIndex = lastIndex
        self.latest = latest
        self.outcome: bool | None = None


_DUPLICATE = Judgement(Verdict.duplicate)
_IN_FLIGHT = Judgement(Verdict.inFlight)
_JUMP = Judgement(Verdict.jump)
_LATE_DUPLICATE = Judgement(Verdict.lateDuplicate)
_FRESH = Judgement(Verdict.fresh)


class Stream:
    """
    One stream of one box.

    @ivar number: the number that the box drew
    @ivar taken: the last index taken, or L{NO_INDEX}
    @ivar committed: the last index committed, or L{NO_INDEX}
    @ivar latest: the latest recorded time (Unix ms) that C{committed} covers
    @ivar takenLatest: likewise for C{taken}
    @ivar failed: a flush of it failed; nothing is to be taken until all that is in flight has settled
    """

    __slots__ = ("_pending", "_waiting", "committed", "failed", "latest", "number", "taken", "takenLatest")

    def __init__(self, number: int, committed: int = NO_INDEX, latest: int = 0) -> None:
        self.number = number
        self.committed = self.taken = committed
        self.latest = self.takenLatest = latest
        self.failed = False
        # A list, not a deque, which keeps half a KiB for each idle box.
        self._pending: list[Taken] = []
        self._waiting: list[Taken] = []

    @property
    def isSettled(self) -> bool:
        """
        Nothing of it is in flight.
        """
        return not self._pending

    def judge(self, first: int, times: Sequence[int]) -> Judgement:
        """
        What a run of indices is.

        @param first: its first index
        @param times: the recorded time (Unix ms) of each of its tracks
        """
        taken = self.taken
        if first == taken + 1 or taken == NO_INDEX:
            return _FRESH
        if first > taken:
            missing = first - taken - 1
            return _JUMP if missing > MAX_JUMP else Judgement(Verdict.fresh, 0, missing)
        last = first + len(times) - 1
        if last > taken:
            skip = taken - first + 1
            return _LATE_DUPLICATE if max(times[:skip]) > self.takenLatest else Judgement(Verdict.fresh, skip, 0)
        if last <= self.committed:
            return _LATE_DUPLICATE if max(times) > self.latest else _DUPLICATE
        return _LATE_DUPLICATE if max(times) > self.takenLatest else _IN_FLIGHT

    def take(self, run: Taken) -> None:
        """
        Note a fresh run as taken. L{settle} must be called for it once.
        """
        self.taken = run.lastIndex
        if run.latest > self.takenLatest:
            self.takenLatest = run.latest
        self._pending.append(run)

    def wait(self, run: Taken) -> None:
        """
        Let a run that is in flight already wait for the first copy's fate; L{settle} will give it out.
        """
        self._waiting.append(run)

    def dropWaiting(self, gone: Container[Taken]) -> None:
        """
        Forget runs that wait: their link is gone.
        """
        self._waiting = [run for run in self._waiting if run not in gone]

    def settle(self, run: Taken, success: bool) -> list[Taken]:
        """
        The bus has a run that was taken, or is not known to have it.

        @return: the runs whose fate is known now, in their order, each with its C{outcome} set. Those of a failed
            stream are all failures, whatever the bus said of them: only an unbroken run of commits counts.
        """
        pending = self._pending
        if self.failed:
            # It was given out as a failure when the first one failed. What remains is to wait for the last of them.
            pending.remove(run)
            self._restartOnceSettled()
            return []
        if not success:
            return self._fail(run)
        run.outcome = True
        known: list[Taken] = []
        while pending and pending[0].outcome:
            first = pending.pop(0)
            # Another owner may have come further meanwhile.
            self.committed = max(self.committed, first.lastIndex)
            if first.latest > self.latest:
                self.latest = first.latest
            known.append(first)
        if self._waiting:
            known += [waiter for waiter in self._waiting if waiter.lastIndex <= self.committed]
            self._waiting = [waiter for waiter in self._waiting if waiter.lastIndex > self.committed]
            for other in known:
                other.outcome = True
        return known

    def raiseTo(self, committed: int, latest: int) -> None:
        """
        Another owner of the box committed up to there.
        """
        if committed > self.committed:
            self.committed = committed
            self.latest = max(self.latest, latest)
        if committed > self.taken:
            self.taken = committed
            self.takenLatest = max(self.takenLatest, latest)

    def _fail(self, run: Taken) -> list[Taken]:
        self.failed = True
        known = [*self._pending, *self._waiting]
        # Those behind it that the bus has told of already will not be told of again.
        self._pending = [other for other in self._pending if other.outcome is None and other is not run]
        self._waiting = []
        for other in known:
            other.outcome = False
        self._restartOnceSettled()
        return known

    def _restartOnceSettled(self) -> None:
        if not self._pending:
            self.failed = False
            self.taken = self.committed
            self.takenLatest = self.latest
