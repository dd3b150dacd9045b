"""
Tests for L{binaryserver.metrics.histogram}.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.metrics.histogram import Histogram

VALUES = st.lists(st.tuples(st.floats(0, 20), st.integers(1, 50)), max_size=50)


class HistogramTests(SynchronousTestCase):
    """
    What is observed, and what is told of it.
    """

    def test_bounds(self) -> None:
        """
        A bound is within its bucket, and what is above all is in the last.
        """
        histogram = Histogram((0.5, 1.0))
        for value in (0.1, 0.5, 0.51, 1.0, 7.0):
            histogram.observe(value)
        self.assertEqual(histogram.counts, [2, 2, 1])
        self.assertEqual(histogram.cumulative(), [("0.5", 2), ("1", 4), ("+Inf", 5)])
        self.assertAlmostEqual(histogram.sum, 9.11)

    def test_nothing(self) -> None:
        """
        Every bucket is there from the beginning.
        """
        self.assertEqual(Histogram((0.5, 1.0)).cumulative(), [("0.5", 0), ("1", 0), ("+Inf", 0)])

    @given(VALUES)
    def test_any(self, values: list[tuple[float, int]]) -> None:
        """
        Each bucket has as many as there are values not above its bound.
        """
        bounds = (0.25, 1.0, 2.5, 10.0)
        histogram = Histogram(bounds)
        for value, count in values:
            histogram.observe(value, count)
        expected = [sum(count for value, count in values if value <= bound) for bound in bounds]
        total = sum(count for _, count in values)
        self.assertEqual([count for _, count in histogram.cumulative()], [*expected, total])
        self.assertAlmostEqual(histogram.sum, sum(value * count for value, count in values))
