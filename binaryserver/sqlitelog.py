"""
What it takes for deleted bytes to be in no file any more: SQLite leaves them in the pages, and in the write-ahead log.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from twisted.internet.task import deferLater

from binaryserver.sqlitethread import SqliteThread

_TRIES = 20
_PAUSE = 0.1
"""s between two tries; each waits by itself for as long as SQLite waits for a lock."""


def deleteForGood(connection: sqlite3.Connection) -> None:
    """
    In the thread: have this connection overwrite what it deletes from now on.
    """
    connection.execute("PRAGMA secure_delete = ON")


async def emptyLog(clock: Any, thread: SqliteThread) -> None:
    """
    Bring the write-ahead log into the file, and empty it.

    @param thread: one that only reads: there must be no transaction
    @raise sqlite3.Error: somebody reads or writes all the time, or the disk failed
    """
    for _ in range(_TRIES):
        if await thread.call(_emptied):
            return
        await deferLater(clock, _PAUSE, lambda: None)
    raise sqlite3.OperationalError(f"{thread.path}-wal still has what was deleted: the file is in use all the time")


def _emptied(connection: sqlite3.Connection) -> bool:
    isBusy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not isBusy
