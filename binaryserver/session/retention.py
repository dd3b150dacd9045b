"""
What is kept of boxes that do not come any more: until C{--session-retention} is over.
"""

from __future__ import annotations

from collections.abc import Callable
from random import random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.errors import StoreError
from binaryserver.interfaces import ISessionStore

_PERIOD = 3600.0
"""s between two looks; with jitter, as every instance takes them."""

_AT_ONCE = 500
"""Boxes in one step of the store."""


class Retention:
    """
    Of one process.

    @ivar purged: boxes that were removed since the start
    """

    log = Logger()

    def __init__(self, store: ISessionStore, clock: Any, nowMs: Callable[[], int], keep: float) -> None:
        """
        @param keep: s since a box was seen last; 0: for ever
        """
        self._store = store
        self._clock = clock
        self._nowMs = nowMs
        self._keep = keep
        self._next: IDelayedCall | None = None
        self._isStopped = False
        self.purged = 0

    def start(self) -> None:
        """
        Begin.
        """
        if self._keep:
            self._later(_PERIOD * random())

    def stop(self) -> None:
        """
        End.
        """
        self._isStopped = True
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _later(self, seconds: float) -> None:
        if not self._isStopped:
            self._next = self._clock.callLater(seconds, self._look)

    def _look(self) -> None:
        self._next = None
        looked: Deferred[int] = self._store.purge(self._nowMs() - int(self._keep * 1000), _AT_ONCE)
        looked.addCallbacks(self._looked, self._failed)

    def _looked(self, count: int) -> None:
        self.purged += count
        if count:
            self.log.info("what was kept of {count} boxes that were not seen for long is removed", count=count)
        self._later(0.1 if count >= _AT_ONCE else _PERIOD * (0.5 + random()))

    def _failed(self, failure: Failure) -> None:
        if not failure.check(StoreError):
            self.log.failure("boxes could not be removed, in an unforeseen way", failure)
        self._later(_PERIOD * random())
