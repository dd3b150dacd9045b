"""
What tells a track that has no index from one that was seen: a fingerprint of what it says (DESIGN 8, G2).

Sans-IO. A box whose protocol names no index in its acks sends whole blocks again, cut otherwise maybe. L{fingerprint}
is of the decoded track, so that it does not matter how it was cut; L{Fingerprints} knows those of the box's tracks that
were committed last, and those in flight apart from them: what is not on the bus yet may still fail.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple

from binaryserver.session.index import Taken

SIZE = 8
"""Bytes of a fingerprint."""

DEFAULT_WINDOW = 1024
"""How many tracks of a box are known at most (DESIGN 8)."""

_BUCKETS = 16


def fingerprint(body: bytes) -> int:
    """
    A track's fingerprint, of 64 bits.

    @param body: bytes, one C{md30.v1.Track}, serialized from decoded values: equal tracks have equal bytes then
    """
    return int.from_bytes(blake2b(body, digest_size=SIZE).digest(), "big")


def appended(known: bytes, more: bytes, window: int) -> bytes:
    """
    Fingerprints with more of them behind, the last C{window} of all. As far as C{more} begins with what C{known} ends
    with, it was appended before, and its answer was lost.
    """
    more = more[-window * SIZE :]
    at = more.rfind(known[-SIZE:]) if known else -1
    while at >= 0 and (at % SIZE or not known.endswith(more[: at + SIZE])):
        at = more.rfind(known[-SIZE:], 0, at + SIZE - 1)
    return (known + more[at + SIZE if at >= 0 else 0 :])[-window * SIZE :]


class _Window:
    """
    The last so many fingerprints, each once. A set and a queue of them cost ten times the 9 bytes that one costs here;
    one row of bytes would be searched for ten times as long as a sixteenth of it.
    """

    __slots__ = ("_buckets", "_order", "_size")

    def __init__(self, size: int, stored: bytes = b"") -> None:
        """
        @param stored: what is in it, the oldest first: C{size} at most
        """
        self._size = size
        known = dict.fromkeys(stored[at : at + SIZE] for at in range(0, len(stored), SIZE))
        # To which bucket each belongs, the oldest first; in its bucket the oldest is the first, too.
        self._order = bytearray(one[-1] % _BUCKETS for one in known)
        self._buckets = [bytearray() for _ in range(_BUCKETS)]
        for bucket, one in zip(self._order, known, strict=True):
            self._buckets[bucket] += one

    def __contains__(self, number: int) -> bool:
        bucket = self._buckets[number % _BUCKETS]
        wanted = number.to_bytes(SIZE, "big")
        at = bucket.find(wanted)
        while at > 0 and at % SIZE:
            at = bucket.find(wanted, at + 1)
        return at >= 0

    def add(self, number: int) -> None:
        """
        Append one, if it is not there.
        """
        if number in self:
            return
        bucket = number % _BUCKETS
        self._order.append(bucket)
        self._buckets[bucket] += number.to_bytes(SIZE, "big")
        if len(self._order) > self._size:
            del self._buckets[self._order.pop(0)][:SIZE]

    def __bytes__(self) -> bytes:
        places = [0] * _BUCKETS
        parts = []
        for bucket in self._order:
            place = places[bucket]
            parts.append(bytes(self._buckets[bucket][place : place + SIZE]))
            places[bucket] = place + SIZE
        return b"".join(parts)


class BlockJudgement(NamedTuple):
    """
    What the tracks of a block are. Those not named are committed, or stand in the block before.

    @ivar fresh: the positions of those to be published
    @ivar awaited: the fingerprints of those in flight
    """

    fresh: Sequence[int]
    awaited: Collection[int]


class Fingerprints:
    """
    The tracks of one box that are known.

    @ivar isLoaded: what the session store knows is in it; nothing is to be judged before
    """

    __slots__ = ("_awaited", "_inFlight", "_own", "_size", "_unwritten", "_window", "_writing", "isLoaded")

    def __init__(self, size: int = DEFAULT_WINDOW) -> None:
        """
        @param size: how many committed tracks are known at most
        """
        self._size = size
        self._window = _Window(size)
        self._inFlight: set[int] = set()
        # The fingerprints that a block brings to the bus, and those of other blocks that its ack waits for.
        self._own: dict[Taken, Sequence[int]] = {}
        self._awaited: dict[Taken, set[int]] = {}
        # Committed, and not known to be in the session store.
        self._unwritten = bytearray()
        self._writing = b""
        self.isLoaded = False

    @property
    def isSettled(self) -> bool:
        """
        Nothing of it is in flight.
        """
        return not self._own

    def load(self, stored: bytes) -> None:
        """
        Begin with what the session store knows; what it does not have yet stays.

        @param stored: as L{binaryserver.interfaces.ISessionStore.fingerprints} gives it
        """
        known = appended(stored, self._writing, self._size)
        known = appended(known, bytes(self._unwritten), self._size)
        self._window = _Window(self._size, known)
        self.isLoaded = True

    def judge(self, numbers: Sequence[int]) -> BlockJudgement:
        """
        What the tracks of a block are.

        @param numbers: the fingerprint of each
        """
        fresh: list[int] = []
        awaited: set[int] = set()
        window, inFlight = self._window, self._inFlight
        before: set[int] = set()
        for position, number in enumerate(numbers):
            if number in inFlight:
                awaited.add(number)
            elif number not in before and number not in window:
                before.add(number)
                fresh.append(position)
        return BlockJudgement(fresh, awaited)

    def take(self, block: Taken, fresh: Sequence[int], awaited: Collection[int]) -> None:
        """
        Note a block as taken. With anything C{fresh}, L{settle} must be called for it once; else others' will give it
        out.

        @param fresh: the fingerprints of the tracks that it brings to the bus
        @param awaited: as L{judge} gave them
        """
        if fresh:
            self._own[block] = fresh
            self._inFlight.update(fresh)
        if awaited:
            self._awaited[block] = set(awaited)

    def dropWaiting(self, gone: Iterable[Taken]) -> None:
        """
        Let blocks wait for others no longer: their link is gone.
        """
        for block in gone:
            self._awaited.pop(block, None)

    def settle(self, block: Taken, success: bool) -> list[Taken]:
        """
        The bus has what was fresh in a block, or is not known to have it.

        @return: the blocks whose fate is known now, each with its C{outcome} set: success, once all of its tracks are
            committed, by whichever block; failure, once one of them failed
        """
        own = self._own.pop(block)
        self._inFlight.difference_update(own)
        if success:
            for number in own:
                self._window.add(number)
                self._unwritten += number.to_bytes(SIZE, "big")
            # While the store is away: it would not keep more.
            del self._unwritten[: max(0, len(self._unwritten) - self._size * SIZE)]
        known: list[Taken] = []
        # One that has failed by what it waited for was given out then.
        if block.outcome is None and not (success and block in self._awaited):
            self._awaited.pop(block, None)
            block.outcome = success
            known.append(block)
        if self._awaited:
            known += self._settleAwaiting(own, success)
        return known

    def _settleAwaiting(self, numbers: Sequence[int], success: bool) -> list[Taken]:
        known: list[Taken] = []
        for block, awaited in list(self._awaited.items()):
            if awaited.isdisjoint(numbers):
                continue
            awaited.difference_update(numbers)
            if not success or not awaited:
                del self._awaited[block]
            if not success or not (awaited or block in self._own):
                block.outcome = success
                known.append(block)
        return known

    # The session store's copy.

    def toWrite(self) -> bytes:
        """
        What is to be appended to what the session store knows; all of it again, if it was not L{written} since.
        """
        self._writing = (self._writing + self._unwritten)[-self._size * SIZE :]
        self._unwritten.clear()
        return self._writing

    def written(self) -> None:
        """
        The session store has what L{toWrite} gave.
        """
        self._writing = b""

    def writeAgain(self) -> None:
        """
        The session store has lost its memory: all is to be written.
        """
        self._unwritten[:] = bytes(self._window)
