"""
Histograms for hot paths.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

ACK_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""s: from the least that an embedded bus takes to C{--batch-deadline}"""

CALL_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""s: of calls of a database on this host or a near one"""

WORK_BOUNDS = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25)
"""s: of what the reactor's thread does at once"""

LAG_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
"""s: how late the reactor is"""

WAIT_BOUNDS = (0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 86_400.0, 604_800.0)
"""s: how long messages wait for their boxes"""


class Histogram:
    """
    Counts in buckets that are there from the beginning: an observation makes no object, and costs some 0.2 us.

    @ivar bounds: the buckets' upper bounds, each of them within; the last bucket has none
    @ivar counts: of each bucket alone, one more than C{bounds}
    @ivar sum: of all values
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """
        @param bounds: ascending
        """
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """
        Count a value, as often as it was.
        """
        self.counts[bisect_left(self.bounds, value)] += count
        self.sum += value * count

    def cumulative(self) -> list[tuple[str, int]]:
        """
        By the upper bound of each bucket, as Prometheus writes it, how many values are not above it.
        """
        found, total = [], 0
        for bound, count in zip((*self.bounds, None), self.counts, strict=True):
            total += count
            found.append(("+Inf" if bound is None else f"{bound:g}", total))
        return found
