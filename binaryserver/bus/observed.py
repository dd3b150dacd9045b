"""
A bus that is looked at: whether it takes what it is handed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.components import proxyForInterface
from twisted.python.failure import Failure
from zope.interface import Interface

from binaryserver.errors import RecordTooLarge
from binaryserver.interfaces import IBus, ILanes
from binaryserver.model import Record
from binaryserver.ops.health import Check

PATIENCE = 10.0
"""s that the bus may keep everything waiting, or that a failure counts after which it took nothing: then it is not
well."""

_Proxy: Any = proxyForInterface(IBus, "_bus")


class ObservedBus(_Proxy):  # type: ignore[misc]
    """
    Another one, of which it knows how it does by the way.
    """

    def __init__(self, bus: IBus, clock: IReactorTime) -> None:
        _Proxy.__init__(self, bus)
        self._publish = bus.publish
        self._clock = clock
        self._waiting = 0
        # s of the clock: since when nothing moves, though something waits.
        self._since = 0.0
        self._failedAt: float | None = None

    def __conform__(self, interface: type[Interface]) -> object:
        """
        Lanes are the bus's own, if it has some.
        """
        return ILanes(self._bus, None) if interface is ILanes else None

    @property
    def pendingBytes(self) -> int:
        """
        See L{IBus.pendingBytes}. Asked with every batch, and so not by the proxy's longer way.
        """
        pending: int = self._bus.pendingBytes
        return pending

    def publish(self, topic: str, partition: int, records: Sequence[Record]) -> Deferred[None]:
        """
        See L{IBus.publish}.
        """
        if not self._waiting:
            self._since = self._clock.seconds()
        self._waiting += 1
        return self._publish(topic, partition, records).addCallbacks(self._took, self._failed)

    def _took(self, _: None) -> None:
        self._waiting -= 1
        self._since = self._clock.seconds()
        self._failedAt = None

    def _failed(self, failure: Failure) -> Failure:
        self._waiting -= 1
        if not failure.check(RecordTooLarge):
            self._failedAt = self._clock.seconds()
        return failure

    def check(self) -> Check:
        """
        How it does.

        One partition that has no leader does not make it unwell, as long as others go on. What failed is tried again
        once a second by whoever tells presences, so that a failure that is over does not count for long.
        """
        now = self._clock.seconds()
        if self._failedAt is not None and now - self._failedAt <= PATIENCE:
            return Check(False, f"it did not take what it was last handed, {now - self._failedAt:.0f} s ago")
        if self._waiting and now - self._since > PATIENCE:
            return Check(False, f"it has taken nothing for {now - self._since:.0f} s, and {self._waiting} flushes wait")
        return Check(True, "it takes what it is handed")
