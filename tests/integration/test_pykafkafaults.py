"""
L{binaryserver.bus.pykafkabus} and a broker that is killed or frozen: a Kafka of its own, as others use the shared one.
"""

from __future__ import annotations

import atexit
import time
from typing import Any, ClassVar
from uuid import uuid4

from twisted.internet import reactor as globalReactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import Logger
from twisted.trial.unittest import TestCase

from binaryserver.bus.pykafkabus import PykafkaBus
from binaryserver.errors import BusUnavailable, FlushTimeout
from binaryserver.model import Record
from binaryserver.plugins import BackEndContext
from tests.services import KafkaProcess

reactor: Any = globalReactor
log = Logger()

PARTITIONS = 4

SOON_BACK = "broker.session.timeout.ms=1500\nbroker.heartbeat.interval.ms=300\n"
"""A broker that died is taken for dead after 1.5 s, not 9, and so may come back sooner."""


class Published:
    """
    Flushes and what became of them.
    """

    def __init__(self, bus: PykafkaBus, topic: str) -> None:
        self.bus = bus
        self.topic = topic
        self.acked: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
        self.failed: list[Exception] = []
        self._flushes: list[Deferred[None]] = []
        self._count = 0

    def publish(self, partition: int) -> None:
        """
        A flush of three records.
        """
        values = [b"%d.%d" % (self._count, part) for part in range(3)]
        self._count += 1
        done = self.bus.publish(self.topic, partition, [Record(b"acme/box", value) for value in values])
        done.addCallbacks(
            lambda _: self.acked[partition].extend(values), lambda failure: self.failed.append(failure.value)
        )
        self._flushes.append(done)

    async def steadily(self, seconds: float) -> None:
        """
        Publish to all partitions again and again.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for partition in range(PARTITIONS):
                self.publish(partition)
            await deferLater(reactor, 0.005, lambda: None)

    async def ended(self) -> None:
        """
        Wait until every flush has fired.
        """
        await DeferredList(self._flushes)


class FaultTests(TestCase):
    """
    One broker, killed, frozen and started again; the bus is never started again.
    """

    timeout = 90
    kafka: ClassVar[KafkaProcess | None] = None

    def setUp(self) -> None:
        """
        One Kafka for all, as it takes seconds to start.
        """
        if FaultTests.kafka is None:
            kafka = KafkaProcess()
            atexit.register(kafka.close)
            with open(kafka.folder / "server.properties", "a") as settings:
                settings.write(SOON_BACK)
            kafka.start()
            FaultTests.kafka = kafka
        self.broker = FaultTests.kafka

    def makeBus(self, topics: tuple[str, ...], **context: Any) -> PykafkaBus:
        """
        A bus that sends anew what was not answered within two seconds.
        """
        spec = f"pykafka://{self.broker.bootstrap}?request.timeout.ms=2000"
        bus = PykafkaBus(spec, BackEndContext(reactor, "--bus", topics=topics, flushInterval=0.01, **context))
        self.addCleanup(bus.stop)
        return bus

    async def started(self, **context: Any) -> Published:
        """
        A started bus with a topic of its own.
        """
        topic = f"faults.{uuid4().hex[:12]}"
        bus = self.makeBus((topic,), startTimeout=40.0, **context)
        await bus.createTopics([topic], PARTITIONS, 1)
        await bus.start()
        return Published(bus, topic)

    async def stored(self, published: Published) -> list[list[bytes]]:
        """
        What stands in each partition.
        """
        found: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
        reader = await published.bus.openReader([published.topic], True)
        while not reader.caughtUp:
            for record in await reader.read(10_000):
                found[record.partition].append(record.value)
        return found

    async def test_killed(self) -> None:
        """
        C{kill -9} in mid-flight and a restart: every flush ends, what was acked is there in order, and the bus goes on
        by itself. Repeats are allowed, and counted.
        """
        published = await self.started()
        await published.steadily(1.0)
        self.broker.kill9()
        restarted = deferToThread(self.broker.start)
        await published.steadily(1.0)
        await restarted
        await published.ended()
        self.assertEqual(published.failed, [])
        repeats = 0
        for stored, acked in zip(await self.stored(published), published.acked, strict=True):
            self.assertGreater(len(acked), 100)
            once = list(dict.fromkeys(stored))
            repeats += len(stored) - len(once)
            self.assertEqual(once, acked)
        log.info("killed: {repeats} repeats", repeats=repeats)

    async def test_frozen(self) -> None:
        """
        A broker that is frozen for longer than a request may take, so that everything is sent to it again and again:
        once it thaws each record is there once, and in order.
        """
        published = await self.started()
        await published.steadily(0.5)
        self.broker.freeze()
        try:
            await published.steadily(5.0)
        finally:
            self.broker.thaw()
        await published.ended()
        self.assertEqual(published.failed, [])
        self.assertEqual(await self.stored(published), published.acked)

    async def test_frozenTooLong(self) -> None:
        """
        A broker that is frozen for longer than the batch deadline costs its flushes, in time; a start fails in time as
        well; after the thaw the next flush commits.
        """
        published = await self.started(batchDeadline=3.0)
        published.publish(0)
        await published.ended()
        self.broker.freeze()
        try:
            before = time.monotonic()
            late = Published(published.bus, published.topic)
            for partition in range(PARTITIONS):
                late.publish(partition)
            starting = self.makeBus((published.topic,), startTimeout=2.0).start()
            await late.ended()
            self.assertTrue(2.9 <= time.monotonic() - before <= 5.0)
            self.assertEqual([type(error) for error in late.failed], [FlushTimeout] * PARTITIONS)
            self.assertEqual(published.bus.pendingBytes, 0)
            await self.assertFailure(starting, BusUnavailable)
        finally:
            self.broker.thaw()
        published.publish(1)
        await published.ended()
        self.assertEqual(published.failed, [])
