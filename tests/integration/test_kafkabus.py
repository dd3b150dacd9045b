"""
L{binaryserver.bus.kafkabus} on a real Kafka: the contract, and a broker that dies and freezes.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Sequence
from typing import Any

from confluent_kafka import Producer
from twisted.internet import reactor as globalReactor
from twisted.internet.defer import DeferredList, succeed
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from binaryserver.bus.kafkabus import KafkaBus
from binaryserver.bus.partitioner import partition
from binaryserver.errors import BinaryServerError, BusError, ConfigError
from binaryserver.interfaces import IBus
from binaryserver.model import Record
from binaryserver.plugins import BackEndContext
from tests.bus.contract import DurableBusContractMixin
from tests.services import KafkaProcess, consumeAll, freePort, makeTopics, requireKafka, uniquePrefix

reactor: Any = globalReactor

PARTITIONS = 4


def makeBus(address: str, *topics: str, query: str = "", **context: Any) -> KafkaBus:
    """
    A bus, not started.
    """
    return KafkaBus(f"kafka://{address}{query}", BackEndContext(reactor, "--bus", topics=topics, **context))


class KafkaBusContractTests(DurableBusContractMixin, TestCase):
    """
    The contract on Kafka 4.4.
    """

    knowsLag = True

    def makeBus(self, topics: Sequence[str], stopTimeout: float = 20.0) -> Awaitable[IBus]:
        """
        See L{DurableBusContractMixin.makeBus}.
        """
        return succeed(makeBus(requireKafka(), *topics, flushInterval=0.005, stopTimeout=stopTimeout, startTimeout=10))

    def settle(self) -> Awaitable[None]:
        """
        A broker tells of new topics a moment after it made them.
        """
        return deferLater(reactor, 0.3, lambda: None)


class PartitionerTests(TestCase):
    """
    L{partition} against librdkafka's own.
    """

    async def test_equalsLibrdkafkas(self) -> None:
        """
        Records whose partition librdkafka's murmur2 chose stand where ours says.
        """
        address = requireKafka()
        topic = uniquePrefix() + "keys"
        makeTopics(address, [topic], 7)
        keys = {random.Random(7).randbytes(length) for length in range(1, 40)} | {b"acme/350000000000001"}

        def produce() -> None:
            producer = Producer({"bootstrap.servers": address, "partitioner": "murmur2"})
            for key in keys:
                producer.produce(topic, b"", key)
            producer.flush(10)

        await deferToThread(produce)
        found = await deferToThread(consumeAll, address, [topic])
        self.assertEqual({key: place for _, place, _, key, _, _ in found}, {key: partition(key, 7) for key in keys})


class StartTests(TestCase):
    """
    What ends a start, and what is refused before it.
    """

    async def test_nobodyThere(self) -> None:
        """
        An address where nobody answers is given up on in time, with a sentence that names the option and the address.
        """
        bus = makeBus(f"127.0.0.1:{freePort()}", "t", startTimeout=1.0)
        try:
            await bus.start()
        except BinaryServerError as error:
            self.assertRegex(str(error), "--bus: nobody answers at 127.0.0.1:")
        else:
            self.fail("it started")
        await bus.stop()

    def test_specifications(self) -> None:
        """
        Options that would break a promise, or that are none, are refused with a sentence.
        """
        for query in (
            "?acks=1",
            "?enable.idempotence=false",
            "?linger.ms=1",
            "?message.timeout.ms=5",
            "?x",
            "?message.max.bytes=a",
        ):
            error = self.assertRaises(ConfigError, makeBus, "127.0.0.1:1", query=query)
            self.assertTrue(str(error).startswith("--bus: "), str(error))
        for address in ("", "host", "host:0", "host:99999", "a b:1"):
            self.assertRaises(ConfigError, makeBus, address)

    async def test_unknownOption(self) -> None:
        """
        What librdkafka does not know ends the start with its name.
        """
        bus = makeBus(requireKafka(), query="?no.such.option=1")
        try:
            await bus.start()
        except ConfigError as error:
            self.assertIn("no.such.option", str(error))
        else:
            self.fail("it started")
        await bus.stop()

    async def test_headersArrive(self) -> None:
        """
        Another client sees key, value and headers.
        """
        address = requireKafka()
        topic = uniquePrefix() + "headers"
        makeTopics(address, [topic])
        bus = makeBus(address, topic)
        await bus.start()
        self.addCleanup(bus.stop)
        await bus.publish(topic, 2, [Record(b"k", b"v", [("ce_id", b"1"), ("content-type", b"x")])])
        (found,) = await deferToThread(consumeAll, address, [topic])
        self.assertEqual(found, (topic, 2, 0, b"k", b"v", {"ce_id": b"1", "content-type": b"x"}))


class FaultTests(TestCase):
    """
    A broker of the test's own is killed and frozen; the bus is never started again.
    """

    timeout = 120

    async def setUp(self) -> None:  # type: ignore[override]
        """
        A broker, a topic, a bus.
        """
        self.broker = KafkaProcess()
        self.addCleanup(self.broker.close)
        await deferToThread(self.broker.start)
        self.topic = uniquePrefix() + "faults"
        await deferToThread(makeTopics, self.broker.bootstrap, [self.topic], PARTITIONS)
        self.bus = makeBus(self.broker.bootstrap, self.topic, flushInterval=0.005, stopTimeout=5.0)
        await self.bus.start()
        self.acked: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
        self.failed: list[object] = []
        self.flushes: list[Any] = []

    async def tearDown(self) -> None:  # type: ignore[override]
        """
        The bus ends in time whatever became of the broker.
        """
        await self.bus.stop()

    async def steadily(self, seconds: float) -> None:
        """
        Publish to all partitions again and again.
        """
        until = reactor.seconds() + seconds
        while reactor.seconds() < until:
            for place in range(PARTITIONS):
                values = [b"%d.%d" % (len(self.flushes), part) for part in range(3)]
                done = self.bus.publish(self.topic, place, [Record(b"k", value) for value in values])
                done.addCallbacks(
                    lambda _, place, values: self.acked[place].extend(values),
                    lambda failure: self.failed.append(failure.value),
                    callbackArgs=(place, values),
                )
                self.flushes.append(done)
            await deferLater(reactor, 0.01, lambda: None)

    async def stored(self) -> list[list[bytes]]:
        """
        What is in Kafka, by partition.
        """
        found: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
        for _, place, _, _, value, _ in await deferToThread(consumeAll, self.broker.bootstrap, [self.topic]):
            found[place].append(value)
        return found

    async def test_killed(self) -> None:
        """
        C{kill -9} with flushes in flight: nothing is acked while it is away; once it is back everything is there, once,
        in order.
        """
        await self.steadily(0.5)
        self.broker.kill9()
        await deferLater(reactor, 0.2, lambda: None)
        before = sum(map(len, self.acked))
        await self.steadily(1.0)
        self.assertEqual(sum(map(len, self.acked)), before)
        self.assertGreater(self.bus.pendingBytes, 0)
        await deferToThread(self.broker.start)
        await self.steadily(0.5)
        await DeferredList(self.flushes).addTimeout(60, reactor)
        self.assertEqual(self.failed, [])
        self.assertEqual(self.bus.pendingBytes, 0)
        self.assertEqual(await self.stored(), self.acked)

    async def test_frozen(self) -> None:
        """
        A broker that answers nothing for some seconds: nothing is acked meanwhile, and nothing is there twice after.
        """
        await self.steadily(0.5)
        self.broker.freeze()
        try:
            await deferLater(reactor, 0.1, lambda: None)
            before = sum(map(len, self.acked))
            await self.steadily(3.0)
            self.assertEqual(sum(map(len, self.acked)), before)
        finally:
            self.broker.thaw()
        await DeferredList(self.flushes).addTimeout(60, reactor)
        self.assertEqual(self.failed, [])
        self.assertEqual(await self.stored(), self.acked)

    async def test_stopWithoutBroker(self) -> None:
        """
        A stop gives up after its time, and tells every flush so.
        """
        self.broker.kill9()
        done = self.bus.publish(self.topic, 0, [Record(b"k", b"v")])
        failures: list[Any] = []
        done.addErrback(failures.append)
        began = reactor.seconds()
        await self.bus.stop()
        self.assertLess(reactor.seconds() - began, 15)
        self.assertTrue(failures[0].check(BusError))
