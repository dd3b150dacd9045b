"""
One timer for all links.

Every deadline of a link is seconds long, and a timer of its own would cost each link more memory than its session. So
each link is looked at once a period, a tenth of them at a time.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

_SLICES = 10
MAX_PERIOD = 1.0
"""s: no deadline is noticed later than this."""


class Swept(Protocol):
    """
    What is looked at.
    """

    def sweep(self, now: float) -> None:
        """
        Do what is due.

        @param now: s of the reactor's clock
        """

    def abort(self) -> None:
        """
        Called when L{sweep} raised.
        """


class Sweeper:
    """
    Calls C{sweep} of everything in it once a period.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, period: float = MAX_PERIOD) -> None:
        """
        @param period: s
        """
        self._clock = clock
        self._slices: list[dict[Swept, None]] = [{} for _ in range(_SLICES)]
        self._next = 0
        self._due = 0
        self._loop = LoopingCall(self._sweepSlice)
        self._loop.clock = clock
        self._period = period

    def start(self) -> None:
        """
        Begin.
        """
        self._loop.start(self._period / _SLICES, now=False)

    def stop(self) -> None:
        """
        End.
        """
        if self._loop.running:
            self._loop.stop()

    def add(self, swept: Swept) -> int:
        """
        Look at it from now on.

        @return: what L{remove} needs
        """
        self._next = (self._next + 1) % _SLICES
        self._slices[self._next][swept] = None
        return self._next

    def remove(self, swept: Swept, place: int) -> None:
        """
        Look at it no more.
        """
        self._slices[place].pop(swept, None)

    def _sweepSlice(self) -> None:
        now = self._clock.seconds()
        self._due = (self._due + 1) % _SLICES
        for swept in list(self._slices[self._due]):
            try:
                swept.sweep(now)
            except Exception:
                # One link's mistake must not stop the timers of all.
                self.log.failure("a link's timers failed in an unforeseen way")
                swept.abort()
