"""
The embedded bus: one SQLite file.

Records stand in one table in the order of their commits, whatever their topic and partition; a record's offset is its
place there. What gathers within C{--flush-interval} is one synced commit. Several processes may share the file.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from struct import Struct
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from binaryserver.bus.memorybus import MAX_RECORD, numbers, recordSize
from binaryserver.bus.partitioner import partition
from binaryserver.bus.sqlitereader import SqliteReader
from binaryserver.errors import BusError, ConfigError, RecordTooLarge
from binaryserver.interfaces import IBus, IBusReader
from binaryserver.model import Record
from binaryserver.plugins import BackEndContext
from binaryserver.sqlitethread import SqliteThread

_SCHEMA = """
CREATE TABLE IF NOT EXISTS topics (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, partitions INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS records (
    offset INTEGER PRIMARY KEY AUTOINCREMENT,
    topic INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    timestamp INTEGER NOT NULL,
    key BLOB NOT NULL,
    value BLOB NOT NULL,
    headers BLOB NOT NULL
);
"""
_DEFAULT_PARTITIONS = 8
_FLUSH_RECORDS = 1000
_FLUSH_BYTES = 1_048_576
_TRIM_EVERY = 30.0
_TRIM_PAUSE = 0.02
_TRIM_ROWS = 250
_DAY_MS = 86_400_000
_HEADER = Struct(">HI")

_Flushes = list[tuple[int, int, Sequence[Record], int, Deferred[None]]]
"""Number of the topic, partition, records, bytes, and what to fire."""


def encodeHeaders(headers: Sequence[tuple[str, bytes]]) -> bytes:
    """
    Headers as one blob: for each the lengths of name and value, and both.
    """
    parts: list[bytes] = []
    for name, value in headers:
        encoded = name.encode()
        parts += (_HEADER.pack(len(encoded), len(value)), encoded, value)
    return b"".join(parts)


@implementer(IBus)
class SqliteBus:
    """
    C{sqlite:PATH[?retention_days=7][&retention_mib=1024]}
    """

    log = Logger()
    maxRecord = MAX_RECORD

    def __init__(self, spec: str, context: BackEndContext) -> None:
        path, _, query = spec.partition(":")[2].partition("?")
        if not path:
            raise ConfigError(context.option, f"{spec!r}: the form is sqlite:PATH")
        settings = numbers(spec, query, context, {"retention_days": 7, "retention_mib": 1024})
        self._keptMs = settings["retention_days"] * _DAY_MS
        self._keptBytes = settings["retention_mib"] << 20
        self._context = context
        self._clock = context.reactor
        arguments = (context.reactor, context.option, path, _SCHEMA, context.batchDeadline)
        self._writer = SqliteThread(*arguments)
        self._reading = SqliteThread(*arguments, writes=False)
        self._topics: dict[str, tuple[int, int]] = {}
        self._gathered: _Flushes = []
        self._gatheredSize = 0
        self._gatheredRecords = 0
        self._flushing: IDelayedCall | None = None
        self._trimming: IDelayedCall | None = None
        self._readers: set[SqliteReader] = set()
        self._isRunning = False
        self._stopped: Deferred[None] | None = None
        self.pendingBytes = 0

    # Life.

    def start(self) -> Deferred[None]:
        """
        See L{IBus.start}.
        """
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        await self._open()
        await self._writer.call(_makeTopics, self._context.topics, _DEFAULT_PARTITIONS)
        self._topics = await self._writer.call(_readTopics)
        await self._reading.start()
        self._isRunning = True
        self._trimming = self._clock.callLater(_TRIM_EVERY, self._trim)

    async def _open(self) -> None:
        await self._writer.start()

    def stop(self) -> Deferred[None]:
        """
        See L{IBus.stop}.
        """
        if self._stopped is None:
            self._stopped = Deferred.fromCoroutine(self._stop())
        return _branch(self._stopped)

    async def _stop(self) -> None:
        wasRunning, self._isRunning = self._isRunning, False
        for timer in (self._trimming, self._flushing):
            if timer is not None and timer.active():
                timer.cancel()
        for reader in list(self._readers):
            await reader.close()
        self._flush()
        giveUp = self._clock.callLater(
            self._context.stopTimeout, self._writer.abandon, BusError("the gateway stopped before it was committed")
        )
        if wasRunning:
            await self._reading.stop()
        ended = self._writer.stop()
        await ended
        if giveUp.active():
            giveUp.cancel()

    # Publishing.

    def partitionFor(self, topic: str, key: bytes) -> int:
        """
        See L{IBus.partitionFor}.
        """
        return partition(key, self._topics[topic][1])

    def publish(self, topic: str, partition: int, records: Sequence[Record]) -> Deferred[None]:
        """
        See L{IBus.publish}.
        """
        if not self._isRunning:
            return fail(BusError("the bus is stopped"))
        number, partitions = self._topics.get(topic, (0, 0))
        if not 0 <= partition < partitions:
            return fail(BusError(f"there is no partition {partition} of {topic}"))
        if not records:
            return succeed(None)
        sizes = list(map(recordSize, records))
        if max(sizes) > MAX_RECORD:
            return fail(RecordTooLarge(f"a record has {max(sizes)} bytes, {MAX_RECORD} at most"))
        size = sum(sizes)
        done: Deferred[None] = Deferred()
        self.pendingBytes += size
        self._gathered.append((number, partition, records, size, done))
        self._gatheredSize += size
        self._gatheredRecords += len(records)
        if self._gatheredSize >= _FLUSH_BYTES or self._gatheredRecords >= _FLUSH_RECORDS:
            self._flush()
        elif self._flushing is None:
            self._flushing = self._clock.callLater(self._context.flushInterval, self._flush)
        return done

    def _flush(self) -> None:
        if self._flushing is not None and self._flushing.active():
            self._flushing.cancel()
        self._flushing = None
        gathered, self._gathered = self._gathered, []
        self._gatheredSize = self._gatheredRecords = 0
        if gathered:
            self._writer.call(_insert, gathered).addCallbacks(
                self._committed, self._failed, callbackArgs=(gathered,), errbackArgs=(gathered,)
            )

    def _committed(self, _: object, flushes: _Flushes) -> None:
        self.pendingBytes -= sum(flush[3] for flush in flushes)
        for *_, done in flushes:
            done.callback(None)
        for reader in list(self._readers):
            reader.notice()

    def _failed(self, failure: Failure, flushes: _Flushes) -> None:
        failure.trap(sqlite3.Error, BusError)
        self.pendingBytes -= sum(flush[3] for flush in flushes)
        for *_, done in flushes:
            done.errback(BusError(f"SQLite: {failure.getErrorMessage()}"))

    # Retention.

    def _trim(self) -> None:
        if self._trimming is not None and self._trimming.active():
            self._trimming.cancel()
        trimmed = self._writer.call(_deleteOld, time.time_ns() // 1_000_000 - self._keptMs, self._keptBytes)
        trimmed.addCallbacks(self._trimmed, self._trimFailed)

    def _trimmed(self, isMore: bool) -> None:
        if self._isRunning:
            self._trimming = self._clock.callLater(_TRIM_PAUSE if isMore else _TRIM_EVERY, self._trim)

    def _trimFailed(self, failure: Failure) -> None:
        self.log.error("old records could not be deleted: {reason}", reason=failure.getErrorMessage())
        self._trimmed(False)

    # The rest.

    def createTopics(self, topics: Sequence[str], partitions: int, replication: int) -> Deferred[list[str]]:
        """
        See L{IBus.createTopics}.
        """
        return Deferred.fromCoroutine(self._createTopics(topics, partitions))

    async def _createTopics(self, topics: Sequence[str], partitions: int) -> list[str]:
        if self._isRunning:
            made: list[str] = await self._writer.call(_makeTopics, topics, partitions)
            self._topics = await self._writer.call(_readTopics)
            return made
        path = self._writer.path
        alone = SqliteThread(self._clock, self._context.option, path, _SCHEMA, self._context.startTimeout)
        await alone.start()
        made = await alone.call(_makeTopics, topics, partitions)
        await alone.stop()
        return made

    def openReader(self, topics: Sequence[str], fromStart: bool) -> Deferred[IBusReader]:
        """
        See L{IBus.openReader}.
        """
        missing = [topic for topic in topics if topic not in self._topics]
        if missing or not self._isRunning:
            return fail(BusError(f"there is no topic {missing[0]}" if missing else "the bus is stopped"))
        names = {self._topics[topic][0]: topic for topic in topics}

        def opened(end: int) -> IBusReader:
            reader = SqliteReader(
                self._clock, self._reading, names, 0 if fromStart else end, end, self._readers.discard
            )
            self._readers.add(reader)
            return reader

        return self._reading.call(_lastOffset).addCallback(opened)


def _branch(shared: Deferred[None]) -> Deferred[None]:
    """
    A Deferred that fires when another does.
    """
    branch: Deferred[None] = Deferred()

    def fired(result: Any) -> Any:
        branch.callback(None)
        return result

    shared.addBoth(fired)
    return branch


# In the thread.


def _readTopics(connection: sqlite3.Connection) -> dict[str, tuple[int, int]]:
    rows = connection.execute("SELECT name, id, partitions FROM topics")
    return {name: (number, partitions) for name, number, partitions in rows}


def _makeTopics(connection: sqlite3.Connection, topics: Sequence[str], partitions: int) -> list[str]:
    known = _readTopics(connection)
    made = [topic for topic in topics if topic not in known]
    connection.executemany(
        "INSERT INTO topics (name, partitions) VALUES (?, ?)", [(topic, partitions) for topic in made]
    )
    return made


def _insert(connection: sqlite3.Connection, flushes: _Flushes) -> None:
    now = time.time_ns() // 1_000_000
    connection.executemany(
        "INSERT INTO records (topic, partition, timestamp, key, value, headers) VALUES (?, ?, ?, ?, ?, ?)",
        [
            (topic, place, now, record.key, record.value, encodeHeaders(record.headers))
            for topic, place, records, _, _ in flushes
            for record in records
        ],
    )


def _deleteOld(connection: sqlite3.Connection, before: int, keptBytes: int) -> bool:
    """
    Delete a step's worth of the oldest records, where they are too old or too many.

    @return: whether there is more to do
    """
    last, oldest = connection.execute(
        "SELECT max(offset), min(timestamp) FROM (SELECT offset, timestamp FROM records ORDER BY offset LIMIT ?)",
        (_TRIM_ROWS,),
    ).fetchone()
    if last is None:
        return False
    used, free, page = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    if (used - free) * page > keptBytes:
        connection.execute("DELETE FROM records WHERE offset <= ?", (last,))
        return True
    if oldest < before:
        deleted = connection.execute("DELETE FROM records WHERE offset <= ? AND timestamp < ?", (last, before))
        return deleted.rowcount == _TRIM_ROWS
    return False


def _lastOffset(connection: sqlite3.Connection) -> int:
    (last,) = connection.execute("SELECT coalesce(max(offset), 0) FROM records").fetchone()
    return int(last)
