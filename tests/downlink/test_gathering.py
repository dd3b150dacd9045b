"""
Calls about many things at once.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.downlink.gathering import Gathering
from binaryserver.errors import StoreUnavailable


class GatheringTests(SynchronousTestCase):
    """
    With a call that the test answers.
    """

    def setUp(self) -> None:
        """
        1 s of distance, and three items in one call.
        """
        self.clock = Clock()
        self.clock.advance(100)
        self.calls: list[tuple[list[int], Deferred[str]]] = []
        self.answers: list[str] = []
        self.gathering: Gathering[int, str] = Gathering(self.clock, "count", 1.0, 3, self._ask, self.answers.append)

    def _ask(self, items: list[int]) -> Deferred[str]:
        answer: Deferred[str] = Deferred()
        self.calls.append((items, answer))
        return answer

    def _add(self, *items: int) -> None:
        for item in items:
            self.gathering.add(item)

    def _asked(self) -> list[list[int]]:
        return [items for items, _ in self.calls]

    def test_alone(self) -> None:
        """
        What comes alone goes at once.
        """
        self._add(1)
        self.assertFalse(self.gathering.isIdle)
        self.clock.advance(0)
        self.assertEqual(self._asked(), [[1]])
        self.assertNotIn(1, self.gathering)
        self.calls[0][1].callback("one")
        self.assertEqual((self.answers, self.gathering.isIdle), (["one"], True))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_gathers(self) -> None:
        """
        What comes while a call is under way waits for its answer and for the distance, and goes together, each once, as
        many as one call takes.
        """
        self._add(1)
        self.clock.advance(0)
        self._add(2, 3, 2, 4, 5)
        self.clock.advance(5)
        self.assertEqual(self._asked(), [[1]])
        self.calls[0][1].callback("one")
        self.clock.advance(0)
        self.assertEqual(self._asked(), [[1], [2, 3, 4]])
        self.assertIn(5, self.gathering)
        self.calls[1][1].callback("more")
        self.clock.advance(0.9)
        self.assertEqual(len(self.calls), 2)
        self.clock.advance(0.2)
        self.assertEqual(self._asked()[2:], [[5]])

    def test_fails(self) -> None:
        """
        What a call failed at is asked again after a second, before anything later.
        """
        self._add(1, 2)
        self.clock.advance(0)
        self._add(2, 3)
        self.calls[0][1].errback(StoreUnavailable("away"))
        self.assertFalse(self.gathering.isIdle)
        self.clock.advance(0.9)
        self.assertEqual(len(self.calls), 1)
        self.clock.pump([0.1, 0])
        self.assertEqual(self._asked()[1:], [[1, 2, 3]])

    def test_answerAtFault(self) -> None:
        """
        An answer that cannot be taken is logged, and is not asked for again; the next call goes on.
        """
        gathering: Gathering[int, str] = Gathering(self.clock, "count", 1.0, 3, self._ask, self._refuse)
        gathering.add(1)
        self.clock.advance(0)
        gathering.add(2)
        self.calls[0][1].callback("one")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.clock.advance(1)
        self.assertEqual(self._asked(), [[1], [2]])

    def _refuse(self, _: str) -> None:
        raise ZeroDivisionError
