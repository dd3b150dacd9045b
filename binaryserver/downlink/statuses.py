"""
What became of each message, to the bus (G5).

A final status is published until the bus has it, and only then its entry leaves the mailbox. If this process dies in
between, or cannot find out under which name the box is known downstream, C{dueMessages} of the session store gives the
entry to another, or again.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.downlink.gathering import Gathering
from binaryserver.errors import LocalError
from binaryserver.interfaces import IBus, ISessionStore
from binaryserver.metrics.histogram import Histogram
from binaryserver.model import BoxKey, MailboxEntry
from binaryserver.ops.counters import Counters
from binaryserver.proto import cloudnext_pb2
from binaryserver.session.announcer import Announcer
from binaryserver.transcode.downlink import finalStatusRecord, statusRecord
from binaryserver.transcode.names import Names, Published

# s between two calls: nobody waits for them.
_DISTANCE = 0.02
_MAX_FINISHED = 2000

_COST = 600
"""bytes of memory of a status whose box's name is being looked up"""

_Name = tuple[BoxKey, str]
"""Of a message: its box, and its id."""

_Told = Callable[[BoxKey], None]
"""Announces a status of the box that is known downstream by that name."""


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
        names: Names,
        mailWait: Histogram,
    ) -> None:
        """
        @param mailWait: where it is noted for how long a message was on its way, s
        """
        self._announcer = Announcer(bus, topic, clock)
        self._store = store
        self._nowMs = nowMs
        self._instance = instance
        self._counters = counters
        self._names = names
        self._mailWait = mailWait
        # What waits for its box's name, by the box, in its order.
        self._unnamed: dict[BoxKey, list[tuple[_Told, _Name | None]]] = {}
        self._unnamedCount = 0
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
        return self._announcer.waiting + len(self._ending) + self._unnamedCount

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
        return self._announcer.queuedBytes + self._unnamedCount * _COST

    def progress(self, entry: MailboxEntry, status: cloudnext_pb2.DeliveryStatus, at: int) -> None:
        """
        Tell that a message has come so far.

        @param at: Unix ms
        """

        def tell(box: BoxKey) -> None:
            self._announcer.announce(statusRecord(entry, box, status, at, self._instance, self._nowMs()))

        self._name(entry.message.box, tell, None)

    def final(self, entry: MailboxEntry) -> None:
        """
        Tell how a message ended; then its entry leaves the mailbox.
        """
        name = (entry.message.box, entry.message.id)
        if name in self._ending:
            return
        self._ending.add(name)
        assert entry.final is not None
        status = entry.final.status.value

        def tell(box: BoxKey) -> None:
            self._counters.finals[status] += 1
            self._mailWait.observe(max(0, self._nowMs() - entry.message.queuedAt) / 1000)
            record = finalStatusRecord(entry, box, self._instance, self._nowMs())
            self._announcer.announce(record, lambda: self._finished.add(name))

        self._name(entry.message.box, tell, name)

    def _name(self, box: BoxKey, tell: _Told, ending: _Name | None) -> None:
        """
        Tell something under the name by which the box is known downstream, behind what waits for it already.

        @param ending: of which message it is the end
        """
        self._unnamedCount += 1
        waiting = self._unnamed.get(box)
        if waiting is not None:
            waiting.append((tell, ending))
            return
        self._unnamed[box] = [(tell, ending)]
        named = self._names.published(box)
        named.addCallbacks(self._named, self._unknown, callbackArgs=(box,), errbackArgs=(box,))
        named.addErrback(self._failed)

    def _named(self, published: Published, box: BoxKey) -> None:
        waiting = self._unnamed.pop(box)
        self._unnamedCount -= len(waiting)
        for tell, _ in waiting:
            tell(published.box)

    def _unknown(self, failure: Failure, box: BoxKey) -> None:
        """
        Nothing can be told of a box now; what ends its messages comes again.
        """
        waiting = self._unnamed.pop(box)
        self._unnamedCount -= len(waiting)
        endings = [ending for _, ending in waiting if ending is not None]
        self._ending.difference_update(endings)
        if not failure.check(LocalError):
            self.log.failure("a box's name was not looked up, in an unforeseen way", failure)
        elif endings:
            self.log.warn(
                "{count} messages of {account} have ended, which is told later: {reason}",
                count=len(endings),
                account=box.account,
                reason=failure.getErrorMessage(),
            )

    def _failed(self, failure: Failure) -> None:
        self.log.failure("statuses were not told, in an unforeseen way", failure)

    def _remove(self, finished: list[_Name]) -> Deferred[list[_Name]]:
        return self._store.removeMessages(finished).addCallback(lambda _: finished)

    def _removed(self, finished: list[_Name]) -> None:
        self._ending.difference_update(finished)
