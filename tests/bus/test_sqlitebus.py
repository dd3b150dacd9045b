"""
Tests for L{binaryserver.bus.sqlitebus}.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from binaryserver.bus.sqlitebus import SqliteBus, encodeHeaders
from binaryserver.bus.sqlitereader import decodeHeaders
from binaryserver.errors import BusError, ConfigError
from binaryserver.interfaces import IBus
from binaryserver.plugins import BackEndContext
from tests.bus.contract import DurableBusContractMixin, StallingBusContractMixin, numbers, reactor, record

WRITER = """
import sys
from twisted.internet import reactor, task
from binaryserver.bus.sqlitebus import SqliteBus
from binaryserver.model import Record
from binaryserver.plugins import BackEndContext

bus = SqliteBus("sqlite:" + sys.argv[1], BackEndContext(reactor, "--bus", flushInterval=0.001, topics=("t",)))

def send(number):
    def acked(_):
        print(number, flush=True)
        send(number + 1)
    bus.publish("t", number % 8, [Record(b"k", b"value-%d" % number)]).addCallback(acked)

bus.start().addCallback(lambda _: [send(n * 1000000) for n in range(4)])
reactor.run()
"""


class SqliteBusContractTests(StallingBusContractMixin, DurableBusContractMixin, TestCase):
    """
    The contract; another connection that holds the write lock stalls it.
    """

    makesTopicsAtStart = True

    def setUp(self) -> None:
        """
        A file of its own.
        """
        self.path = os.path.abspath(self.mktemp())
        self.lock: sqlite3.Connection | None = None

    def makeBus(self, topics: Sequence[str], stopTimeout: float = 20.0) -> Awaitable[IBus]:
        """
        See L{BusContractMixin.makeBus}.
        """
        context = BackEndContext(
            reactor, "--bus", flushInterval=0.01, stopTimeout=stopTimeout, topics=tuple(topics), startTimeout=5
        )
        return succeed(SqliteBus(f"sqlite:{self.path}", context))

    def stall(self) -> Awaitable[None]:
        """
        See L{StallingBusContractMixin.stall}.
        """
        self.lock = sqlite3.connect(self.path, isolation_level=None, timeout=5)
        self.lock.execute("BEGIN IMMEDIATE")
        return succeed(None)

    def resume(self) -> Awaitable[None]:
        """
        See L{StallingBusContractMixin.resume}.
        """
        if self.lock is not None:
            self.lock.close()
            self.lock = None
        return succeed(None)


class SqliteBusTests(TestCase):
    """
    What is its own.
    """

    timeout = 60

    def makeBus(self, path: str, query: str = "", option: str = "--bus") -> SqliteBus:
        """
        A bus of one topic, C{t}.
        """
        return SqliteBus(f"sqlite:{path}{query}", BackEndContext(reactor, option, flushInterval=0.001, topics=("t",)))

    async def failure(self, deferred: Deferred[None], kind: type[Exception]) -> Exception:
        """
        What a Deferred fails with.
        """
        error: Any = self.assertFailure(deferred, kind)
        return await error  # type: ignore[no-any-return]

    async def test_badFiles(self) -> None:
        """
        A file that cannot be a log ends the start with a line that names option, file and cause.
        """
        garbage = Path(self.mktemp())
        garbage.write_bytes(b"no database at all, but long enough to look like something" * 100)
        folder = self.mktemp()
        os.mkdir(folder)
        for path in (str(garbage), folder, "/dev/null/x.sqlite"):
            bus = self.makeBus(path)
            error = await self.failure(bus.start(), ConfigError)
            self.assertIn(f"--bus: {path}: ", str(error))
            await bus.stop()
        self.assertRaises(ConfigError, self.makeBus, "")
        self.assertRaises(ConfigError, self.makeBus, "x", "?what=1")

    async def test_killedWriterLosesNothingAcked(self) -> None:
        """
        G1: what a process that is killed with -9 had said to be durable is there, in its order.
        """
        path = os.path.abspath(self.mktemp())
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
        )
        assert process.stdout is not None
        acked = [int(process.stdout.readline()) for _ in range(200)]
        process.send_signal(signal.SIGKILL)
        acked += [int(line) for line in process.stdout.read().split(b"\n")[:-1]]
        process.stdout.close()
        process.wait()
        bus = self.makeBus(path)
        await bus.start()
        self.addCleanup(bus.stop)
        reader = await bus.openReader(("t",), True)
        found = []
        while not reader.caughtUp:
            found += await reader.read(1000)
        self.assertEqual(set(acked) - set(numbers(found)), set())
        for first in range(4):
            own = [number for number in numbers(found) if number // 1_000_000 == first]
            self.assertEqual(own, list(range(first * 1_000_000, first * 1_000_000 + len(own))))

    async def test_retention(self) -> None:
        """
        Beyond the size that may be kept the oldest go, a step at a time; readers go on with what is there.
        """
        bus = self.makeBus(self.mktemp(), "?retention_mib=1")
        await bus.start()
        self.addCleanup(bus.stop)
        reader = await bus.openReader(("t",), True)
        for number in range(40):
            await bus.publish("t", 0, [record(number * 100 + n)._replace(key=b"k" * 1000) for n in range(100)])
        bus._trim()
        for _ in range(100):
            await deferLater(reactor, 0.05, lambda: None)
        found: list[int] = []
        for _ in range(100):
            found += numbers(await reader.read(1000))
            if found[-1:] == [3999]:
                break
        self.assertGreater(found[0], 1000)
        self.assertEqual(found, list(range(found[0], 4000)))

    async def test_failedCommitFailsWhatItHeld(self) -> None:
        """
        A disk that is full fails the flush; once there is room later ones commit.
        """
        bus = self.makeBus(self.mktemp())
        await bus.start()
        self.addCleanup(bus.stop)
        await bus.publish("t", 0, [record(1)])

        def limit(connection: sqlite3.Connection, pages: int) -> None:
            connection.execute(f"PRAGMA max_page_count = {pages}")

        await bus._writer.call(limit, 1)
        large = [record(2)._replace(value=bytes(500_000))]
        error = await self.failure(bus.publish("t", 0, large), BusError)
        self.assertIn("full", str(error))
        self.assertEqual(bus.pendingBytes, 0)
        await bus._writer.call(limit, 1_000_000)
        await bus.publish("t", 0, [record(3)])
        reader = await bus.openReader(("t",), True)
        self.assertEqual(numbers(await reader.read(10)), [1, 3])


class HeaderTests(SynchronousTestCase):
    """
    The blob of headers.
    """

    @given(st.lists(st.tuples(st.text(max_size=30), st.binary(max_size=300)), max_size=8))
    def test_roundTrip(self, headers: list[tuple[str, bytes]]) -> None:
        """
        Any headers come back.
        """
        self.assertEqual(decodeHeaders(encodeHeaders(headers)), tuple(headers))
