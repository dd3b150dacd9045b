"""
RQueue's lists in memory: what the Shovel reads, for tests without a Redis.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed

from binaryserver.errors import StoreUnavailable
from binaryserver.shovel.source import Taken


@dataclass
class MemoryList:
    """
    A list, and who reads it.

    @ivar isAway: it cannot be reached
    @ivar losesAnswer: the next exchange is done, and its answer is lost
    """

    clock: Any
    events: list[bytes] = field(default_factory=list)
    taken: list[bytes] = field(default_factory=list)
    reader: str = ""
    until: float = 0.0
    number: int = -1
    isAway: bool = False
    losesAnswer: bool = False


class MemorySource:
    """
    See L{binaryserver.shovel.source.Source}.
    """

    key = "memory"

    def __init__(self, place: MemoryList, reader: str, lease: float) -> None:
        self._list = place
        self._me = reader
        self._lease = lease
        self._number = 0

    def exchange(self, done: int, most: int) -> Deferred[Taken]:
        """
        See L{binaryserver.shovel.source.Source.exchange}.
        """
        place, now = self._list, self._list.clock.seconds()
        if place.isAway:
            return fail(StoreUnavailable("it is away"))
        isNew = place.reader != self._me
        if isNew and place.until > now:
            self._number += 1
            return succeed(Taken(False, False, place.until - now, len(place.events), []))
        if done and not isNew and place.number != self._number:
            del place.taken[:done]
        place.reader, place.until, place.number = self._me, now + self._lease, self._number
        if not place.taken and most:
            place.taken, place.events = place.events[:most], place.events[most:]
        if place.losesAnswer:
            place.losesAnswer = False
            return fail(StoreUnavailable("the answer is lost"))
        self._number += 1
        return succeed(Taken(True, isNew, 0, len(place.events), place.taken[:most]))

    def renew(self) -> Deferred[bool]:
        """
        See L{binaryserver.shovel.source.Source.renew}.
        """
        return self._prolong(self._lease)

    def release(self) -> Deferred[None]:
        """
        See L{binaryserver.shovel.source.Source.release}.
        """
        return self._prolong(0).addCallback(lambda _: None)

    def _prolong(self, lease: float) -> Deferred[bool]:
        if self._list.isAway:
            return fail(StoreUnavailable("it is away"))
        if self._list.reader != self._me:
            return succeed(False)
        self._list.until = self._list.clock.seconds() + lease
        return succeed(True)
