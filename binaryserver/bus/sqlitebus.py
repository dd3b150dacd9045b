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

from twisted.internet.defer import CancelledError, Deferred, fail, gatherResults, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from binaryserver.bus.memorybus import MAX_RECORD, numbers, recordSize
from binaryserver.bus.partitioner import partition
from binaryserver.bus.sqliteconsumer import SCHEMA as CONSUMER_SCHEMA
from binaryserver.bus.sqliteconsumer import SqliteConsumer
from binaryserver.bus.sqliteerasing import eraseKey, lastOffset
from binaryserver.bus.sqlitereader import SqliteReader
from binaryserver.errors import BusError, BusUnavailable, ConfigError, RecordTooLarge
from binaryserver.interfaces import IBus, IBusConsumer, IBusReader
from binaryserver.model import Record
from binaryserver.plugins import BackEndContext
from binaryserver.sqlitelog import deleteForGood
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

# What one step of the trimming deletes at most: a few ms of the writer's time, and more a second than can be written.
_TRIM_ROWS = 2000
_TRIM_BYTES = 2_097_152

# How many flushes one commit may hold when they come faster than the disk takes them.
_MERGED = 16
_DAY_MS = 86_400_000

# s that a stop waits for a query; the longest goes through 20000 records.
_READING_END = 2.0

# s that a stop waits for consumers to leave their groups.
_LEAVING = 5.0
_HEADER = Struct(">HI")
_LONGEST_NAME = 65_535

_Flushes = list[tuple[int, int, Sequence[Record], int, Deferred[None]]]
"""Number of the topic, partition, records, bytes, and what to fire."""


def encodeHeaders(headers: Sequence[tuple[str, bytes]]) -> bytes:
    """
    Headers as one blob: for each the lengths of name and value, and both.

    @raise RecordTooLarge: a name has more than 65535 bytes
    """
    parts: list[bytes] = []
    for name, value in headers:
        encoded = name.encode()
        if len(encoded) > _LONGEST_NAME:
            raise RecordTooLarge(f"the name of a header has {len(encoded)} bytes, {_LONGEST_NAME} at most")
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
        self._path = path
        self._writer = self._thread(merged=_MERGED)
        self._reading = self._thread(writes=False)
        self._topics: dict[str, tuple[int, int]] = {}
        self._gathered: _Flushes = []
        self._gatheredSize = 0
        self._gatheredRecords = 0
        self._flushing: IDelayedCall | None = None
        self._trimming: IDelayedCall | None = None
        self._readers: set[SqliteReader] = set()
        self._consumers: set[SqliteConsumer] = set()
        self._erasing: set[Deferred[int]] = set()
        self._isRunning = False
        self._stopped: Deferred[None] | None = None
        self.pendingBytes = 0

    # Life.

    def start(self) -> Deferred[None]:
        """
        See L{IBus.start}.
        """
        return Deferred.fromCoroutine(self._start())

    def _thread(self, writes: bool = True, merged: int = 1) -> SqliteThread:
        context = self._context
        return SqliteThread(
            context.reactor,
            context.option,
            self._path,
            _SCHEMA + CONSUMER_SCHEMA,
            BusUnavailable,
            context.startTimeout,
            context.batchDeadline,
            writes,
            merged,
        )

    async def _start(self) -> None:
        try:
            await self._writer.start()
            await self._writer.call(deleteForGood)
            await self._writer.call(_makeTopics, self._context.topics, _DEFAULT_PARTITIONS)
            self._topics = await self._writer.call(_readTopics)
            await self._reading.start()
            await self._reading.call(_readEnds)
        except (sqlite3.Error, BusError, ConfigError) as error:
            await self._close()
            if isinstance(error, sqlite3.Error):
                raise ConfigError(self._context.option, f"{self._path}: {error}") from error
            raise
        if self._stopped is None:
            self._isRunning = True
            self._trimming = self._clock.callLater(_TRIM_EVERY, self._trim)

    def stop(self) -> Deferred[None]:
        """
        See L{IBus.stop}.
        """
        if self._stopped is None:
            self._stopped = Deferred.fromCoroutine(self._stop())
        return _branch(self._stopped)

    async def _stop(self) -> None:
        self._isRunning = False
        if self._trimming is not None and self._trimming.active():
            self._trimming.cancel()
        for erasing in list(self._erasing):
            erasing.cancel()
        for reader in list(self._readers):
            await reader.close()
        self._flush()
        patience = min(_LEAVING, self._context.stopTimeout / 2)
        await gatherResults([consumer.close(patience) for consumer in self._consumers])
        await self._close()

    async def _close(self) -> None:
        late = BusError("the gateway stopped before it was committed")
        # One after the other: the last connection to close brings the write-ahead log into the file, and of two that
        # close at once neither is the last.
        deadline = self._clock.seconds() + self._context.stopTimeout
        await self._reading.stop(min(_READING_END, self._context.stopTimeout / 2), late)
        await self._writer.stop(deadline - self._clock.seconds(), late)

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
        for consumer in list(self._consumers):
            consumer.notice()

    def _failed(self, failure: Failure, flushes: _Flushes) -> None:
        if not failure.check(sqlite3.Error, BusError):
            self.log.failure("a flush could not be written", failure)
        self.pendingBytes -= sum(flush[3] for flush in flushes)
        for *_, done in flushes:
            done.errback(_busError(failure.value))

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

    def erase(self, key: bytes) -> Deferred[int | None]:
        """
        See L{IBus.erase}.
        """
        if not self._isRunning:
            return fail(BusError("the bus is stopped"))
        self._flush()
        erasing = Deferred.fromCoroutine(eraseKey(self._clock, self._reading, self._writer, key))
        self._erasing.add(erasing)

        def ended(result: int | Failure) -> int | Failure:
            self._erasing.discard(erasing)
            if not isinstance(result, Failure):
                return result
            result.trap(sqlite3.Error, BusError, CancelledError)
            stopped = BusError("the bus was stopped before all was erased")
            return Failure(stopped if result.check(CancelledError) else _busError(result.value))

        return erasing.addBoth(ended)

    # The rest.

    def createTopics(self, topics: Sequence[str], partitions: int, replication: int) -> Deferred[list[str]]:
        """
        See L{IBus.createTopics}.
        """
        return Deferred.fromCoroutine(self._createTopics(topics, partitions))

    async def _createTopics(self, topics: Sequence[str], partitions: int) -> list[str]:
        thread = self._writer
        if not self._isRunning:
            thread = self._thread()
            await thread.start()
        try:
            made: list[str] = await thread.call(_makeTopics, topics, partitions)
            self._topics = await thread.call(_readTopics)
        except sqlite3.Error as error:
            raise _busError(error) from error
        finally:
            if thread is not self._writer:
                await thread.stop(self._context.stopTimeout, BusError("the topics were not made in time"))
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

        def failed(failure: Failure) -> Failure:
            failure.trap(sqlite3.Error)
            return Failure(_busError(failure.value))

        return self._reading.call(lastOffset).addCallbacks(opened, failed)

    def openConsumer(self, topics: Sequence[str], group: str) -> Deferred[IBusConsumer]:
        """
        See L{IBus.openConsumer}.
        """
        missing = [topic for topic in topics if topic not in self._topics]
        if missing or not self._isRunning:
            return fail(BusError(f"there is no topic {missing[0]}" if missing else "the bus is stopped"))
        known = {topic: self._topics[topic] for topic in topics}
        consumer = SqliteConsumer(self._clock, self._reading, self._writer, known, group, self._consumerClosed)
        self._consumers.add(consumer)

        def failed(failure: Failure) -> Failure:
            self._consumers.discard(consumer)
            return failure

        return consumer.open().addErrback(failed)

    def _consumerClosed(self, closed: SqliteConsumer) -> None:
        self._consumers.discard(closed)
        for consumer in list(self._consumers):
            consumer.vacated()


def _busError(error: BaseException | None) -> BusError:
    """
    What a caller is told: one error a flush, since each gets a history of its own.
    """
    return type(error)(str(error)) if isinstance(error, BusError) else BusError(f"SQLite: {error}")


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
    first, newest = connection.execute("SELECT (SELECT min(offset) FROM records), max(offset) FROM records").fetchone()
    if first is None:
        return False
    pages, free, page = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    used = (pages - free) * page
    excess = used - keptBytes
    # What a record takes of the file: more than its bytes.
    mean = used / (newest - first + 1)
    # The newest one stays: by it a reader that is behind tells that what it missed is gone. The length of a value
    # stands before it, so what is to go need not be read for this.
    rows = connection.execute(
        "SELECT offset, timestamp, length(key) + length(value) + length(headers) FROM records "
        "WHERE offset < ? ORDER BY offset LIMIT ?",
        (newest, _TRIM_ROWS),
    ).fetchall()
    last = size = count = 0
    for offset, timestamp, length in rows:
        if size >= _TRIM_BYTES or (timestamp >= before and max(size, count * mean) >= excess):
            break
        last, size, count = offset, size + length, count + 1
    if last:
        connection.execute("DELETE FROM records WHERE offset <= ?", (last,))
    return count > 0 and (excess > 0 or size >= _TRIM_BYTES or count == _TRIM_ROWS)


def _readEnds(connection: sqlite3.Connection) -> None:
    """
    Look at the oldest and the newest record: a file that was cut short is told at the start.
    """
    for order in ("ASC", "DESC"):
        connection.execute(f"SELECT * FROM records ORDER BY offset {order} LIMIT 1").fetchall()
