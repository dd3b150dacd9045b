"""
Tests for L{binaryserver.session.buckets} and L{binaryserver.session.sqlitebuckets}.
"""

from __future__ import annotations

import sqlite3
import time

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.model import DRAW_BURST, Draw
from binaryserver.session import sqlitebuckets
from binaryserver.session.buckets import Bucket, MemoryBuckets, drawFrom

_amounts = st.floats(1e-3, 1e6)


class DrawFromTests(SynchronousTestCase):
    """
    One bucket.
    """

    def test_full(self) -> None:
        """
        One that was never drawn from holds the burst.
        """
        granted, bucket = drawFrom(None, Draw("acme", "messages", 15.0, 10.0), 100.0)
        self.assertEqual((granted, bucket), (15.0, Bucket(5.0, 100.0, 101.5)))

    def test_refill(self) -> None:
        """
        By the rate of the draw, and no more than the burst of it.
        """
        bucket = Bucket(5.0, 100.0, 101.5)
        self.assertEqual(
            drawFrom(bucket, Draw("acme", "messages", 100.0, 10.0), 100.25), (7.5, Bucket(0, 100.25, 102.25))
        )
        self.assertEqual(drawFrom(bucket, Draw("acme", "messages", 100.0, 10.0), 999.0)[0], 20.0)
        self.assertEqual(drawFrom(bucket, Draw("acme", "messages", 100.0, 1.0), 100.0)[0], 2.0)
        self.assertEqual(drawFrom(bucket, Draw("acme", "messages", 100.0, 40.0), 100.25)[0], 15.0)

    def test_clockPutBack(self) -> None:
        """
        Nothing is lost, and it fills from then on.
        """
        granted, bucket = drawFrom(Bucket(5.0, 100.0, 101.5), Draw("acme", "messages", 1.0, 10.0), 40.0)
        self.assertEqual((granted, bucket), (1.0, Bucket(4.0, 40.0, 41.6)))
        self.assertEqual(drawFrom(bucket, Draw("acme", "messages", 100.0, 10.0), 41.0)[0], 14.0)

    @given(_amounts, st.lists(st.tuples(st.floats(0, 10), _amounts), min_size=1))
    def test_neverMore(self, rate: float, draws: list[tuple[float, float]]) -> None:
        """
        Whoever draws whenever: over any time no more than the burst and what came meanwhile; and of no draw more is
        refused than must be.
        """
        bucket, now, total = None, 0.0, 0.0
        for wait, wanted in draws:
            now += wait
            granted, bucket = drawFrom(bucket, Draw("acme", "messages", wanted, rate), now)
            total += granted
            self.assertTrue(0 <= granted <= min(wanted, rate * DRAW_BURST))
            self.assertTrue(granted == wanted or bucket.tokens == 0)
            self.assertTrue(bucket.tokens >= 0)
            self.assertLessEqual(total, rate * (DRAW_BURST + now) * (1 + 1e-9))


class KeptBucketsTests(SynchronousTestCase):
    """
    What is kept of buckets.
    """

    def test_memory(self) -> None:
        """
        Those that are full again cost nothing.
        """
        clock = Clock()
        buckets = MemoryBuckets(clock.seconds)
        for n in range(100):
            self.assertEqual(buckets.draw([Draw(f"account-{n}", "messages", 15.0, 10.0)]), [15.0])
        clock.advance(1.0)
        self.assertEqual(buckets.draw([Draw("account-1", "messages", 100.0, 10.0)]), [15.0])
        self.assertEqual(len(buckets), 100)
        clock.advance(1.0)
        self.assertEqual(buckets.draw([Draw("account-2", "messages", 100.0, 10.0)]), [20.0])
        self.assertEqual(len(buckets), 2)
        clock.advance(5.0)
        buckets.draw([])
        self.assertEqual(len(buckets), 0)

    def test_sqlite(self) -> None:
        """
        In the file as well; each is drawn from as it stands there.
        """
        connection = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(connection.close)
        connection.executescript(sqlitebuckets.SCHEMA)
        now = 1e9
        self.patch(time, "time", lambda: now)
        names = [f"account-{n}" for n in range(100)]
        wanted = [15.0] * 100
        self.assertEqual(sqlitebuckets.draw(connection, [Draw(name, "a", 15.0, 10.0) for name in names]), wanted)
        now += 1.0
        self.assertEqual(sqlitebuckets.draw(connection, [Draw(names[1], "a", 100.0, 10.0)]), [15.0])
        now += 1.0
        self.assertEqual(sqlitebuckets.draw(connection, [Draw(names[2], "a", 100.0, 10.0)]), [20.0])
        rows = connection.execute("SELECT account FROM buckets ORDER BY account").fetchall()
        self.assertEqual(rows, [(names[1],), (names[2],)])
