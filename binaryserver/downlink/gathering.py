"""
Calls on the session store about many things at once.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_RETRY = 1.0


class Gathering(Generic[Item, Answer]):
    """
    One kind of call. What comes while one is under way gathers for the next, which keeps its distance; what comes alone
    goes at once. What a call failed at is asked again, before anything later.

    @ivar isIdle: nothing waits, and no call is under way
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        what: str,
        distance: float,
        most: int,
        ask: Callable[[list[Item]], Deferred[Answer]],
        answered: Callable[[Answer], None],
    ) -> None:
        """
        @param what: the call's name, for the log
        @param distance: s between the beginnings of two calls
        @param most: items in one call
        @param ask: makes the call
        @param answered: takes its answer
        """
        self._clock = clock
        self._what = what
        self._distance = distance
        self._most = most
        self._ask = ask
        self._answered = answered
        self._items: dict[Item, None] = {}
        self._askedAt = 0.0
        self.isIdle = True

    def __contains__(self, item: Item) -> bool:
        return item in self._items

    def add(self, item: Item) -> None:
        """
        Let the next call be about it too. One that waits already keeps its place.
        """
        self._items[item] = None
        if self.isIdle:
            self.isIdle = False
            self._soon()

    def _soon(self) -> None:
        self._clock.callLater(max(0.0, self._askedAt + self._distance - self._clock.seconds()), self._go)

    def _go(self) -> None:
        self._askedAt = self._clock.seconds()
        items = list(islice(self._items, self._most))
        self._items = dict.fromkeys(islice(self._items, self._most, None))
        asked = maybeDeferred(self._ask, items)
        asked.addCallbacks(self._answered, self._notAnswered, errbackArgs=(items,))
        asked.addErrback(self._failed).addCallback(self._next)

    def _notAnswered(self, failure: Failure, items: list[Item]) -> Deferred[None]:
        reason = failure.getErrorMessage()
        self.log.warn("session store did not {what}, trying again: {reason}", what=self._what, reason=reason)
        self._items = {**dict.fromkeys(items), **self._items}
        later: Deferred[None] = Deferred()
        self._clock.callLater(_RETRY, later.callback, None)
        return later

    def _failed(self, failure: Failure) -> None:
        self.log.failure("what the session store answered was at fault: {what}", failure, what=self._what)

    def _next(self, _: object) -> None:
        if self._items:
            self._soon()
        else:
            self.isIdle = True
