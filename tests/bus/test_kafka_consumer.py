"""
L{binaryserver.bus.kafka_consumer} and L{binaryserver.bus.pykafka_consumer} on a real Kafka: members that are killed,
and a broker that goes and comes back. The contract is in C{tests.integration}.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from binaryserver.errors import BusError
from binaryserver.interfaces import IBus, IBusConsumer, IBusPlugin
from binaryserver.plugins import BackEndContext, createBackEnd
from tests.bus.consumercontract import behind
from tests.bus.members import MEMBER, Member
from tests.bus.steps import numbers, reactor, record
from tests.services import KafkaProcess, makeTopics, requireKafka, uniquePrefix

PARTITIONS = 4


def written(bootstrap: str, group: str, topic: str, partition: int, offset: int) -> None:
    """
    Wait until the broker has the offset of a group: a commit is on its way for up to a second, and a broker that is
    killed then never had it.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap})
    asked = [ConsumerGroupTopicPartitions(group, [TopicPartition(topic, partition)])]
    until = time.monotonic() + 20
    found = None
    while found != offset:
        assert time.monotonic() < until, f"the offset of {group} is {found}, not {offset}"
        time.sleep(0.05)
        answer = admin.list_consumer_group_offsets(asked)[group].result(10)
        found = answer.topic_partitions[0].offset


class KafkaConsumerTests(TestCase):
    """
    C{kafka:}
    """

    timeout = 120
    scheme = "kafka"

    async def bus(self, address: str, topic: str) -> IBus:
        """
        A started bus.
        """
        context = BackEndContext(reactor, "--bus", flushInterval=0.002, topics=(topic,), stopTimeout=5.0)
        bus: IBus = createBackEnd(IBusPlugin, f"{self.scheme}://{address}", context)
        self.addCleanup(bus.stop)
        await bus.start()
        return bus

    async def prepare(self, address: str) -> tuple[str, str, IBus]:
        """
        A topic that is there, the name of a group, and a bus.
        """
        prefix = uniquePrefix()
        await deferToThread(makeTopics, address, [f"{prefix}t"], PARTITIONS)
        await deferLater(reactor, 0.3, lambda: None)
        return f"{prefix}t", f"{prefix}g", await self.bus(address, f"{prefix}t")

    def flow(self, bus: IBus, topic: str, count: int, every: float) -> list[Deferred[None]]:
        """
        Publish records one by one; the list grows with their flushes.
        """
        flushes: list[Deferred[None]] = []

        def publish() -> None:
            number = len(flushes)
            flushes.append(bus.publish(topic, number % PARTITIONS, [record(number)]))
            if len(flushes) < count:
                reactor.callLater(every, publish)

        publish()
        return flushes

    async def work(
        self, consumer: IBusConsumer, found: list[int], isEnough: Callable[[], bool], seconds: float = 40.0
    ) -> None:
        """
        Read and commit until it is enough.
        """
        until = time.monotonic() + seconds
        while not isEnough() and time.monotonic() < until:
            some = await consumer.read(20)
            found += numbers(some)
            await consumer.commit(behind(some))

    async def test_killedMember(self) -> None:
        """
        A member that is killed with -9 while records flow loses none: what it had not committed comes to the other once
        its session has run out, and the other's own partitions are read on meanwhile.
        """
        address = requireKafka()
        topic, group, bus = await self.prepare(address)
        consumer = await bus.openConsumer([topic], group)
        member = Member(MEMBER, f"{self.scheme}://{address}", topic, group, "0")
        self.addCleanup(member.kill)
        found: list[int] = []
        flushes = self.flow(bus, topic, 600, 0.02)
        working = Deferred.fromCoroutine(self.work(consumer, found, lambda: set(found) == set(range(600))))
        theirs = await deferToThread(member.numbers, 20)
        self.assertNotEqual(theirs, [])
        member.kill()
        member.left()
        killed = time.monotonic()
        await working
        self.assertLess(time.monotonic() - killed, 25)
        await gatherResults(flushes)
        self.assertEqual(set(found), set(range(600)))

    async def test_rebalancesWhileRecordsFlow(self) -> None:
        """
        Members come and go while records flow: each record is given to one of them at least, and in the order of its
        partition but for repeats; what is committed is not given again.
        """
        address = requireKafka()
        topic, group, bus = await self.prepare(address)
        other = await self.bus(address, topic)
        found: list[int] = []
        flushes = self.flow(bus, topic, 800, 0.01)
        staying = await bus.openConsumer([topic], group)
        working = Deferred.fromCoroutine(self.work(staying, found, lambda: set(found) == set(range(800))))
        for _ in range(3):
            coming = await other.openConsumer([topic], group)
            until = time.monotonic() + 2.0
            await self.work(coming, found, lambda until=until: time.monotonic() > until)  # type: ignore[misc]
            await coming.close()
        await working
        await gatherResults(flushes)
        self.assertEqual(set(found), set(range(800)))
        # Of what was under way at each change.
        self.assertLess(len(found) - 800, 200)

    async def test_brokerAwayAndBack(self) -> None:
        """
        While the broker is away a read gives nothing and does not fail; once it is back the same consumer goes on
        behind what was committed, and so does the next one.
        """
        broker = KafkaProcess()
        self.addCleanup(broker.close)
        await deferToThread(broker.start)
        topic, group, bus = await self.prepare(broker.bootstrap)
        consumer = await bus.openConsumer([topic], group)
        await gatherResults(self.flow(bus, topic, 1, 0))
        found: list[int] = []
        await self.work(consumer, found, lambda: found == [0])
        await deferToThread(written, broker.bootstrap, group, topic, 0, 1)
        broker.kill9()
        published = bus.publish(topic, 1, [record(1)])
        began = time.monotonic()
        while time.monotonic() - began < 3:
            self.assertEqual(await consumer.read(10), [])
        await consumer.commit({(topic, 0): 1})
        await deferToThread(broker.start)
        await published
        await self.work(consumer, found, lambda: 1 in found)
        self.assertEqual(found, [0, 1])
        await deferToThread(written, broker.bootstrap, group, topic, 1, 1)
        await consumer.close()
        again = await bus.openConsumer([topic], group)
        await bus.publish(topic, 2, [record(2)])
        later: list[int] = []
        await self.work(again, later, lambda: 2 in later)
        self.assertEqual(later, [2])

    async def test_closeWithoutBroker(self) -> None:
        """
        A close ends in time where the broker is away.
        """
        broker = KafkaProcess()
        self.addCleanup(broker.close)
        await deferToThread(broker.start)
        topic, group, bus = await self.prepare(broker.bootstrap)
        consumer = await bus.openConsumer([topic], group)
        await bus.publish(topic, 0, [record(0)])
        found: list[int] = []
        await self.work(consumer, found, lambda: found == [0])
        broker.kill9()
        under = consumer.read(10)
        began = time.monotonic()
        await consumer.close()
        self.assertEqual(await under, [])
        self.assertLess(time.monotonic() - began, 8)
        error: Any = self.assertFailure(consumer.commit({(topic, 0): 1}), BusError)
        await error
        began = time.monotonic()
        stopped: Awaitable[None] = bus.stop()
        await stopped
        self.assertLess(time.monotonic() - began, 15)


class PykafkaConsumerTests(KafkaConsumerTests):
    """
    C{pykafka:}
    """

    scheme = "pykafka"
