"""
Tests for L{binaryserver.bus.observed}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import alsoProvides
from zope.interface.verify import verifyObject

from binaryserver.bus.observed import PATIENCE, ObservedBus
from binaryserver.errors import BusError, RecordTooLarge
from binaryserver.interfaces import IBus, ILanes
from binaryserver.model import Record
from tests.harness import HandBus

RECORD = Record(b"acme/box-1", b"value", ())


class ObservedBusTests(SynchronousTestCase):
    """
    A bus whose flushes are let through by hand.
    """

    def setUp(self) -> None:
        self.clock: Any = Clock()
        self.hand = HandBus()
        self.hand.isOpen = False
        self.bus = ObservedBus(self.hand, self.clock)

    def publish(self) -> Any:
        """
        One flush.
        """
        return self.bus.publish("topic", 0, [RECORD])

    def test_isTheOther(self) -> None:
        """
        It is a bus, and what it is asked and told is the other's.
        """
        self.assertTrue(verifyObject(IBus, self.bus))
        done = self.publish()
        self.assertEqual(self.bus.pendingBytes, 5)
        self.assertEqual(self.bus.partitionFor("t", b"k"), self.hand.partitionFor("t", b"k"))
        self.hand.commit()
        self.assertIsNone(self.successResultOf(done))
        refused = self.publish()
        self.hand.fail()
        self.failureResultOf(refused, BusError)

    def test_lanes(self) -> None:
        """
        It has lanes if the other has.
        """
        self.assertIsNone(ILanes(self.bus, None))
        self.assertIsNone(ILanes(ObservedBus(self.bus, self.clock), None))
        alsoProvides(self.hand, ILanes)
        self.assertIs(ILanes(ObservedBus(self.hand, self.clock)), self.hand)

    def test_waiting(self) -> None:
        """
        Well while flushes are taken, however many wait; unwell once none was for L{PATIENCE}; well again with the next.
        """
        for _ in range(3):
            self.publish()
        for _ in range(2):
            self.clock.advance(PATIENCE - 1)
            self.hand.commit()
            self.assertTrue(self.bus.check().ok)
        self.clock.advance(PATIENCE + 1)
        self.assertEqual(self.bus.check(), (False, "it has taken nothing for 11 s, and 1 flushes wait"))
        self.hand.commit()
        self.assertTrue(self.bus.check().ok)

    def test_idle(self) -> None:
        """
        One that is handed nothing is well, and the wait of what it is handed next begins then.
        """
        self.clock.advance(1000)
        self.assertTrue(self.bus.check().ok)
        self.publish()
        self.clock.advance(PATIENCE)
        self.assertTrue(self.bus.check().ok)
        self.clock.advance(1)
        self.assertFalse(self.bus.check().ok)

    def test_failing(self) -> None:
        """
        What it does not take makes it unwell, until it takes the next or a while has passed.
        """

        def take() -> None:
            self.publish()
            self.hand.commit()

        for recover in (take, lambda: self.clock.advance(PATIENCE + 1)):
            self.publish().addErrback(lambda failure: None)
            self.hand.fail()
            self.clock.advance(2)
            self.assertEqual(self.bus.check(), (False, "it did not take what it was last handed, 2 s ago"))
            recover()
            self.assertTrue(self.bus.check().ok)

    def test_tooLarge(self) -> None:
        """
        A record that is too large says nothing of the bus.
        """
        self.hand.publish = lambda *_: fail(RecordTooLarge("it is"))  # type: ignore[method-assign]
        bus = ObservedBus(self.hand, self.clock)
        self.failureResultOf(bus.publish("topic", 0, [RECORD]), RecordTooLarge)
        self.assertTrue(bus.check().ok)
        self.clock.advance(2 * PATIENCE)
        self.assertTrue(bus.check().ok)
