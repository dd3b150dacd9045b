"""
Tests for L{binaryserver.bus.clouds}.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from functools import partial

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from binaryserver.bus.clouds import CloudsBus
from binaryserver.bus.memorybus import MemoryBus
from binaryserver.bus.topics import Topics
from binaryserver.errors import BusError, ConfigError
from binaryserver.interfaces import IBus
from binaryserver.model import Clouds, Record
from binaryserver.plugins import BackEndContext
from binaryserver.session.announcer import Announcer
from tests.bus.contract import BusContractMixin, reactor, record
from tests.bus.memoryqueue import MemoryQueue

TOPICS = Topics.named("t.")
CONNECTED = (TOPICS.tracks, TOPICS.messages, TOPICS.presences)
ACCOUNTS = {"next": Clouds.cloudnext, "connect": Clouds.cloudconnect, "both": Clouds.both}


def records(account: str, *numbers: int) -> list[Record]:
    """
    Of a box of an account.
    """
    return [record(number, f"{account}/box-1".encode()) for number in numbers]


class BreakableBus(MemoryBus):
    """
    One whose flushes may fail.
    """

    isBroken = False

    def publish(self, topic: str, partition: int, records: Sequence[Record]) -> Deferred[None]:
        """
        See L{IBus.publish}.
        """
        if self.isBroken:
            return fail(BusError("the bus is broken"))
        return super().publish(topic, partition, records)


class CloudsBusTests(SynchronousTestCase):
    """
    Each account's events go where they belong.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.main = BreakableBus("memory:", BackEndContext(self.clock, "--bus", topics=TOPICS.all))
        self.queue = MemoryQueue(self.clock, CONNECTED)
        self.bus = CloudsBus(self.main, self.queue, ACCOUNTS.__getitem__)
        self.successResultOf(self.bus.start())

    def inMain(self, topic: str = TOPICS.tracks) -> list[bytes]:
        """
        The values that stand in a topic.
        """
        return [one.value for one in self.main._topics[topic]]

    def inQueue(self, topic: str = TOPICS.tracks) -> list[tuple[bytes, bool]]:
        """
        The values that stand in a list, and whether they are shared.
        """
        return [(one.value, shared) for one, shared in self.queue.lists[topic]]

    def turn(self) -> None:
        """
        Let everything happen that can.
        """
        for _ in range(5):
            self.clock.advance(0)

    def test_byAccount(self) -> None:
        """
        One flush of boxes of three accounts: each event goes to its clouds; those in both are marked in the queue, and
        nowhere else.
        """
        mixed = [*records("next", 1), *records("both", 2), *records("connect", 3), *records("both", 4)]
        done = self.bus.publish(TOPICS.tracks, 0, mixed)
        self.turn()
        self.assertIsNone(self.successResultOf(done))
        self.assertEqual(self.inMain(), [b"value-1", b"value-2", b"value-4"])
        self.assertEqual(self.inQueue(), [(b"value-3", False), (b"value-2", True), (b"value-4", True)])
        self.assertEqual([tuple(one.headers) for one in self.main._topics[TOPICS.tracks]][1], mixed[1].headers)

    def test_one(self) -> None:
        """
        A flush of one cloud's accounts alone does not touch the other.
        """
        for account, main, queue in (("next", [b"value-1"], []), ("connect", [], [(b"value-1", False)])):
            self.setUp()
            done = self.bus.publish(TOPICS.messages, 0, records(account, 1))
            self.turn()
            self.assertIsNone(self.successResultOf(done))
            self.assertEqual((self.inMain(TOPICS.messages), self.inQueue(TOPICS.messages)), (main, queue))

    def test_whatCloudConnectHasNot(self) -> None:
        """
        Rejects, statuses and the downlink are CloudNext's, whoever's they are.
        """
        for topic in (TOPICS.rejects, TOPICS.statuses, TOPICS.downlink):
            done = self.bus.publish(topic, 0, records("connect", 1))
            self.turn()
            self.assertIsNone(self.successResultOf(done))
            self.assertEqual(self.inMain(topic), [b"value-1"])

    def test_waitsForBoth(self) -> None:
        """
        A flush is durable once both have it; what waits counts in both.
        """
        self.queue.isAway = True
        done = self.bus.publish(TOPICS.tracks, 0, records("both", 1))
        one = self.queue.pendingBytes
        self.assertGreater(one, 0)
        self.assertEqual(self.bus.pendingBytes, 2 * one)
        self.turn()
        self.assertNoResult(done)
        self.assertEqual(self.bus.pendingBytes, one)
        self.queue.settle()
        self.assertIsNone(self.successResultOf(done))
        self.assertEqual(self.bus.pendingBytes, 0)

    def test_failures(self) -> None:
        """
        One cloud's failure fails the flush, once the other has answered, which then has it and has it again with what
        is sent again.
        """
        self.main.isBroken = True
        self.queue.isAway = True
        done = self.bus.publish(TOPICS.tracks, 0, records("both", 1))
        self.turn()
        self.assertNoResult(done)
        self.queue.settle()
        self.failureResultOf(done, BusError)
        self.main.isBroken = self.queue.isAway = False
        done = self.bus.publish(TOPICS.tracks, 0, records("both", 1))
        self.turn()
        self.assertIsNone(self.successResultOf(done))
        self.assertEqual(self.inMain(), [b"value-1"])
        self.assertEqual(self.inQueue(), [(b"value-1", True)] * 2)
        self.queue.isBroken = True
        done = self.bus.publish(TOPICS.tracks, 0, [*records("next", 2), *records("connect", 3)])
        self.turn()
        self.failureResultOf(done, BusError)
        self.assertEqual(self.inMain(), [b"value-1", b"value-2"])

    def test_lanes(self) -> None:
        """
        Presences of CloudNext's accounts do not wait for the queue, though they are told beside those of others that
        do; an account that moves is in another lane from then on.
        """
        places = dict(ACCOUNTS)
        bus = CloudsBus(self.main, self.queue, places.__getitem__)
        announcer = Announcer(bus, TOPICS.presences, self.clock)
        self.queue.isAway = True
        told: list[str] = []
        for turn in range(2):
            for account in ACCOUNTS:
                (one,) = records(account, turn)
                announcer.announce(one, partial(told.append, f"{account} {turn}"))
            self.turn()
        self.assertEqual(told, ["next 0", "next 1"])
        places["connect"] = Clouds.cloudnext
        announcer.announce(records("connect", 2)[0], partial(told.append, "connect 2"))
        self.turn()
        self.assertEqual(told[2:], ["connect 2"])
        self.queue.isAway = False
        while self.queue.pendingBytes:
            self.queue.settle()
            self.turn()
        self.assertEqual(sorted(told[3:]), ["both 0", "both 1", "connect 0", "connect 1"])

    def test_start(self) -> None:
        """
        A cloud that cannot start is told; what has started can be stopped.
        """
        main = MemoryBus("memory:", BackEndContext(self.clock, "--bus", topics=TOPICS.all))
        queue = MemoryQueue(self.clock, CONNECTED)
        queue.cannotStart = True
        bus = CloudsBus(main, queue, ACCOUNTS.__getitem__)
        self.failureResultOf(bus.start(), ConfigError)
        self.assertIsNone(self.successResultOf(bus.stop()))
        self.failureResultOf(bus.publish(TOPICS.rejects, 0, records("next", 1)), BusError)

    def test_stop(self) -> None:
        """
        Every flush has fired when a stop does.
        """
        self.queue.isAway = True
        fired: list[object] = []
        self.bus.publish(TOPICS.tracks, 0, records("both", 1)).addBoth(fired.append)
        self.bus.publish(TOPICS.tracks, 0, records("next", 1)).addBoth(fired.append)
        self.assertIsNone(self.successResultOf(self.bus.stop()))
        self.assertEqual([isinstance(one, Failure) for one in fired], [True, False])

    def test_maxRecord(self) -> None:
        """
        What one cloud does not take is too large.
        """
        self.assertEqual(self.bus.maxRecord, self.main.maxRecord)

    def test_strangeKeys(self) -> None:
        """
        A key that is no UTF-8 or names no account is asked for like any other.
        """
        asked: list[str] = []

        def clouds(account: str) -> Clouds:
            asked.append(account)
            return Clouds.cloudnext

        bus = CloudsBus(self.main, self.queue, clouds)
        for key in (b"\xff/x", b"", b"alone"):
            self.successResultOf(self._published(bus.publish(TOPICS.tracks, 0, [Record(key, b"v", [])])))
        self.assertEqual(asked, ["\ufffd", "", "alone"])

    def _published(self, done: Deferred[None]) -> Deferred[None]:
        self.turn()
        return done


class CloudsContractTests(BusContractMixin, TestCase):
    """
    The contract of a bus, with every event in both clouds.
    """

    makesTopicsAtStart = True
    knowsLag = True

    def setUp(self) -> None:
        """
        One bus a test, since its log is its own.
        """
        self.bus: CloudsBus | None = None

    def makeBus(self, topics: Sequence[str], stopTimeout: float = 20.0) -> Awaitable[IBus]:
        """
        See L{BusContractMixin.makeBus}.
        """
        if self.bus is None or topics:
            main = MemoryBus("memory:", BackEndContext(reactor, "--bus", topics=tuple(topics)))
            self.bus = CloudsBus(main, MemoryQueue(reactor, topics), lambda account: Clouds.both)
        return succeed(self.bus)
