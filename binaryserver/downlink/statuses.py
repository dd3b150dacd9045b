"""
What became of each message, to the bus (G5).

A final status is published until the bus has it, and only then its entry leaves the mailbox. If this process dies in
between, C{dueMessages} of the session store gives the entry to another.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.interfaces import IBus, ISessionStore
from binaryserver.model import BoxKey, MailboxEntry
from binaryserver.ops.counters import Counters
from binaryserver.proto import cloudnext_pb2
from binaryserver.session.announcer import Announcer
from binaryserver.transcode.downlink import finalStatusRecord, statusRecord

_RETRY = 1.0

# s that entries gather before they leave: nobody waits for it.
_GATHER = 0.02


class Statuses:
    """
    Of one instance.
    """

    log = Logger()

    def __init__(
        self,
        bus: IBus,
        store: ISessionStore,
        topic: str,
        clock: IReactorTime,
        nowMs: Callable[[], int],
        instance: str,
        counters: Counters,
    ) -> None:
        self._announcer = Announcer(bus, topic, clock)
        self._store = store
        self._clock = clock
        self._nowMs = nowMs
        self._instance = instance
        self._counters = counters
        # Whose final status is on its way, so that it is not sent twice.
        self._ending: set[tuple[BoxKey, str]] = set()
        self._finished: list[tuple[BoxKey, str]] = []
        self._isRemoving = False

    @property
    def waiting(self) -> int:
        """
        Statuses that are not durable yet, and entries that have not left their mailboxes.
        """
        return self._announcer.waiting + len(self._ending)

    @property
    def isFailing(self) -> bool:
        """
        The bus does not take them.
        """
        return self._announcer.isFailing

    @property
    def queuedBytes(self) -> int:
        """
        Memory of what the bus has not been handed.
        """
        return self._announcer.queuedBytes

    def progress(self, entry: MailboxEntry, status: cloudnext_pb2.DeliveryStatus, at: int) -> None:
        """
        Tell that a message has come so far.

        @param at: Unix ms
        """
        self._announcer.announce(statusRecord(entry, status, at, self._instance, self._nowMs()))

    def final(self, entry: MailboxEntry) -> None:
        """
        Tell how a message ended; then its entry leaves the mailbox.
        """
        name = (entry.message.box, entry.message.id)
        if name in self._ending:
            return
        self._ending.add(name)
        assert entry.final is not None
        self._counters.finals[entry.final.status.value] += 1
        self._announcer.announce(finalStatusRecord(entry, self._instance, self._nowMs()), lambda: self._told(name))

    def _told(self, name: tuple[BoxKey, str]) -> None:
        self._finished.append(name)
        if not self._isRemoving:
            self._isRemoving = True
            self._clock.callLater(_GATHER, self._remove)

    def _remove(self) -> None:
        finished, self._finished = self._finished, []
        removed: Deferred[None] = maybeDeferred(self._store.removeMessages, finished)
        removed.addCallbacks(self._removed, self._notRemoved, callbackArgs=(finished,), errbackArgs=(finished,))

    def _removed(self, _: None, finished: list[tuple[BoxKey, str]]) -> None:
        self._ending.difference_update(finished)
        if self._finished:
            self._clock.callLater(_GATHER, self._remove)
        else:
            self._isRemoving = False

    def _notRemoved(self, failure: Failure, finished: list[tuple[BoxKey, str]]) -> None:
        self.log.warn("session store did not remove messages, trying again: {reason}", reason=failure.getErrorMessage())
        self._finished = finished + self._finished
        self._clock.callLater(_RETRY, self._remove)
