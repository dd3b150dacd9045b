"""
Tests for L{binaryserver.bus.sqliteconsumer}: members that die or freeze, a file that is locked, and where a log is
gone on with. The contract is in L{tests.bus.test_sqlitebus}.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import time

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from binaryserver.bus import sqliteconsumer
from binaryserver.bus.sqlitebus import SqliteBus
from binaryserver.interfaces import IBusConsumer
from binaryserver.model import StoredRecord
from binaryserver.plugins import BackEndContext
from tests.bus.consumercontract import behind
from tests.bus.members import MEMBER, Member
from tests.bus.steps import numbers, reactor, record


class SqliteConsumerTests(TestCase):
    """
    Members of a group C{g} that share a file.
    """

    timeout = 60

    def setUp(self) -> None:
        """
        A file of its own.
        """
        self.path = os.path.abspath(self.mktemp())

    async def bus(self, topics: tuple[str, ...] = ("t",)) -> SqliteBus:
        """
        A started bus.
        """
        context = BackEndContext(reactor, "--bus", flushInterval=0.001, topics=topics, batchDeadline=5.0)
        bus = SqliteBus(f"sqlite:{self.path}", context)
        await bus.start()
        self.addCleanup(bus.stop)
        return bus

    async def read(self, consumer: IBusConsumer, count: int, seconds: float = 15.0) -> list[StoredRecord]:
        """
        Read until there are so many records, or time is up.
        """
        found: list[StoredRecord] = []
        until = time.monotonic() + seconds
        while len(found) < count and time.monotonic() < until:
            found += await consumer.read(100)
        return found

    async def test_killedMember(self) -> None:
        """
        What a member that is killed with -9 had not committed comes to one that stood by, within ten seconds.
        """
        bus = await self.bus()
        await bus.publish("t", 0, [record(n) for n in range(20)])
        member = Member(MEMBER, f"sqlite:{self.path}", "t", "g", "10")
        self.addCleanup(member.kill)
        self.assertEqual(await deferToThread(member.numbers, 20), list(range(20)))
        consumer = await bus.openConsumer(["t"], "g")
        self.assertEqual(await consumer.read(10), [])
        await deferLater(reactor, 1.0, lambda: None)
        member.kill()
        killed = time.monotonic()
        found = await self.read(consumer, 10)
        self.assertLess(time.monotonic() - killed, 10)
        self.assertEqual(numbers(found), list(range(10, 20)))
        self.assertEqual(member.left(), [])

    async def test_frozenMember(self) -> None:
        """
        A member that was frozen for longer than its lease finds itself replaced: it reads nothing, and what it commits
        late counts for nothing.
        """
        bus = await self.bus()
        await bus.publish("t", 0, [record(n) for n in range(20)])
        member = Member(MEMBER, f"sqlite:{self.path}", "t", "g", "0")
        self.addCleanup(member.kill)
        self.assertEqual(await deferToThread(member.numbers, 20), list(range(20)))
        consumer = await bus.openConsumer(["t"], "g")
        member.signal(signal.SIGSTOP)
        self.assertEqual(numbers(await self.read(consumer, 20)), list(range(20)))
        await bus.publish("t", 1, [record(n) for n in range(20, 30)])
        member.signal(signal.SIGCONT)
        self.assertEqual(numbers(await self.read(consumer, 10)), list(range(20, 30)))
        await deferLater(reactor, 1.0, lambda: None)
        member.kill()
        self.assertEqual(member.left(), [])

    async def test_lockedFile(self) -> None:
        """
        While another process keeps the file locked beyond the lease a member stops reading, so that nobody else need
        wait to be sure; it goes on once it has its beat again. What was committed meanwhile is kept.
        """
        self.patch(sqliteconsumer, "LEASE", 1.0)
        self.patch(sqliteconsumer, "_BEAT", 0.3)
        bus = await self.bus()
        await bus.publish("t", 0, [record(n) for n in range(10)])
        consumer = await bus.openConsumer(["t"], "g")
        found = await self.read(consumer, 5)
        with sqlite3.connect(self.path, isolation_level=None) as lock:
            lock.execute("BEGIN IMMEDIATE")
            await consumer.commit(behind(found))
            published = bus.publish("t", 0, [record(10)])
            await deferLater(reactor, 1.2, lambda: None)
            self.assertEqual(await consumer.read(10), [])
            lock.execute("COMMIT")
        lock.close()
        self.assertEqual(numbers(await self.read(consumer, 1)), [10])
        await published
        await consumer.close()
        again = await bus.openConsumer(["t"], "g")
        self.assertEqual(numbers(await self.read(again, 1)), [10])

    async def test_stopWhileLocked(self) -> None:
        """
        A stop does not wait for a lock that is kept longer than it may take.
        """
        context = BackEndContext(reactor, "--bus", topics=("t",), stopTimeout=1.0)
        bus = SqliteBus(f"sqlite:{self.path}", context)
        await bus.start()
        consumer = await bus.openConsumer(["t"], "g")
        reading: Deferred[list[StoredRecord]] = consumer.read(10)
        with sqlite3.connect(self.path, isolation_level=None) as lock:
            lock.execute("BEGIN IMMEDIATE")
            before = time.monotonic()
            await bus.stop()
            self.assertLess(time.monotonic() - before, 5)
        lock.close()
        self.assertEqual(self.successResultOf(reading), [])

    async def test_otherTopicsDoNotHoldBack(self) -> None:
        """
        What other topics and partitions hold is not gone through again by the next member: it begins where the log was
        read to, unless something was given out and not committed.
        """
        bus = await self.bus(("t", "other"))
        await bus.publish("t", 0, [record(1)])
        await bus.publish("other", 0, [record(n) for n in range(500)])
        consumer = await bus.openConsumer(["t"], "g")
        found = await self.read(consumer, 1)
        self.assertEqual(await consumer.read(10), [])
        await consumer.commit(behind(found))
        await consumer.close()
        with sqlite3.connect(self.path) as connection:
            select = "SELECT partition, next FROM consumer_offsets WHERE name = 'g'"
            self.assertEqual(dict(connection.execute(select).fetchall()), dict.fromkeys(range(8), 502))
            again = await bus.openConsumer(["t"], "g")
            await bus.publish("t", 3, [record(2)])
            await bus.publish("other", 0, [record(n) for n in range(100)])
            self.assertEqual(numbers(await self.read(again, 1)), [2])
            self.assertEqual(await again.read(10), [])
            await again.close()
            self.assertEqual(dict(connection.execute(select).fetchall()), {n: 502 if n == 3 else 603 for n in range(8)})
        connection.close()
        last = await bus.openConsumer(["t"], "g")
        self.assertEqual(numbers(await self.read(last, 1)), [2])

    async def test_newTopicFromItsFirst(self) -> None:
        """
        A topic that a group comes to later is read from its first record, however far the others were read.
        """
        bus = await self.bus(("t", "other"))
        await bus.publish("other", 0, [record(1)])
        await bus.publish("t", 0, [record(2)])
        consumer = await bus.openConsumer(["t"], "g")
        await consumer.commit(behind(await self.read(consumer, 1)))
        await consumer.close()
        again = await bus.openConsumer(["t", "other"], "g")
        self.assertEqual(numbers(await self.read(again, 1)), [1])

    async def test_anotherProcessPublishes(self) -> None:
        """
        What another process publishes is given out a few ms later, without a notice from it.
        """
        bus = await self.bus()
        other = await self.bus()
        consumer = await bus.openConsumer(["t"], "g")
        taken = []
        for number in range(20):
            reading = Deferred.fromCoroutine(self.read(consumer, 1))
            await deferLater(reactor, 0.017, lambda: None)
            await other.publish("t", number % 8, [record(number)])
            committed = time.monotonic()
            self.assertEqual(numbers(await reading), [number])
            taken.append(time.monotonic() - committed)
        self.assertLess(sorted(taken)[10], 0.05, taken)
