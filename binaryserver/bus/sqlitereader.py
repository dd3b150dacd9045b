"""
The embedded bus read back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from struct import Struct
from struct import error as StructError
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure
from zope.interface import implementer

from binaryserver.bus.sqliteerasing import lastOffset
from binaryserver.errors import BusError
from binaryserver.interfaces import IBusReader
from binaryserver.model import StoredRecord
from binaryserver.sqlitethread import SqliteThread

_POLL = 0.1
_POLLS = 5

# How many offsets one query goes through: topics that are asked for may be rare among the others.
_STRIDE = 20_000
_MOST_BYTES = 4_194_304
_HEADER = Struct(">HI")


def decodeHeaders(blob: bytes) -> tuple[tuple[str, bytes], ...]:
    """
    The opposite of L{binaryserver.bus.sqlitebus.encodeHeaders}.

    @raise BusError: the blob is damaged
    """
    headers = []
    at = 0
    try:
        while at < len(blob):
            name, value = _HEADER.unpack_from(blob, at)
            at += _HEADER.size
            headers.append((blob[at : at + name].decode(), blob[at + name : at + name + value]))
            at += name + value
    except (StructError, UnicodeDecodeError) as error:
        raise BusError(f"the headers of a record are damaged: {error}") from error
    return tuple(headers)


@implementer(IBusReader)
class SqliteReader:
    """
    Goes through the records by their offsets. What other processes commit is seen by polling.
    """

    def __init__(
        self,
        clock: Any,
        thread: SqliteThread,
        topics: Mapping[int, str],
        position: int,
        end: int,
        closed: Callable[[SqliteReader], None],
    ) -> None:
        """
        @param topics: names by number
        @param position: the last offset that is not to be read
        @param end: the last offset that stood there at the opening
        """
        self._clock = clock
        self._thread = thread
        self._topics = topics
        self._position = position
        self._end = end
        self._closed = closed
        self._isClosed = False
        self._limit = 0
        self._polls = 0
        self._answer: Deferred[list[StoredRecord]] | None = None
        self._poll: IDelayedCall | None = None

    @property
    def caughtUp(self) -> bool:
        """
        See L{IBusReader.caughtUp}.
        """
        return self._position >= self._end

    def read(self, limit: int) -> Deferred[list[StoredRecord]]:
        """
        See L{IBusReader.read}.
        """
        if self._isClosed:
            return succeed([])
        answer: Deferred[list[StoredRecord]] = Deferred()
        self._answer, self._limit, self._polls = answer, limit, 0
        self._query()
        return answer

    def _query(self) -> None:
        self._poll = None
        found = self._thread.call(selectRecords, tuple(self._topics), self._position, self._limit)
        found.addCallbacks(self._found, self._failed)

    def _found(self, found: tuple[list[Any], int, bool]) -> None:
        if self._answer is None:
            return
        rows, position, isMore = found
        try:
            records = [
                StoredRecord(self._topics[topic], place, offset, timestamp, key, value, decodeHeaders(headers))
                for offset, topic, place, timestamp, key, value, headers in rows
            ]
        except BusError as error:
            answer, self._answer = self._answer, None
            answer.errback(error)
            return
        self._position = max(self._position, position)
        if records:
            self._fire(records)
        elif isMore:
            self._query()
        elif self._polls == _POLLS:
            self._fire([])
        else:
            self._polls += 1
            self._poll = self._clock.callLater(_POLL, self._query)

    def _failed(self, failure: Failure) -> None:
        failure.trap(sqlite3.Error, BusError)
        if self._answer is not None:
            answer, self._answer = self._answer, None
            answer.errback(BusError(f"SQLite: {failure.getErrorMessage()}"))

    def _fire(self, records: list[StoredRecord]) -> None:
        assert self._answer is not None
        answer, self._answer = self._answer, None
        answer.callback(records)

    def notice(self) -> None:
        """
        This process has committed something.
        """
        if self._poll is not None:
            self._poll.cancel()
            self._query()

    def close(self) -> Deferred[None]:
        """
        See L{IBusReader.close}.
        """
        if not self._isClosed:
            self._isClosed = True
            self._closed(self)
            if self._poll is not None:
                self._poll.cancel()
                self._poll = None
            if self._answer is not None:
                self._fire([])
        return succeed(None)


def selectRecords(
    connection: sqlite3.Connection, topics: tuple[int, ...], position: int, limit: int
) -> tuple[list[Any], int, bool]:
    """
    In the thread: the next records, how far that went, and whether there is more behind it.
    """
    # Not that of the last record, which may have been erased.
    last = lastOffset(connection)
    (first,) = connection.execute("SELECT coalesce(min(offset), 0) FROM records").fetchone()
    start = max(position, first - 1)
    until = min(last, start + _STRIDE)
    marks = ", ".join("?" * len(topics))
    found = connection.execute(
        "SELECT offset, topic, partition, timestamp, key, value, headers FROM records "
        f"WHERE offset > ? AND offset <= ? AND topic IN ({marks}) ORDER BY offset LIMIT ?",
        (start, until, *topics, limit),
    )
    rows, size = [], 0
    isWhole = True
    for row in found:
        rows.append(row)
        size += len(row[5])
        if size > _MOST_BYTES:
            isWhole = False
            break
    reached = until if isWhole and len(rows) < limit else rows[-1][0]
    return rows, reached, reached < last
