"""
Tests for L{binaryserver.sqlitethread}.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from twisted.internet import reactor as globalReactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from binaryserver.errors import BusError, BusUnavailable, ConfigError
from binaryserver.sqlitethread import SqliteThread

reactor: Any = globalReactor

READ_ONLY = """
import os, sys
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from binaryserver.errors import BusUnavailable, ConfigError
from binaryserver.sqlitethread import SqliteThread

async def main(reactor):
    # For root nothing is unwritable.
    if os.geteuid() == 0:
        os.seteuid(65534)
    try:
        await SqliteThread(reactor, "--bus", sys.argv[1], "", BusUnavailable, 5, 5).start()
    except ConfigError as error:
        print(error)

react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
"""

SCHEMA = "CREATE TABLE IF NOT EXISTS numbers (number INTEGER PRIMARY KEY) WITHOUT ROWID"


def insert(connection: sqlite3.Connection, number: int) -> int:
    """
    A job that succeeds once for each number.
    """
    connection.execute("INSERT INTO numbers VALUES (?)", (number,))
    return number


def insertAndBreak(connection: sqlite3.Connection, number: int) -> None:
    """
    A job with a bug in it, found half way.
    """
    insert(connection, number)
    raise KeyError(number)


def select(connection: sqlite3.Connection) -> list[int]:
    """
    What is there.
    """
    return [number for (number,) in connection.execute("SELECT number FROM numbers ORDER BY number")]


class SqliteThreadTests(TestCase):
    """
    Jobs, their transactions, and the end.
    """

    timeout = 30

    def setUp(self) -> None:
        """
        A file in a folder that is not there yet.
        """
        self.path = os.path.abspath(os.path.join(self.mktemp(), "folder", "file"))

    def makeThread(self, patience: float = 5.0, startTimeout: float = 5.0, path: str = "") -> SqliteThread:
        """
        A thread that is stopped at the end of the test.
        """
        thread = SqliteThread(reactor, "--bus", path or self.path, SCHEMA, BusUnavailable, startTimeout, patience)
        self.addCleanup(self.stop, thread)
        return thread

    def stop(self, thread: SqliteThread, timeout: float = 10.0) -> Deferred[None]:
        """
        Stop it.
        """
        return thread.stop(timeout, BusError("too late"))

    async def errorOf(self, deferred: Deferred[Any], kind: type[Exception]) -> Exception:
        """
        What a Deferred fails with.
        """
        error: Any = self.assertFailure(deferred, kind)
        return await error  # type: ignore[no-any-return]

    def hold(self, thread: SqliteThread) -> threading.Event:
        """
        Keep the thread busy until the event is set, so that what is called meanwhile is one transaction.
        """
        event = threading.Event()
        self.addCleanup(event.set)
        thread.call(lambda connection: event.wait(20)).addErrback(lambda failure: failure.trap(BusError))
        return event

    async def test_settings(self) -> None:
        """
        A commit is synced: write-ahead log, and synchronous is FULL (2).
        """
        thread = self.makeThread()
        await thread.start()
        answer = await thread.call(lambda c: (c.execute("PRAGMA journal_mode").fetchone()[0], synchronous(c)))
        self.assertEqual(answer, ("wal", 2))

    async def test_oneTransaction(self) -> None:
        """
        What waits is one transaction, and its answers come at once and in order.
        """
        thread = self.makeThread()
        await thread.start()
        event = self.hold(thread)
        fired: list[int] = []
        calls = [thread.call(insert, number).addCallback(fired.append) for number in range(50)]
        changes = thread.call(lambda connection: (connection.in_transaction, select(connection)))
        event.set()
        await gatherResults(calls)
        self.assertEqual(fired, list(range(50)))
        self.assertEqual(await changes, (True, list(range(50))))

    async def test_oneFailsAlone(self) -> None:
        """
        A job that fails among others is undone by itself, whether SQLite or the job had the trouble.
        """
        thread = self.makeThread()
        await thread.start()
        event = self.hold(thread)
        answers: list[object] = []
        for job, number in ((insert, 1), (insert, 1), (insertAndBreak, 2), (insert, 3)):
            thread.call(job, number).addBoth(answers.append)
        event.set()
        self.assertEqual(await thread.call(select), [1, 3])
        kinds = [answer.type if isinstance(answer, Failure) else answer for answer in answers]
        self.assertEqual(kinds, [1, sqlite3.IntegrityError, KeyError, 3])

    async def test_goesOnAfterABug(self) -> None:
        """
        A job alone that raises anything is undone, ends nothing, and leaves the file unlocked.
        """
        thread, other = self.makeThread(), self.makeThread(patience=0.0)
        await thread.start()
        await other.start()
        await self.errorOf(thread.call(insertAndBreak, 1), KeyError)
        self.assertEqual(await other.call(insert, 2), 2)
        self.assertEqual(await thread.call(insert, 3), 3)
        self.assertEqual(await thread.call(select), [2, 3])

    async def test_waitsForALock(self) -> None:
        """
        Another process's transaction is waited for; in the end the job fails, and later ones do not.
        """
        thread = self.makeThread(patience=0.1)
        await thread.start()
        lock = sqlite3.connect(self.path, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        error = await self.errorOf(thread.call(insert, 1), sqlite3.OperationalError)
        self.assertIn("locked", str(error))
        lock.close()
        self.assertEqual(await thread.call(insert, 2), 2)
        self.assertEqual(await thread.call(select), [2])

    async def test_callsOutsideItsLife(self) -> None:
        """
        A call before the start or after the stop fails; it does not wait for ever.
        """
        thread = self.makeThread()
        await self.errorOf(thread.call(insert, 1), sqlite3.ProgrammingError)
        await thread.start()
        before = thread.call(insert, 2)
        stopped = self.stop(thread)
        await self.errorOf(thread.call(insert, 3), sqlite3.ProgrammingError)
        self.assertEqual(await before, 2)
        await stopped
        await self.errorOf(thread.call(insert, 4), sqlite3.ProgrammingError)
        await self.stop(thread)

    async def test_stopGivesUp(self) -> None:
        """
        A thread that hangs, in a disk say, is left to itself in time: what waits fails with what the stop was given.
        """
        thread = self.makeThread()
        await thread.start()
        event = self.hold(thread)
        waiting = self.errorOf(thread.call(insert, 1), BusError)
        before = time.monotonic()
        await gatherResults([self.stop(thread, 0.2), self.stop(thread, 0.2)])
        self.assertLess(time.monotonic() - before, 5)
        self.assertEqual(str(await waiting), "too late")
        event.set()

    async def test_locked(self) -> None:
        """
        A file that another process keeps locked for the whole start is unavailable, not misconfigured.
        """
        thread = self.makeThread()
        await thread.start()
        lock = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(lock.close)
        lock.execute("BEGIN IMMEDIATE")
        error = await self.errorOf(self.makeThread(startTimeout=0.1).start(), BusUnavailable)
        self.assertEqual(str(error), f"--bus: {self.path}: another process keeps it locked")

    async def test_unwritable(self) -> None:
        """
        A file that may be read but not written is told at the start, not by the first commit.
        """
        # Not trial's own folder, which another user may not even pass through.
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        os.chmod(folder, 0o755)
        self.path = os.path.join(folder, "file")
        thread = self.makeThread()
        await thread.start()
        # The log's shared memory is there and may be written: without it not even reading works, which is told anyway.
        os.chmod(self.path, 0o444)
        for name in ("-wal", "-shm"):
            os.chmod(self.path + name, 0o666)
        process = subprocess.run(
            [sys.executable, "-c", READ_ONLY, self.path],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
            timeout=25,
            check=False,
        )
        self.assertEqual(process.stdout.decode(), f"--bus: {self.path}: attempt to write a readonly database\n")

    async def test_cannotBeOpened(self) -> None:
        """
        No database, a folder, a folder that cannot be made, no log possible: each is told with option, file and cause.
        """
        os.makedirs(self.path + ".folder")
        Path(self.path + ".garbage").write_bytes(b"this is no database, though it is long enough for one" * 100)
        for path, cause in (
            (self.path + ".garbage", "not a database"),
            (self.path + ".folder", "unable to open"),
            ("/dev/null/x/y", "Not a directory"),
            (":memory:", "write-ahead log"),
        ):
            thread = self.makeThread(path=path)
            error = await self.errorOf(thread.start(), ConfigError)
            self.assertTrue(str(error).startswith(f"--bus: {path}: "), str(error))
            self.assertIn(cause, str(error))
            await self.errorOf(thread.call(insert, 1), sqlite3.ProgrammingError)


def synchronous(connection: sqlite3.Connection) -> int:
    """
    How a connection syncs.
    """
    (level,) = connection.execute("PRAGMA synchronous").fetchone()
    return int(level)
