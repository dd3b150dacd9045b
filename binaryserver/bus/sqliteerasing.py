"""
The removal of a key's records from the embedded bus. There is no index by key: all of the file is gone through, in
steps that keep neither readers nor the writer waiting.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from binaryserver.sqlitelog import emptyLog
from binaryserver.sqlitethread import SqliteThread

# How many offsets one step goes through, and how much it deletes at most: it takes some ms.
_STRIDE = 5000
_STEP_BYTES = 2_097_152


async def eraseKey(clock: Any, reading: SqliteThread, writing: SqliteThread, key: bytes) -> int:
    """
    Remove what is in the file, and behind all that C{writing} was given before.

    @param reading: a thread that only reads
    @param writing: one whose connection overwrites what it deletes
    @return: how many records were removed
    @raise sqlite3.Error: maybe not all of them are
    """
    position, last = await writing.call(_ends)
    removed = 0
    while position < last:
        offsets, position = await reading.call(_find, key, position, last)
        if offsets:
            removed += await writing.call(_remove, offsets)
    await emptyLog(clock, reading)
    return removed


# In the threads.


def lastOffset(connection: sqlite3.Connection) -> int:
    """
    The highest offset that was ever given, whether or not its record is still there; 0: none.
    """
    (last,) = connection.execute(
        "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'records'), 0)"
    ).fetchone()
    return int(last)


def _ends(connection: sqlite3.Connection) -> tuple[int, int]:
    (first,) = connection.execute("SELECT coalesce(min(offset), 1) FROM records").fetchone()
    return first - 1, lastOffset(connection)


def _find(connection: sqlite3.Connection, key: bytes, position: int, last: int) -> tuple[list[int], int]:
    """
    The offsets of a key's next records, and how far that went.
    """
    until = min(last, position + _STRIDE)
    # The key and the length of the value stand before the value, which need not be read.
    found = connection.execute(
        "SELECT offset, length(value) FROM records WHERE offset > ? AND offset <= ? AND key = ? ORDER BY offset",
        (position, until, key),
    )
    offsets, size = [], 0
    for offset, length in found:
        offsets.append(offset)
        size += length
        if size >= _STEP_BYTES:
            return offsets, offset
    return offsets, until


def _remove(connection: sqlite3.Connection, offsets: Sequence[int]) -> int:
    # Another process may have trimmed some of them meanwhile.
    return connection.executemany("DELETE FROM records WHERE offset = ?", [(offset,) for offset in offsets]).rowcount
