"""
Consumer groups of a bus in memory.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Collection, Mapping
from itertools import islice
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from binaryserver.errors import BusError
from binaryserver.interfaces import IBusConsumer
from binaryserver.model import StoredRecord

PATIENCE = 0.5
"""s that a read waits for records"""

Place = tuple[str, int]
"""Topic and partition."""


class MemoryGroup:
    """
    The members of a group, in the order of their coming, and what they have committed.

    @ivar committed: offset of the next record to read, by topic and partition
    """

    def __init__(self) -> None:
        self.committed: dict[Place, int] = {}
        self._members: list[MemoryConsumer] = []

    def join(self, member: MemoryConsumer) -> None:
        """
        Give a new member its share.
        """
        self._members.append(member)
        self._share()

    def leave(self, member: MemoryConsumer) -> None:
        """
        Give a member's share to the others.
        """
        self._members.remove(member)
        self._share()

    def _share(self) -> None:
        shares: dict[MemoryConsumer, set[Place]] = {member: set() for member in self._members}
        for topic, count in {topic: count for each in shares for topic, count in each.topics.items()}.items():
            readers = [member for member in shares if topic in member.topics]
            for number in range(count):
                shares[readers[number * len(readers) // count]].add((topic, number))
        for member, share in shares.items():
            member.assign(share)


@implementer(IBusConsumer)
class MemoryConsumer:
    """
    A member of a L{MemoryGroup}.

    @ivar topics: the number of partitions, by topic
    """

    def __init__(
        self,
        clock: Any,
        logs: Mapping[str, deque[StoredRecord]],
        topics: Mapping[str, int],
        group: MemoryGroup,
        closed: Callable[[MemoryConsumer], None],
    ) -> None:
        """
        @param logs: the records of each topic, whose offsets grow over all of them
        """
        self.topics = dict(topics)
        self._clock = clock
        self._logs = logs
        self._group = group
        self._closed = closed
        self._next: dict[Place, int] = {}
        self._waiting: tuple[int, Deferred[list[StoredRecord]], Any] | None = None
        self._isClosed = False

    @property
    def lag(self) -> int:
        """
        See L{IBusConsumer.lag}.
        """
        if not self._next:
            return 0
        first = min(self._next.values())
        waiting = 0
        for topic in self.topics:
            log = self._logs[topic]
            for one in islice(log, bisect_left(log, first, key=lambda one: one.offset), None):
                waiting += one.offset >= self._next.get((topic, one.partition), one.offset + 1)
        return waiting

    def assign(self, places: Collection[Place]) -> None:
        """
        These are its partitions from now on.
        """
        committed = self._group.committed
        self._next = {place: self._next.get(place, committed.get(place, 0)) for place in places}
        self.notice()

    def read(self, limit: int) -> Deferred[list[StoredRecord]]:
        """
        See L{IBusConsumer.read}.
        """
        found = self._take(limit)
        if found or self._isClosed:
            return succeed(found)
        answer: Deferred[list[StoredRecord]] = Deferred()
        self._waiting = (limit, answer, self._clock.callLater(PATIENCE, self._fire, []))
        return answer

    def _take(self, limit: int) -> list[StoredRecord]:
        found: list[StoredRecord] = []
        if not self._next:
            return found
        first = behind = min(self._next.values())
        for topic in self.topics:
            log, taken = self._logs[topic], 0
            for one in islice(log, bisect_left(log, first, key=lambda one: one.offset), None):
                if one.offset >= self._next.get((topic, one.partition), one.offset + 1):
                    found.append(one)
                    taken += 1
                    if taken == limit:
                        break
            if log:
                behind = max(behind, log[-1].offset + 1)
        found.sort(key=lambda one: one.offset)
        if len(found) >= limit:
            del found[limit:]
            behind = found[-1].offset + 1
        # All of its records before that have been given out.
        self._next = {place: max(offset, behind) for place, offset in self._next.items()}
        return found

    def notice(self) -> None:
        """
        There may be something new.
        """
        if self._waiting is not None:
            found = self._take(self._waiting[0])
            if found:
                self._fire(found)

    def _fire(self, found: list[StoredRecord]) -> None:
        assert self._waiting is not None
        _, answer, delay = self._waiting
        self._waiting = None
        if delay.active():
            delay.cancel()
        answer.callback(found)

    def commit(self, offsets: Mapping[Place, int]) -> Deferred[None]:
        """
        See L{IBusConsumer.commit}.
        """
        if self._isClosed:
            return fail(BusError("the consumer is closed"))
        committed = self._group.committed
        for place, offset in offsets.items():
            if place in self._next:
                committed[place] = max(offset, committed.get(place, 0))
        return succeed(None)

    def close(self) -> Deferred[None]:
        """
        See L{IBusConsumer.close}.
        """
        if not self._isClosed:
            self._isClosed = True
            self._next = {}
            if self._waiting is not None:
                self._fire([])
            self._closed(self)
            self._group.leave(self)
        return succeed(None)
