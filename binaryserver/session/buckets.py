"""
Token buckets: what an account may do in some time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from binaryserver.model import DRAW_BURST, Draw

_SWEEP = 1.0
"""s between two looks for buckets that are full again."""


class Bucket(NamedTuple):
    """
    One that was drawn from.

    @ivar tokens: what was left
    @ivar at: s of the store's clock, when that was
    @ivar fullAt: when it is full again, as one that was never drawn from is
    """

    tokens: float
    at: float
    fullAt: float


def drawFrom(bucket: Bucket | None, draw: Draw, now: float) -> tuple[float, Bucket]:
    """
    See L{binaryserver.interfaces.ISessionStore.draw}. Where the clock was put back, it counts from now on.

    @param bucket: L{None}: it was never drawn from, or is full again
    @return: what was granted, and the bucket as it is now
    """
    most = tokens = max(draw.rate * DRAW_BURST, draw.least)
    if bucket is not None:
        tokens = min(most, bucket.tokens + max(0.0, now - bucket.at) * draw.rate)
    granted = min(draw.wanted, tokens) if tokens >= draw.least else 0.0
    tokens -= granted
    return granted, Bucket(tokens, now, now + (most - tokens) / draw.rate)


class MemoryBuckets:
    """
    Those of all accounts, in memory.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        """
        @param seconds: a clock
        """
        self._seconds = seconds
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._sweepAt = 0.0

    def __len__(self) -> int:
        """
        How many are kept.
        """
        return len(self._buckets)

    def draw(self, draws: Sequence[Draw]) -> list[float]:
        """
        See L{binaryserver.interfaces.ISessionStore.draw}.
        """
        now = self._seconds()
        if now >= self._sweepAt:
            self._sweepAt = now + _SWEEP
            self._buckets = {name: bucket for name, bucket in self._buckets.items() if bucket.fullAt > now}
        granted = []
        for one in draws:
            name = one.account, one.kind
            given, self._buckets[name] = drawFrom(self._buckets.get(name), one, now)
            granted.append(given)
        return granted
