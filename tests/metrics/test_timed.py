"""
Tests for L{binaryserver.metrics.timed} and L{binaryserver.metrics.lag}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from binaryserver.errors import AccountFull, StoreUnavailable
from binaryserver.interfaces import IDirectorySource, ISessionStore
from binaryserver.metrics.histogram import LAG_BOUNDS, Histogram
from binaryserver.metrics.lag import PERIOD, ReactorLag
from binaryserver.metrics.observed import DIRECTORY_CALLS, STORE_CALLS, Calls
from binaryserver.metrics.timed import timed
from binaryserver.model import BoxKey
from binaryserver.plugins import BackEndContext
from binaryserver.session.memorystore import MemorySessionStore

BOX = BoxKey("acme", "box-1")


class HandStore:
    """
    Answers when the test says so.
    """

    def __init__(self) -> None:
        self.answer: Deferred[Any] = Deferred()

    def marks(self, box: BoxKey) -> Deferred[Any]:
        """
        The one call.
        """
        return self.answer


class TimedTests(SynchronousTestCase):
    """
    A back end whose calls are timed.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.calls = Calls(STORE_CALLS)

    def hand(self) -> tuple[HandStore, Any]:
        """
        One that answers by hand, without and with what stands before it.
        """
        store = HandStore()
        return store, timed(store, self.calls, self.clock)

    def test_answered(self) -> None:
        """
        A call is counted with the time that it took once it is answered, and its answer passed on.
        """
        store, before = self.hand()
        asked = before.marks(BOX)
        self.clock.advance(0.3)
        self.assertEqual((self.calls.made["marks"], sum(self.calls.seconds.counts)), (0, 0))
        store.answer.callback("answer")
        self.assertEqual(self.successResultOf(asked), "answer")
        self.assertEqual((self.calls.made["marks"], self.calls.failures), (1, 0))
        self.assertAlmostEqual(self.calls.seconds.sum, 0.3)

    def test_failed(self) -> None:
        """
        So is one that fails, which is passed on, too.
        """
        store, before = self.hand()
        asked = before.marks(BOX)
        store.answer.errback(StoreUnavailable("away"))
        self.failureResultOf(asked, StoreUnavailable)
        self.assertEqual((self.calls.made["marks"], self.calls.failures), (1, 1))

    def test_full(self) -> None:
        """
        That an account is full is an answer.
        """
        store, before = self.hand()
        asked = before.marks(BOX)
        store.answer.errback(AccountFull("full"))
        self.failureResultOf(asked, AccountFull)
        self.assertEqual((self.calls.made["marks"], self.calls.failures), (1, 0))

    def test_provides(self) -> None:
        """
        It is a session store as the one behind it.
        """
        store = MemorySessionStore("memory:", BackEndContext(self.clock, "--test"))
        before = timed(store, self.calls, self.clock)
        verifyObject(ISessionStore, before)
        self.successResultOf(before.leaseWorker("a@1"))
        self.assertEqual(self.successResultOf(store.isDead("a@1")), False)
        self.assertEqual(self.calls.made["leaseWorker"], 1)

    def test_names(self) -> None:
        """
        Every call of the two interfaces is timed but those that begin and end it.
        """
        self.assertEqual(set(ISessionStore.names()) - set(STORE_CALLS), {"start", "stop", "peers"})
        others = {"start", "stop", "requiresLoopback", "defaultAccount"}
        self.assertEqual(set(IDirectorySource.names()) - set(DIRECTORY_CALLS), others)


class ReactorLagTests(SynchronousTestCase):
    """
    How late the reactor is.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.lag = Histogram(LAG_BOUNDS)
        self.watch = ReactorLag(self.clock, self.lag)
        self.watch.start()

    def test_punctual(self) -> None:
        """
        A reactor that is on time is 0 late.
        """
        self.clock.pump([PERIOD] * 4)
        self.assertEqual((self.lag.counts[0], sum(self.lag.counts), self.lag.sum), (4, 4, 0.0))

    def test_late(self) -> None:
        """
        One that was held up is as late as that, once.
        """
        self.clock.advance(PERIOD + 0.75)
        self.clock.advance(PERIOD)
        self.assertEqual(sum(self.lag.counts), 2)
        self.assertAlmostEqual(self.lag.sum, 0.75)

    def test_stop(self) -> None:
        """
        Nothing is left behind.
        """
        self.watch.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
