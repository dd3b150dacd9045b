"""
L{binaryserver.bus.pykafkabus} on real Kafka, 3.9 and 4: the contract, another client, and a broker that dies.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from confluent_kafka import Consumer, Producer, TopicPartition
from twisted.internet import reactor as globalReactor
from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from binaryserver.bus.pykafka_records import BadKafkaBytes
from binaryserver.bus.pykafkabus import PykafkaBus
from binaryserver.errors import BusError
from binaryserver.interfaces import IBus
from binaryserver.model import Record, StoredRecord
from binaryserver.plugins import BackEndContext
from tests.bus.contract import DurableBusContractMixin
from tests.services import requireKafka

reactor: Any = globalReactor


def makeBus(address: str, topics: Sequence[str] = (), query: str = "", **context: Any) -> PykafkaBus:
    """
    A bus, not started.
    """
    return PykafkaBus(f"pykafka://{address}{query}", BackEndContext(reactor, "--bus", topics=tuple(topics), **context))


class Kafka44ContractTests(DurableBusContractMixin, TestCase):
    """
    The contract on Kafka 4.4.
    """

    async def makeBus(self, topics: Sequence[str], stopTimeout: float = 20.0) -> IBus:
        return makeBus(requireKafka("kafka44"), topics, stopTimeout=stopTimeout)


class Kafka39ContractTests(DurableBusContractMixin, TestCase):
    """
    The contract on Kafka 3.9.
    """

    async def makeBus(self, topics: Sequence[str], stopTimeout: float = 20.0) -> IBus:
        return makeBus(requireKafka("kafka39"), topics, stopTimeout=stopTimeout)


async def readAll(bus: PykafkaBus, topic: str) -> list[StoredRecord]:
    """
    Everything in a topic.
    """
    reader = await bus.openReader([topic], True)
    found: list[StoredRecord] = []
    while not reader.caughtUp:
        found += await reader.read(10_000)
    await reader.close()
    return found


class OtherClientMixin(TestCase):
    """
    What we write, librdkafka reads, and the other way round.
    """

    timeout = 60
    kafka = "kafka44"

    def setUp(self) -> None:
        """
        Needs the shared Kafka.
        """
        self.address = requireKafka(self.kafka)

    async def started(self) -> tuple[PykafkaBus, str]:
        """
        A bus and the topic it has.
        """
        topic = f"pykafka.{uuid4().hex[:12]}"
        bus = makeBus(self.address, [topic])
        self.addCleanup(bus.stop)
        await bus.createTopics([topic], 4, 1)
        await bus.start()
        return bus, topic

    def consume(self, topic: str, count: int) -> list[Any]:
        """
        Read messages with librdkafka, which checks batches' checksums if told so.
        """
        consumer = Consumer(
            {"bootstrap.servers": self.address, "group.id": uuid4().hex, "check.crcs": True, "log_level": 0}
        )
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(4)])
        found: list[Any] = []
        until = time.monotonic() + 20
        while len(found) < count and time.monotonic() < until:
            found += consumer.consume(count, 1.0)
        consumer.close()
        return found

    async def test_librdkafkaReadsOurs(self) -> None:
        """
        Keys, values, headers, times and partitions arrive as they were written, in batches of one and of thousands.
        """
        bus, topic = await self.started()
        before = int(time.time() * 1000)
        wanted = []
        flushes = []
        for number in range(40):
            count = 1 if number % 2 else 300
            records = [
                Record(
                    b"acme/box-%d" % number,
                    os.urandom(number * 7),
                    (("ce_id", b"%d/%d" % (number, part)), ("ce_type", "tracé".encode()), ("empty", b"")),
                )
                for part in range(count)
            ]
            partition = bus.partitionFor(topic, records[0].key)
            wanted += [(partition, *record) for record in records]
            flushes.append(bus.publish(topic, partition, records))
        await gatherResults(flushes)
        found = await deferToThread(self.consume, topic, len(wanted))
        got = [(each.partition(), each.key(), each.value(), tuple(each.headers())) for each in found]
        for partition in range(4):
            self.assertEqual(
                [each for each in got if each[0] == partition], [each for each in wanted if each[0] == partition]
            )
        stamps = [each.timestamp()[1] for each in found]
        self.assertTrue(before <= min(stamps) <= max(stamps) <= int(time.time() * 1000))
        self.assertEqual(len(got), len(wanted))

    async def test_weReadLibrdkafkas(self) -> None:
        """
        What librdkafka writes we read, gzip too, in the partitions that its murmur2 chooses; other compression is
        refused by name.
        """
        bus, topic = await self.started()
        wanted = []
        for compression in ("none", "gzip"):
            producer = Producer(
                {
                    "bootstrap.servers": self.address,
                    "partitioner": "murmur2",
                    "compression.type": compression,
                    "linger.ms": 20,
                }
            )
            for number in range(200):
                key, value = b"acme/box-%d" % number, (b"%s-%d-" % (compression.encode(), number)) * 20
                producer.produce(topic, value, key, headers=[("ce_id", b"%d" % number)])
                wanted.append((bus.partitionFor(topic, key), key, value, (("ce_id", b"%d" % number),)))
            await deferToThread(producer.flush, 20)
        found = [(each.partition, each.key, each.value, each.headers) for each in await readAll(bus, topic)]
        self.assertEqual(sorted(found), sorted(wanted))
        producer = Producer({"bootstrap.servers": self.address, "compression.type": "lz4"})
        producer.produce(topic, b"z" * 1000, b"k")
        await deferToThread(producer.flush, 20)
        try:
            await readAll(bus, topic)
        except BadKafkaBytes as error:
            self.assertIn("lz4", str(error))
        else:
            self.fail("lz4 was read")

    async def test_withoutTopics(self) -> None:
        """
        A bus without topics of its own reads any.
        """
        bus, topic = await self.started()
        await bus.publish(topic, 3, [Record(b"k", b"v")])
        other = makeBus(self.address)
        self.addCleanup(other.stop)
        await other.start()
        self.assertEqual([record.value for record in await readAll(other, topic)], [b"v"])

    async def test_transactionMarks(self) -> None:
        """
        A transaction's records are read and its end mark is not; the reader still catches up behind it.
        """
        bus, topic = await self.started()
        producer = Producer({"bootstrap.servers": self.address, "transactional.id": uuid4().hex})

        def transact() -> None:
            producer.init_transactions(20)
            producer.begin_transaction()
            producer.produce(topic, b"in a transaction", b"k", partition=2)
            producer.commit_transaction(20)

        await deferToThread(transact)
        self.assertEqual([record.value for record in await readAll(bus, topic)], [b"in a transaction"])

    async def test_replicationTooHigh(self) -> None:
        """
        The broker's words on what it refuses come through.
        """
        bus = makeBus(self.address)
        self.addCleanup(bus.stop)
        try:
            await bus.createTopics([f"pykafka.{uuid4().hex[:12]}"], 1, 3)
        except BusError as error:
            self.assertIn("38", str(error))
        else:
            self.fail("three replicas on one broker")


class Kafka44OtherClientTests(OtherClientMixin):
    """
    On Kafka 4.4.
    """


class Kafka39OtherClientTests(OtherClientMixin):
    """
    On Kafka 3.9.
    """

    kafka = "kafka39"


del OtherClientMixin
