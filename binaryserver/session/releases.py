"""
The ends of links on their way to the session store.
"""

from __future__ import annotations

from collections import deque

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.interfaces import ISessionStore
from binaryserver.model import BoxKey
from binaryserver.session.boxrecords import BoxEvent

_RETRY = 1.0
_CHUNK = 200

_Ended = tuple[BoxKey, int, int, BoxEvent]


class Releases:
    """
    Each end is told until the session store has noted it, or says that the box has a later link: one that it does not
    know of leaves its box connected for ever.
    """

    log = Logger()

    def __init__(self, store: ISessionStore, clock: IReactorTime) -> None:
        self._store = store
        self._clock = clock
        self._failed: deque[_Ended] = deque()
        self._isWaiting = False
        self.waiting = 0
        """Ends that the store has not noted yet."""

    def release(self, box: BoxKey, linkEpoch: int, endedMs: int, event: BoxEvent) -> None:
        """
        The link of that epoch is gone.

        @param endedMs: Unix ms, since when
        @param event: why
        """
        self.waiting += 1
        self._release(box, linkEpoch, endedMs, event)

    def _release(self, *ended: *_Ended) -> None:
        self._store.release(*ended).addCallbacks(self._noted, self._notNoted, errbackArgs=ended)

    def _noted(self, _: bool) -> None:
        self.waiting -= 1

    def _notNoted(self, failure: Failure, *ended: *_Ended) -> None:
        self._failed.append(ended)
        if not self._isWaiting:
            self._isWaiting = True
            self.log.warn("session store did not note a link's end: {reason}", reason=failure.getErrorMessage())
            self._clock.callLater(_RETRY, self._again)

    def _again(self) -> None:
        self._isWaiting = False
        for _ in range(min(_CHUNK, len(self._failed))):
            self._release(*self._failed.popleft())
        if self._failed and not self._isWaiting:
            self._isWaiting = True
            self._clock.callLater(_RETRY / 10, self._again)
