"""
How many messages wait for their boxes: asked of the session store now and then.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.errors import StoreError
from binaryserver.interfaces import ISessionStore

PERIOD = 15.0
"""s from an answer to the next question: a store that counts them one by one is not to be asked at each scrape."""


class MailboxDepth:
    """
    @ivar messages: in the mailboxes of all boxes, as of the last answer; 0 before the first
    """

    log = Logger()

    def __init__(self, store: ISessionStore, clock: Any) -> None:
        self._store = store
        self._clock = clock
        self._next: IDelayedCall | None = None
        self._isRunning = False
        self.messages = 0

    def start(self) -> None:
        """
        Begin.
        """
        self._isRunning = True
        self._ask()

    def stop(self) -> None:
        """
        End.
        """
        self._isRunning = False
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _ask(self) -> None:
        self._next = None
        asked: Deferred[int] = self._store.mailboxMessages()
        asked.addCallbacks(self._answered, self._failed).addCallback(self._again)

    def _answered(self, messages: int) -> None:
        self.messages = messages

    def _failed(self, failure: Failure) -> None:
        # That the store is away others say.
        if not failure.check(StoreError):
            self.log.failure("mailboxes could not be counted, in an unforeseen way", failure)

    def _again(self, _: None) -> None:
        if self._isRunning:
            self._next = self._clock.callLater(PERIOD, self._ask)
