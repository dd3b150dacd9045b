"""
When a simulated box asks whether its link is alive, and when it connects again. Times are seconds of the fleet's clock.
"""

from __future__ import annotations

from math import inf
from random import Random
from typing import Final

PING_TIMEOUT: Final = 10.0
"""s, the least that a box waits for a PINGRESP; else its keep-alive."""
MAX_RECONNECT_DELAY: Final = 30.0
"""s"""


class KeepAlive:
    """
    Of one link.

    @ivar timeout: s that an answer may take
    """

    def __init__(self, interval: int) -> None:
        """
        @param interval: s after which something has to be sent; 0: nothing has
        """
        self.timeout = max(interval, PING_TIMEOUT)
        self._interval = interval
        self._sentAt = 0.0
        self._askedAt: float | None = None

    def linkUp(self) -> None:
        """
        There is a new link: no answer is to come.
        """
        self._askedAt = None

    def sent(self, now: float) -> None:
        """
        Something was sent.
        """
        self._sentAt = now

    def asked(self, now: float) -> None:
        """
        A PINGREQ was sent.
        """
        if self._askedAt is None:
            self._askedAt = now

    def answered(self) -> None:
        """
        A PINGRESP has come.
        """
        self._askedAt = None

    def isDue(self, now: float) -> bool:
        """
        A PINGREQ has to be sent.
        """
        return bool(self._interval) and now >= self._sentAt + self._interval

    def isOverdue(self, now: float) -> bool:
        """
        The answer has not come in time.
        """
        return self._askedAt is not None and now >= self._askedAt + self.timeout

    @property
    def next(self) -> float:
        """
        When one of both will be so.
        """
        return min(
            self._sentAt + self._interval if self._interval else inf,
            inf if self._askedAt is None else self._askedAt + self.timeout,
        )


class Backoff:
    """
    Doubles the time between connects that fail.
    """

    def __init__(self, delay: float, random: Random) -> None:
        """
        @param delay: s
        """
        self._delay = delay
        self._random = random
        self._failures = 0

    def lost(self, failed: bool) -> float:
        """
        There is no link any more.

        @param failed: it was of no use
        @return: s until the next
        """
        self._failures = self._failures + 1 if failed else 0
        delay: float = self._delay * 2 ** min(max(0, self._failures - 1), 10)
        return min(delay, max(self._delay, MAX_RECONNECT_DELAY)) * self._random.uniform(0.75, 1.25)

    def succeeded(self) -> None:
        """
        A link is of use.
        """
        self._failures = 0
