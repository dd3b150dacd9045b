"""
Tests for L{binaryserver.session.retention}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.errors import StoreUnavailable
from binaryserver.session.retention import Retention

NOW_MS = 1_790_000_000_000


class RetentionTests(SynchronousTestCase):
    """
    When what is removed.
    """

    def setUp(self) -> None:
        """
        A store that answers as the test says.
        """
        self.clock = Clock()
        self.answers: list[Deferred[int]] = []
        self.asked: list[tuple[int, int]] = []

    def purge(self, beforeMs: int, limit: int) -> Deferred[int]:
        """
        See L{binaryserver.interfaces.ISessionStore.purge}.
        """
        self.asked.append((beforeMs, limit))
        return self.answers.pop(0) if self.answers else succeed(0)

    def make(self, keep: float = 1000.0) -> Retention:
        """
        One that has begun.
        """
        store: Any = self
        retention = Retention(store, self.clock, lambda: NOW_MS, keep)
        retention.start()
        return retention

    def test_looks(self) -> None:
        """
        It looks within the hour, goes on at once while there is more, and looks again later.
        """
        retention = self.make()
        self.answers = [succeed(500), succeed(20)]
        while not self.asked:
            self.clock.advance(60)
        self.assertLessEqual(self.clock.seconds(), 3660)
        self.clock.advance(1)
        self.assertEqual(self.asked, [(NOW_MS - 1_000_000, 500)] * 2)
        self.assertEqual(retention.purged, 520)
        self.clock.advance(1799)
        self.assertEqual(len(self.asked), 2)
        self.clock.advance(3601)
        self.assertEqual(len(self.asked), 3)

    def test_away(self) -> None:
        """
        A store that is away is asked later.
        """
        self.make()
        self.answers = [fail(StoreUnavailable("away"))]
        self.clock.pump([60.0] * 122)
        self.assertGreaterEqual(len(self.asked), 2)

    def test_stop(self) -> None:
        """
        It ends while it waits, and while it looks.
        """
        self.make().stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        retention = self.make()
        answer: Deferred[int] = Deferred()
        self.answers = [answer]
        self.clock.pump([60.0] * 60)
        retention.stop()
        answer.callback(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_forEver(self) -> None:
        """
        Without a time nothing is removed.
        """
        self.make(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
