"""
What became of each message, to the bus (G5).

A final status is published until the bus has it, and only then its entry leaves the mailbox. If this process dies in
between, C{dueMessages} of the session store gives the entry to another.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from binaryserver.downlink.gathering import Gathering
from binaryserver.interfaces import IBus, ISessionStore
from binaryserver.model import BoxKey, MailboxEntry
from binaryserver.ops.counters import Counters
from binaryserver.proto import cloudnext_pb2
from binaryserver.session.announcer import Announcer
from binaryserver.transcode.downlink import finalStatusRecord, statusRecord

# s between two calls: nobody waits for them.
_DISTANCE = 0.02
_MAX_FINISHED = 2000

_Name = tuple[BoxKey, str]
"""Of a message: its box, and its id."""


class Statuses:
    """
    Of one instance.
    """

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
        self._nowMs = nowMs
        self._instance = instance
        self._counters = counters
        # Whose final status is on its way, so that it is not sent twice.
        self._ending: set[_Name] = set()
        self._finished: Gathering[_Name, list[_Name]] = Gathering(
            clock, "remove messages", _DISTANCE, _MAX_FINISHED, self._remove, self._removed
        )

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
        record = finalStatusRecord(entry, self._instance, self._nowMs())
        self._announcer.announce(record, lambda: self._finished.add(name))

    def _remove(self, finished: list[_Name]) -> Deferred[list[_Name]]:
        return self._store.removeMessages(finished).addCallback(lambda _: finished)

    def _removed(self, finished: list[_Name]) -> None:
        self._ending.difference_update(finished)
