"""
Tests for L{binaryserver.session.sqlitestore}; the contract is run over it in L{tests.session.test_stores}.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from twisted.internet import reactor as globalReactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import SynchronousTestCase, TestCase

from binaryserver import sqlitelog, sqlitethread
from binaryserver.errors import ConfigError, StoreError, StoreNotAsked, StoreUnavailable
from binaryserver.model import (
    REMEMBERED_MS,
    BoxKey,
    Claim,
    FingerprintUpdate,
    MarkUpdate,
    MqttSession,
    Renewal,
    StreamMark,
)
from binaryserver.plugins import BackEndContext
from binaryserver.session import sqlitemailbox
from binaryserver.session.memorystore import MAX_WORKERS
from binaryserver.session.sqlitestore import SqliteSessionStore
from tests.session.contract_base import BOX, LIMITS, NOW, messageFor
from tests.session.model import ModelStore
from tests.session.operations import Operation, operations, run

reactor: Any = globalReactor

WRITER = """
import sys
from itertools import count
from twisted.internet import reactor
from binaryserver.model import BoxKey, MarkUpdate
from binaryserver.plugins import BackEndContext
from binaryserver.session.sqlitestore import SqliteSessionStore

store = SqliteSessionStore("sqlite:" + sys.argv[1], BackEndContext(reactor, "--sessions"))
box = BoxKey("acme", "box-1")
attempts = count()

def mark(number):
    def written(_):
        print("mark", number, flush=True)
        mark(number + 1)
    store.commitMarks([MarkUpdate(box, 7, number, 0)]).addCallback(written)

def claim():
    def claimed(claim):
        print("epoch", claim.linkEpoch, flush=True)
        claim_()
    def claim_():
        attempt = sys.argv[2] + str(next(attempts))
        store.claim(box, sys.argv[2] + "@1", "md30", "192.0.2.1", 0, False, attempt).addCallback(claimed)
    claim_()

def lease(_):
    def leased(number):
        print("worker", number, flush=True)
        mark(1)
        claim()
    store.leaseWorker(sys.argv[2] + "@1").addCallback(leased)

store.start().addCallback(lease)
reactor.run()
"""


class SqliteSessionStoreTests(TestCase):
    """
    What is its own.
    """

    timeout = 60

    def setUp(self) -> None:
        """
        A file of its own.
        """
        self.path = os.path.abspath(self.mktemp())

    async def startStore(self, startTimeout: float = 15.0) -> SqliteSessionStore:
        """
        A started store; stopped at the end of the test.
        """
        context = BackEndContext(reactor, "--sessions", startTimeout=startTimeout)
        store = SqliteSessionStore(f"sqlite:{self.path}", context)
        self.addCleanup(store.stop)
        await store.start()
        return store

    async def errorOf(self, deferred: Deferred[Any], kind: type[Exception]) -> Exception:
        """
        What a Deferred fails with.
        """
        error: Any = self.assertFailure(deferred, kind)
        return await error  # type: ignore[no-any-return]

    async def test_killedProcessesLoseNothing(self) -> None:
        """
        What two processes on one file had been told before they were killed with -9 is there: marks, epochs that no two
        links share, and worker numbers that no two instances share.
        """
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, self.path, name], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
            )
            for name in ("a", "b")
        ]
        told: dict[bytes, list[int]] = {b"mark": [], b"epoch": [], b"worker": []}
        for process in processes:
            self.addCleanup(process.wait)
            self.addCleanup(process.kill)
            assert process.stdout is not None
            self.addCleanup(process.stdout.close)
        lines: list[bytes] = []
        for process in processes:
            assert process.stdout is not None
            lines += [process.stdout.readline() for _ in range(200)]
        for process in processes:
            process.kill()
        for process in processes:
            assert process.stdout is not None
            lines += [line for line in process.stdout.read().splitlines(True) if line.endswith(b"\\n")]
        for line in lines:
            kind, number = line.split()
            told[kind].append(int(number))
        self.assertEqual(sorted(told[b"worker"]), [0, 1])
        self.assertEqual(len(told[b"epoch"]), len(set(told[b"epoch"])))
        store = await self.startStore()
        (mark,) = await store.marks(BOX)
        self.assertGreaterEqual(mark.committed, max(told[b"mark"]))
        claim = await store.claim(BOX, "c@1", "md30", "192.0.2.1", 0, False, "x")
        self.assertGreater(claim.linkEpoch, max(told[b"epoch"]))

    async def test_emptiedStore(self) -> None:
        """
        Epochs grow on even after the file was lost, as time goes on.
        """
        store = await self.startStore()
        first = await store.claim(BOX, "a@1", "md30", "192.0.2.1", NOW, False, "x")
        await store.stop()
        for name in Path(self.path).parent.glob(Path(self.path).name + "*"):
            name.unlink()
        again = await (await self.startStore()).claim(BOX, "a@1", "md30", "192.0.2.1", NOW + 1, False, "y")
        self.assertEqual((again.previous, again.linkEpoch), (None, first.linkEpoch + 1))

    async def test_clockGoesBack(self) -> None:
        """
        The stream that was raised last is kept, whatever the clock says.
        """
        store = await self.startStore()
        for stream in range(4):
            await store.commitMarks([MarkUpdate(BOX, stream, 1, 0)])
        now = time.time_ns
        self.patch(time, "time_ns", lambda: now() - 3600 * 10**9)
        await store.commitMarks([MarkUpdate(BOX, 99, 1, 0)])
        self.assertEqual([mark.stream for mark in await store.marks(BOX)], [1, 2, 3, 99])

    async def test_oneTransaction(self) -> None:
        """
        The marks of many boxes that wait are one commit.
        """
        store = await self.startStore()
        thread = store._thread
        begun: list[int] = []

        def count(connection: sqlite3.Connection) -> None:
            connection.set_trace_callback(lambda text: begun.append(1) if text.startswith("BEGIN") else None)

        await thread.call(count)
        boxes = [BoxKey("acme", str(number)) for number in range(400)]
        await gatherResults([store.commitMarks([MarkUpdate(box, 1, 1, 1)]) for box in boxes])
        self.assertLess(len(begun), 20)
        self.assertEqual(await store.marks(boxes[399]), (StreamMark(1, 1, 1),))

    async def test_locked(self) -> None:
        """
        Another process that keeps the file locked fails what is called, as unavailable, and later calls work.
        """
        store = await self.startStore(startTimeout=0.1)
        lock = sqlite3.connect(self.path, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        error = await self.errorOf(store.commitMarks([MarkUpdate(BOX, 1, 1, 1)]), StoreNotAsked)
        self.assertIn("locked", str(error))
        other = SqliteSessionStore(f"sqlite:{self.path}", BackEndContext(reactor, "--sessions", startTimeout=0.1))
        self.assertIn("--sessions: ", str(await self.errorOf(other.start(), StoreUnavailable)))
        lock.close()
        await store.commitMarks([MarkUpdate(BOX, 1, 2, 1)])
        self.assertEqual(await store.marks(BOX), (StreamMark(1, 2, 1),))

    async def test_afterTheStop(self) -> None:
        """
        What comes after the stop fails; it does not wait for ever.
        """
        store = await self.startStore()
        await store.leaseWorker("a@1")
        await store.stop()
        await self.errorOf(store.marks(BOX), StoreError)
        await self.errorOf(store.commitMarks([MarkUpdate(BOX, 1, 1, 1)]), StoreError)

    async def test_whatCannotBeKept(self) -> None:
        """
        A number of more than 64 bits, or a session that was spoilt, fails its call alone.
        """
        store = await self.startStore()
        claim = await store.claim(BOX, "a@1", "md30", "192.0.2.1", NOW, False, "x")
        await store.saveMqtt(BOX, claim.linkEpoch, MqttSession(), False)
        await self.errorOf(store.commitMarks([MarkUpdate(BOX, 1, 1, 2**63)]), StoreError)
        await store._thread.call(lambda connection: connection.execute("UPDATE boxes SET mqtt = '[1' ").rowcount)
        await self.errorOf(store.claim(BOX, "a@1", "md30", "192.0.2.1", NOW, False, "y"), StoreError)
        clean = await store.claim(BOX, "a@1", "md30", "192.0.2.1", NOW, True, "z")
        self.assertEqual(clean, Claim(claim.linkEpoch + 1, clean.previous, (), None))

    async def test_everyNumberTaken(self) -> None:
        """
        No instance that lived within a day loses its number; of others the one longest away does, first.
        """
        store = await self.startStore()
        now = time.time_ns()

        def fill(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "INSERT INTO workers VALUES (?, ?, ?, ?, ?)",
                [(f"host-{n}", n, f"host-{n}@1", n % 2, now // 10**6 - n * 1000) for n in range(MAX_WORKERS)],
            )

        await store._thread.call(fill)
        error = await self.errorOf(store.leaseWorker("one-more@1"), StoreError)
        self.assertIn("16384", str(error))
        self.assertEqual(await store.leaseWorker("host-7@2", 9), 7)
        self.patch(time, "time_ns", lambda: now + 86_400 * 10**9)
        self.assertEqual(await store.leaseWorker("one-more@1", 9), MAX_WORKERS - 1)
        self.assertEqual(await store.leaseWorker("another@1"), MAX_WORKERS - 2)
        self.assertIs(await store.renew(f"host-{MAX_WORKERS - 1}@1"), Renewal.unknown)

    async def test_clockIsPutBack(self) -> None:
        """
        Leases from the future are counted anew: who lives is not taken for dead, and who is gone does not live on.
        """
        store = await self.startStore()
        await store.leaseWorker("alive@1")
        await store.leaseWorker("gone@1")
        now = time.time_ns() - 3600 * 10**9
        self.patch(time, "time_ns", lambda: now)
        await store.bury(100)
        now += 90 * 10**6
        self.assertIs(await store.renew("alive@1"), Renewal.renewed)
        now += 90 * 10**6
        await store.bury(100)
        self.assertEqual((await store.isDead("alive@1"), await store.isDead("gone@1")), (False, True))

    async def test_fewStatements(self) -> None:
        """
        A batch for many boxes is one transaction, and what a sweep or a look for owners reads has an index.
        """
        store = await self.startStore()
        texts: list[str] = []
        await store._thread.call(lambda connection: connection.set_trace_callback(texts.append))
        boxes = [BoxKey("acme", str(number)) for number in range(50)]
        await store.putMessages([messageFor(f"m{n}", box) for box in boxes for n in range(4)], LIMITS, NOW)
        self.assertEqual(sum(text.startswith("BEGIN") for text in texts), 1)

        def plan(connection: sqlite3.Connection) -> list[str]:
            queries = {
                "SELECT * FROM messages WHERE due <= 5 ORDER BY due LIMIT 1",
                "SELECT * FROM finished WHERE until <= 5 LIMIT 1",
                "SELECT * FROM boxes WHERE connected AND incarnation = 'a' LIMIT 1",
                "SELECT min(incarnation) FROM boxes WHERE connected AND incarnation > 'a'",
                "SELECT account FROM boxes WHERE asset = 'a' ORDER BY account",
                "SELECT 1 FROM boxes WHERE account = 'a' AND connected LIMIT 1 OFFSET 5",
                "SELECT account FROM boxes WHERE NOT connected AND last_seen < 5 ORDER BY last_seen LIMIT 5",
                "SELECT * FROM buckets WHERE full_at <= 5",
            }
            return [str(row[3]) for query in queries for row in connection.execute(f"EXPLAIN QUERY PLAN {query}")]

        steps = await store._thread.call(plan)
        self.assertEqual([step for step in steps if not step.startswith("SEARCH")], [])

    async def test_manyFinished(self) -> None:
        """
        A sweep forgets so many at a time, and the next ones the rest.
        """
        self.patch(sqlitemailbox, "_FORGOTTEN_AT_ONCE", 2)
        store = await self.startStore()
        names = [f"m{n}" for n in range(5)]
        await store.putMessages([messageFor(name, expiresAt=NOW) for name in names], LIMITS, NOW)
        await store.removeMessages([(BOX, name) for name in names])
        for left in (3, 1, 0):
            await store.dueMessages(NOW + REMEMBERED_MS, 10)
            (count,) = await store._thread.call(lambda c: c.execute("SELECT count(*) FROM finished").fetchone())
            self.assertEqual(count, left)

    async def test_erasedBytes(self) -> None:
        """
        Of a box that was erased there is nothing in the file, nor in the write-ahead log, but its last epoch; though
        other processes have the file open.
        """
        store, other = await self.startStore(), await self.startStore()
        keys = [BoxKey("acme", f"box-{n}") for n in range(50)]
        for turn in range(3):
            for key in keys:
                mark = f"<{key.asset}>".encode()
                claim = await store.claim(key, "a@1", "md30", f"192.0.2.1{key.asset}", NOW, False, f"x{turn}")
                topics = ((mark.decode() * 20, 1),)
                await store.saveMqtt(key, claim.linkEpoch, MqttSession(topics), False)
                await store.commitFingerprints([FingerprintUpdate(key, mark * 8 * (turn + 1))], 1024)
                messages = [messageFor(f"m{turn}-{n}", key, mark * 50 * n) for n in range(6)]
                await store.putMessages(messages, LIMITS, NOW)
                await store.release(key, claim.linkEpoch, NOW)
        await other.mailbox(keys[7])
        self.assertIn(b"<box-7>", self.bytes())
        erased = await store.erase(keys[7])
        self.assertEqual((erased.wasKnown, erased.messages), (True, 18))
        self.assertNotIn(b"<box-7>", self.bytes())
        self.assertNotIn(b"192.0.2.1box-7md30", self.bytes())
        self.assertIn(b"<box-8>", self.bytes())
        self.assertEqual(len(await other.mailbox(keys[8])), 18)

    def bytes(self) -> bytes:
        """
        What stands in the file and in its log.
        """
        return Path(self.path).read_bytes() + Path(f"{self.path}-wal").read_bytes()

    async def test_eraseWhileRead(self) -> None:
        """
        Somebody who reads in one transaction all the while keeps the log from being emptied: that is told, and the next
        call does it.
        """
        self.patch(sqlitelog, "_TRIES", 1)
        self.patch(sqlitethread, "_BUSY_STEP", 0.05)
        store = await self.startStore()
        await store.putMessages([messageFor(payload=b"<payload>")], LIMITS, NOW)
        with closing(sqlite3.connect(self.path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM messages").fetchall()
            error = await self.errorOf(store.erase(BOX), StoreError)
            self.assertNotIsInstance(error, StoreNotAsked)
            self.assertIn("-wal", str(error))
        self.assertEqual((await store.erase(BOX)).wasKnown, False)
        self.assertNotIn(b"<payload>", self.bytes())

    async def test_neverClaimedIsForgotten(self) -> None:
        """
        Of a box that never came nothing is left once the ids of its messages are forgotten; of one that did its number
        of messages is.
        """
        store = await self.startStore()
        claim = await store.claim(BOX, "a@1", "md30", "192.0.2.1", NOW, False, "x")
        await store.release(BOX, claim.linkEpoch, NOW)
        boxes = [BOX, *(BoxKey("acme", str(n)) for n in range(3))]
        await store.putMessages([messageFor(box=box, expiresAt=NOW) for box in boxes], LIMITS, NOW)
        await store.putMessages([messageFor("m2", box=boxes[3], expiresAt=NOW + 1)], LIMITS, NOW)
        await store.removeMessages([(box, "m1") for box in boxes])
        await store.dueMessages(NOW + REMEMBERED_MS, 10)
        rows = await store._thread.call(lambda c: c.execute("SELECT asset FROM mailboxes ORDER BY asset").fetchall())
        self.assertEqual(rows, [("2",), ("box-1",)])

    async def test_otherVersion(self) -> None:
        """
        A file of another release is refused with one line.
        """
        await (await self.startStore()).stop()
        for version, statement in ((3, "PRAGMA user_version = 3"), (0, "PRAGMA user_version = 0")):
            with closing(sqlite3.connect(self.path)) as connection:
                connection.execute(statement)
            store = SqliteSessionStore(f"sqlite:{self.path}", BackEndContext(reactor, "--sessions"))
            error = await self.errorOf(store.start(), ConfigError)
            self.assertEqual(
                str(error),
                f"--sessions: {self.path}: its schema is of version {version}, but this release needs 7: "
                "move the file away",
            )

    async def test_otherFile(self) -> None:
        """
        What is refused is left as it was.
        """
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("CREATE TABLE customers (name TEXT)")
        before = Path(self.path).read_bytes()
        store = SqliteSessionStore(f"sqlite:{self.path}", BackEndContext(reactor, "--sessions"))
        self.assertIn("version 0, ", str(await self.errorOf(store.start(), ConfigError)))
        self.assertEqual(Path(self.path).read_bytes(), before)

    async def test_manyMakeTheFile(self) -> None:
        """
        Those that start on a file that is not there yet do not take it for another release's.
        """
        await gatherResults([Deferred.fromCoroutine(self.startStore()) for _ in range(8)])
        with closing(sqlite3.connect(self.path)) as connection:
            self.assertEqual(connection.execute("PRAGMA user_version").fetchone(), (7,))

    async def test_badFiles(self) -> None:
        """
        One line that names option, file and cause.
        """
        Path(self.path).write_bytes(b"this is no database, though it is long enough for one" * 100)
        store = SqliteSessionStore(f"sqlite:{self.path}", BackEndContext(reactor, "--sessions"))
        error = await self.errorOf(store.start(), ConfigError)
        self.assertTrue(str(error).startswith(f"--sessions: {self.path}: "), str(error))
        for spec in ("sqlite:", "sqlite:x?y=1"):
            self.assertRaises(ConfigError, SqliteSessionStore, spec, BackEndContext(reactor, "--sessions"))


class ModelTests(SynchronousTestCase):
    """
    Against plain dicts.
    """

    def setUp(self) -> None:
        """
        A file for all examples, so that they need not wait for a disk.
        """
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(self.connection.close)
        self.store = SqliteSessionStore("sqlite:unused", BackEndContext(reactor, "--sessions"))
        self.connection.executescript(self.store._thread._schema)

    @settings(deadline=None)
    @given(operations)
    def test_model(self, doing: list[Operation]) -> None:
        """
        Whatever is done in whatever order, the store answers as plain dicts do.
        """
        tables: tuple[str, ...] = (
            "boxes",
            "marks",
            "fingerprints",
            "workers",
            "mailboxes",
            "messages",
            "finished",
            "buckets",
        )
        tables += ("events", "strangers")
        self.connection.executescript("".join(f"DELETE FROM {table};" for table in tables))
        answer: Any = None

        def call(job: Any, *arguments: Any) -> Deferred[Any]:
            nonlocal answer
            answer = job(self.connection, *arguments)
            return Deferred()

        self.patch(self.store._thread, "call", call)

        def answers(name: str, *arguments: Any) -> Any:
            getattr(self.store, name)(*arguments)
            return answer

        model = ModelStore()
        self.assertEqual(run(doing, answers), run(doing, lambda name, *given: getattr(model, name)(*given)))
