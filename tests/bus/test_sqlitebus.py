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

from binaryserver import sqlitelog, sqlitethread
from binaryserver.bus import sqliteerasing
from binaryserver.bus.sqlitebus import _SCHEMA, SqliteBus, _deleteOld, encodeHeaders
from binaryserver.bus.sqlitereader import decodeHeaders
from binaryserver.errors import BusError, ConfigError, RecordTooLarge
from binaryserver.interfaces import IBus
from binaryserver.model import Record, StoredRecord
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

bus.start().addCallback(lambda _: [send((int(sys.argv[2]) + n) * 1000000) for n in range(4)])
reactor.run()
"""

FULL_DISK = """
import resource, signal, sys
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from binaryserver.bus.sqlitebus import SqliteBus
from binaryserver.errors import BusError
from binaryserver.model import Record
from binaryserver.plugins import BackEndContext

async def main(reactor):
    bus = SqliteBus("sqlite:" + sys.argv[1], BackEndContext(reactor, "--bus", flushInterval=0.001, topics=("t",)))
    await bus.start()
    acked = failed = 0
    async def send(count):
        nonlocal acked, failed
        for _ in range(count):
            try:
                await bus.publish("t", 0, [Record(b"k", b"%d" % (acked + failed) + bytes(20000))])
                print("acked", acked + failed, flush=True)
                acked += 1
            except BusError as error:
                print("failed", acked + failed, error, bus.pendingBytes, flush=True)
                failed += 1
    # The kernel refuses every write behind this place, as it does on a full disk.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500000, resource.RLIM_INFINITY))
    await send(40)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await send(10)
    await bus.stop()

react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
"""


class SqliteBusContractTests(StallingBusContractMixin, DurableBusContractMixin, TestCase):
    """
    The contract; another connection that holds the write lock stalls it.
    """

    makesTopicsAtStart = True
    sharesPartitions = False
    mustErase = True

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

    async def failure(self, deferred: Deferred[Any], kind: type[Exception]) -> Exception:
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

    async def readAll(self, bus: SqliteBus) -> list[StoredRecord]:
        """
        All that stands in the topic.
        """
        reader = await bus.openReader(("t",), True)
        found: list[StoredRecord] = []
        for _ in range(1000):
            if reader.caughtUp:
                break
            found += await reader.read(1000)
        self.assertTrue(reader.caughtUp)
        await reader.close()
        return found

    async def test_killedWritersLoseNothingAcked(self) -> None:
        """
        G1: what processes that share a file, and are killed with -9, had said to be durable is there, in its order.
        """
        path = os.path.abspath(self.mktemp())
        processes = [spawn(WRITER, path, str(first)) for first in (0, 4)]
        for process in processes:
            self.addCleanup(process.wait)
            self.addCleanup(process.kill)
        acked: list[int] = []
        for process in processes:
            assert process.stdout is not None
            acked += [int(process.stdout.readline()) for _ in range(200)]
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process in processes:
            assert process.stdout is not None
            acked += [int(line) for line in process.stdout.read().split(b"\n")[:-1]]
            process.stdout.close()
            process.wait()
        bus = self.makeBus(path)
        await bus.start()
        self.addCleanup(bus.stop)
        found = numbers(await self.readAll(bus))
        self.assertEqual(set(acked) - set(found), set())
        for first in range(8):
            own = [number for number in found if number // 1_000_000 == first]
            self.assertEqual(own, list(range(first * 1_000_000, first * 1_000_000 + len(own))))

    async def test_fullDisk(self) -> None:
        """
        Where the system refuses to write, flushes fail, and commit again once there is room; what was acked is there.
        """
        path = os.path.abspath(self.mktemp())
        process = spawn(FULL_DISK, path)
        output, _ = process.communicate(timeout=40)
        self.assertEqual(process.returncode, 0)
        lines = [line.split(maxsplit=2) for line in output.decode().splitlines()]
        words = [line[0] for line in lines]
        self.assertIn("failed", words[:40])
        self.assertEqual(words[40:], ["acked"] * 10)
        self.assertTrue(
            all(line[2].startswith("SQLite: ") and line[2].endswith(" 0") for line in lines if len(line) > 2)
        )
        bus = self.makeBus(path)
        await bus.start()
        self.addCleanup(bus.stop)
        found = [int(one.value.rstrip(b"\0")) for one in await self.readAll(bus)]
        self.assertEqual(found, sorted(found))
        self.assertEqual({int(line[1]) for line in lines if line[0] == "acked"} - set(found), set())

    async def test_damaged(self) -> None:
        """
        A stop leaves one whole file; one that lost its end, or whose end was overwritten, is told at the start.
        """

        def cut(path: str, size: int) -> None:
            os.truncate(path, size // 2 // 4096 * 4096)

        def overwrite(path: str, size: int) -> None:
            os.truncate(path, size - 4096)
            os.truncate(path, size)

        for damage in (cut, overwrite):
            path = self.mktemp()
            bus = self.makeBus(path)
            await bus.start()
            await bus.publish("t", 0, [record(n)._replace(value=bytes(1000)) for n in range(1000)])
            await bus.stop()
            self.assertFalse(os.path.exists(f"{path}-wal"))
            damage(path, os.path.getsize(path))
            again = self.makeBus(path)
            error = await self.failure(again.start(), ConfigError)
            self.assertEqual(str(error), f"--bus: {path}: database disk image is malformed")
            await again.stop()

    async def test_flushes(self) -> None:
        """
        A flush goes out by its records or its bytes well before its time, and otherwise with the stop.
        """
        path = self.mktemp()
        bus = SqliteBus(f"sqlite:{path}", BackEndContext(reactor, "--bus", flushInterval=600.0, topics=("t",)))
        await bus.start()
        await bus.publish("t", 0, [record(n) for n in range(1000)])
        await bus.publish("t", 1, [record(n)._replace(value=bytes(600_000)) for n in range(2)])
        small = bus.publish("t", 2, [record(1)])
        await deferLater(reactor, 0.1, lambda: None)
        self.assertFalse(small.called)
        await bus.stop()
        self.assertIsNone(self.successResultOf(small))

    async def test_oddHeaders(self) -> None:
        """
        A header that cannot be kept fails its flush, and no other one.
        """
        bus = self.makeBus(self.mktemp())
        await bus.start()
        self.addCleanup(bus.stop)
        await bus.publish("t", 0, [record(1)])
        long = record(2)._replace(headers=(("n" * 70_000, b""),))
        await self.failure(bus.publish("t", 0, [long]), RecordTooLarge)
        self.assertEqual(bus.pendingBytes, 0)
        await bus.publish("t", 0, [record(3)])
        self.assertEqual(numbers(await self.readAll(bus)), [1, 3])

    async def test_stopDuringStart(self) -> None:
        """
        A bus that is stopped while it starts is stopped.
        """
        bus = self.makeBus(self.mktemp())
        started = bus.start()
        started.addErrback(lambda failure: failure.trap(BusError, ConfigError))
        await bus.stop()
        await started
        await self.failure(bus.publish("t", 0, [record(1)]), BusError)
        self.assertEqual([one for one in reactor.getDelayedCalls() if "_trim" in str(one)], [])

    async def test_retention(self) -> None:
        """
        Beyond the size that may be kept the oldest go, a step at a time; readers go on with what is there.
        """
        bus = self.makeBus(self.mktemp(), "?retention_mib=1")
        await bus.start()
        self.addCleanup(bus.stop)
        for number in range(40):
            await bus.publish("t", 0, [record(number * 100 + n)._replace(key=b"k" * 1000) for n in range(100)])
        reader = await bus.openReader(("t",), True)
        bus._trim()
        await deferLater(reactor, 1.0, lambda: None)
        found = []
        for _ in range(100):
            if reader.caughtUp:
                break
            found += numbers(await reader.read(1000))
        self.assertTrue(reader.caughtUp)
        # Three of them take a page of 4 KiB: 768 may stay.
        self.assertTrue(3200 < found[0] < 3350, found[0])
        self.assertEqual(found, list(range(found[0], 4000)))

    def bytes(self, path: str) -> bytes:
        """
        What stands in a file and in its write-ahead log.
        """
        return Path(path).read_bytes() + Path(f"{path}-wal").read_bytes()

    async def test_erasedBytes(self) -> None:
        """
        What was erased, small or large, among others or at the end, is in no file any more, though another process has
        the file open; nor is what was deleted before because of its age.
        """
        path = self.mktemp()
        bus, other = self.makeBus(path), self.makeBus(path)
        for one in (bus, other):
            self.addCleanup(one.stop)
            await one.start()
        reader = await other.openReader(("t",), True)
        for size in (10, 200, 3000, 60_000):
            values = [b"<%d>" % (n % 40) * (size // 4) for n in range(80)]
            records = [Record(b"acme/box-%d" % (n % 40), v, (("id", v[:40]),)) for n, v in enumerate(values)]
            await bus.publish("t", 0, records)
        await bus.publish("t", 0, [Record(b"acme/box-7", b"<7>")])
        await reader.read(10)
        trim = "DELETE FROM records WHERE offset < 20"
        await bus._writer.call(lambda connection: connection.execute(trim).rowcount)
        self.assertTrue(b"<7>" in self.bytes(path) and b"<9>" in self.bytes(path))
        self.assertEqual(await bus.erase(b"acme/box-7"), 8)
        self.assertNotIn(b"<7>", self.bytes(path))
        await bus.erase(b"acme/box-9")
        self.assertNotIn(b"<9>", self.bytes(path))
        self.assertIn(b"<8>", self.bytes(path))

    async def test_eraseInSteps(self) -> None:
        """
        Neither goes through much at once, nor deletes much at once; the end is found all the same.
        """
        self.patch(sqliteerasing, "_STRIDE", 7)
        self.patch(sqliteerasing, "_STEP_BYTES", 30)
        bus = self.makeBus(self.mktemp())
        self.addCleanup(bus.stop)
        await bus.start()
        await bus.publish("t", 0, [record(n, b"a/%d" % (n // 10 % 2)) for n in range(100)])
        removals: list[int] = []
        remove = sqliteerasing._remove

        def noted(connection: sqlite3.Connection, offsets: Sequence[int]) -> int:
            removals.append(len(offsets))
            return remove(connection, offsets)

        self.patch(sqliteerasing, "_remove", noted)
        self.assertEqual(await bus.erase(b"a/0"), 50)
        self.assertEqual(sum(removals), 50)
        self.assertLessEqual(max(removals), 5)
        reader = await bus.openReader(("t",), True)
        self.assertEqual(numbers(await reader.read(1000)), [n for n in range(100) if n // 10 % 2])

    async def test_eraseWhileRead(self) -> None:
        """
        Somebody who reads in one transaction all the while keeps the log from being emptied: that is told, and the next
        call does it.
        """
        self.patch(sqlitelog, "_TRIES", 1)
        self.patch(sqlitethread, "_BUSY_STEP", 0.05)
        path = self.mktemp()
        bus = self.makeBus(path)
        self.addCleanup(bus.stop)
        await bus.start()
        await bus.publish("t", 0, [record(1)])
        lock = sqlite3.connect(path, isolation_level=None)
        lock.execute("BEGIN")
        lock.execute("SELECT * FROM records").fetchall()
        error = await self.failure(bus.erase(b"acme/box-1"), BusError)
        self.assertIn("-wal", str(error))
        lock.close()
        self.assertEqual(await bus.erase(b"acme/box-1"), 0)
        self.assertNotIn(b"value-1", self.bytes(path))

    async def test_stopDuringErase(self) -> None:
        """
        It has fired when the stop has.
        """
        bus = self.makeBus(self.mktemp())
        await bus.start()
        await bus.publish("t", 0, [record(1)])
        fired: list[Any] = []
        bus.erase(b"acme/box-1").addBoth(fired.append)
        await bus.stop()
        (failure,) = fired
        failure.trap(BusError)
        self.assertEqual(failure.getErrorMessage(), "the bus was stopped before all was erased")

    async def test_failedCommitFailsWhatItHeld(self) -> None:
        """
        A file that may not grow fails the flush; once it may, later ones commit.
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
        self.assertEqual(numbers(await self.readAll(bus)), [1, 3])


def spawn(program: str, *arguments: str) -> subprocess.Popen[bytes]:
    """
    Run a program of this module in a process of its own.
    """
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )


class TrimmingTests(SynchronousTestCase):
    """
    One step of the retention.
    """

    def setUp(self) -> None:
        """
        A log in memory of 5000 records, a ms apart.
        """
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(self.connection.close)
        self.connection.executescript(_SCHEMA)
        self.insert(range(1, 5001), b"")

    def insert(self, timestamps: range, value: bytes) -> None:
        """
        Add records.
        """
        self.connection.executemany(
            "INSERT INTO records (topic, partition, timestamp, key, value, headers) VALUES (1, 0, ?, x'', ?, x'')",
            [(timestamp, value) for timestamp in timestamps],
        )

    def offsets(self) -> tuple[int, int, int]:
        """
        The first, the last, and how many.
        """
        found: tuple[int, int, int] = self.connection.execute(
            "SELECT min(offset), max(offset), count(*) FROM records"
        ).fetchone()
        return found

    def test_byTime(self) -> None:
        """
        What is older than it may be goes, no more than a step's worth at once.
        """
        self.assertTrue(_deleteOld(self.connection, 2501, 1 << 30))
        self.assertEqual(self.offsets(), (2001, 5000, 3000))
        self.assertFalse(_deleteOld(self.connection, 2501, 1 << 30))
        self.assertEqual(self.offsets(), (2501, 5000, 2500))
        self.assertFalse(_deleteOld(self.connection, 2501, 1 << 30))
        self.assertEqual(self.offsets(), (2501, 5000, 2500))

    def test_bySize(self) -> None:
        """
        Large records go few at a time, and no more of them than must.
        """
        self.insert(range(1, 11), bytes(1_000_000))
        steps = 1
        while _deleteOld(self.connection, 0, 4_500_000):
            steps += 1
        self.assertEqual(self.offsets(), (5007, 5010, 4))
        self.assertGreaterEqual(steps, 5)

    def test_aStepIsSmall(self) -> None:
        """
        However much there is to delete, a step deletes little more than 2 MiB.
        """
        self.connection.execute("DELETE FROM records")
        self.insert(range(1, 11), bytes(1_000_000))
        self.assertTrue(_deleteOld(self.connection, 10**6, 0))
        self.assertEqual(self.offsets(), (5004, 5010, 7))

    def test_theNewestStays(self) -> None:
        """
        The last record stays whatever its age and size, and offsets go on.
        """
        for _ in range(10):
            _deleteOld(self.connection, 10**6, 0)
        self.assertEqual(self.offsets(), (5000, 5000, 1))
        self.assertFalse(_deleteOld(self.connection, 10**6, 0))
        self.insert(range(1), b"")
        self.assertEqual(self.offsets(), (5000, 5001, 2))

    def test_nothing(self) -> None:
        """
        An empty log has nothing to delete.
        """
        self.connection.execute("DELETE FROM records")
        self.assertFalse(_deleteOld(self.connection, 10**6, 0))


class DamageTests(TestCase):
    """
    A file that something else has written to.
    """

    timeout = 30

    async def test_damagedHeaders(self) -> None:
        """
        A record whose headers are damaged fails the read, which does not wait for ever.
        """
        path = os.path.abspath(self.mktemp())
        context = BackEndContext(reactor, "--bus", flushInterval=0.001, topics=("t",))
        bus = SqliteBus(f"sqlite:{path}", context)
        await bus.start()
        self.addCleanup(bus.stop)
        await bus.publish("t", 0, [record(1)])
        with sqlite3.connect(path, timeout=5) as connection:
            connection.execute("UPDATE records SET headers = x'0001'")
        connection.close()
        reader = await bus.openReader(("t",), True)
        failing: Any = self.assertFailure(reader.read(10), BusError)
        self.assertIn("damaged", str(await failing))


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
