"""
How late the reactor is: what one of its turns takes, all else waits.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IDelayedCall

from binaryserver.metrics.histogram import Histogram

PERIOD = 0.5
"""s between two looks"""


class ReactorLag:
    """
    Has itself called, and looks how much later than it asked for that is.
    """

    def __init__(self, clock: Any, lag: Histogram) -> None:
        """
        @param lag: where it is noted, s
        """
        self._clock = clock
        self._lag = lag
        self._due = 0.0
        self._next: IDelayedCall | None = None

    def start(self) -> None:
        """
        Begin.
        """
        self._due = self._clock.seconds() + PERIOD
        self._next = self._clock.callLater(PERIOD, self._look)

    def stop(self) -> None:
        """
        End.
        """
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _look(self) -> None:
        self._lag.observe(max(0.0, self._clock.seconds() - self._due))
        self.start()
