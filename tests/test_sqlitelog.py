"""
Tests for L{binaryserver.sqlitelog}; that nothing is left of what was deleted is tested with what deletes it.
"""

from __future__ import annotations

import os
import sqlite3
from typing import Any

from twisted.internet import reactor as globalReactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import TestCase

from binaryserver import sqlitelog, sqlitethread
from binaryserver.errors import LocalError
from binaryserver.sqlitelog import emptyLog
from binaryserver.sqlitethread import SqliteThread

reactor: Any = globalReactor


class EmptyLogTests(TestCase):
    """
    Somebody else has the file open.
    """

    timeout = 30

    async def opened(self) -> SqliteThread:
        """
        A thread that only reads, over a file whose log has something in it.
        """
        self.patch(sqlitethread, "_BUSY_STEP", 0.01)
        path = self.mktemp()
        thread = SqliteThread(
            reactor, "--bus", path, "CREATE TABLE IF NOT EXISTS t (x)", LocalError, 5.0, 5.0, writes=False
        )
        self.addCleanup(thread.stop, 5.0, LocalError("late"))
        await thread.start()
        self.other = sqlite3.connect(path, isolation_level=None)
        self.addCleanup(self.other.close)
        self.other.execute("INSERT INTO t VALUES (1)")
        self.assertGreater(os.path.getsize(f"{path}-wal"), 0)
        return thread

    async def test_atOnce(self) -> None:
        """
        Nobody reads or writes: one try does.
        """
        thread = await self.opened()
        await emptyLog(Clock(), thread)
        self.assertEqual(os.path.getsize(f"{thread.path}-wal"), 0)

    async def test_again(self) -> None:
        """
        It is tried again, a moment later, until the transaction of somebody else has ended.
        """
        thread = await self.opened()
        self.other.execute("BEGIN")
        self.other.execute("SELECT * FROM t").fetchall()
        clock = Clock()
        done = Deferred.fromCoroutine(emptyLog(clock, thread))
        for _ in range(3):
            while not clock.getDelayedCalls():
                await deferLater(reactor, 0.01, lambda: None)
            self.assertFalse(done.called)
            clock.advance(sqlitelog._PAUSE)
        self.other.execute("COMMIT")
        while not done.called:
            clock.advance(sqlitelog._PAUSE)
            await deferLater(reactor, 0.01, lambda: None)
        self.assertEqual(os.path.getsize(f"{thread.path}-wal"), 0)

    async def test_givesUp(self) -> None:
        """
        After so many tries it says that the log still has what was deleted.
        """
        self.patch(sqlitelog, "_TRIES", 2)
        self.patch(sqlitelog, "_PAUSE", 0.0)
        thread = await self.opened()
        self.other.execute("BEGIN IMMEDIATE")
        failing: Any = self.assertFailure(Deferred.fromCoroutine(emptyLog(reactor, thread)), sqlite3.OperationalError)
        self.assertIn(f"{thread.path}-wal", str(await failing))
