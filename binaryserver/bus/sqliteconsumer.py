"""
Consumer groups of the embedded bus.

One member of a group at a time is active and reads all partitions; the others stand by. The active one holds the
group's row by raising its beat: whoever has seen a beat unchanged for L{LEASE} seconds of its own clock takes the row
over, so that clocks need not agree. Offsets are written with the beat, in one transaction with the check that the row
is still the member's.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Any
from uuid import uuid4

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from binaryserver.bus.sqlitereader import decodeHeaders, selectRecords
from binaryserver.errors import BusError
from binaryserver.interfaces import IBusConsumer
from binaryserver.model import StoredRecord
from binaryserver.sqlitethread import SqliteThread

LEASE = 7.0
"""s without a beat after which another member takes over"""
_BEAT = 2.0
_COMMIT = 0.5
_WATCH = 0.1
_PATIENCE = 0.5

# s between looks at the write-ahead log for what other processes wrote, and the most between queries: a file's time is
# no finer than the kernel's tick.
_LOOK = 0.01
_QUERY = 0.1

SCHEMA = """
CREATE TABLE IF NOT EXISTS consumer_groups (name TEXT PRIMARY KEY, member TEXT, beat INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS consumer_offsets (
    name TEXT NOT NULL,
    topic INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    next INTEGER NOT NULL,
    PRIMARY KEY (name, topic, partition)
) WITHOUT ROWID;
"""

_Place = tuple[int, int]
"""Number of the topic, and partition."""
_Beat = tuple[str | None, int]
"""Who holds a group's row, and its beat."""


class _State(Enum):
    """
    What a member is to its group.
    """

    standby = auto()
    active = auto()
    closed = auto()


@implementer(IBusConsumer)
class SqliteConsumer:
    """
    A member of a group.
    """

    log = Logger()
    lag = None

    def __init__(
        self,
        clock: Any,
        reading: SqliteThread,
        writing: SqliteThread,
        topics: Mapping[str, tuple[int, int]],
        group: str,
        closed: Callable[[SqliteConsumer], None],
    ) -> None:
        """
        @param topics: number and partitions, by name
        @param closed: called once its group is free
        """
        self._clock = clock
        self._reading = reading
        self._writing = writing
        self._wal = f"{reading.path}-wal"
        self._names = {number: name for name, (number, _) in topics.items()}
        self._numbers = {name: number for name, (number, _) in topics.items()}
        self._places = [(number, place) for number, count in topics.values() for place in range(count)]
        self._group = group
        self._member = uuid4().hex
        self._whenClosed = closed
        self._state = _State.standby
        self._closed: Deferred[None] | None = None
        # Of the lease.
        self._upkeep: IDelayedCall | None = None
        self._isBusy = False
        self._isTroubled = False
        self._confirmed = 0.0
        self._seen: _Beat | None = None
        self._seenAt = 0.0
        # Of the offsets: what is done with, what was given out, and what is written, by place.
        self._done: dict[_Place, int] = {}
        self._given: dict[_Place, int] = {}
        self._written: dict[_Place, int] = {}
        self._position = 0
        self._term = 0
        self._hasCommitted = False
        # Of the reading.
        self._answer: Deferred[list[StoredRecord]] | None = None
        self._limit = 0
        self._giveUp: IDelayedCall | None = None
        self._look: IDelayedCall | None = None
        self._lookUntil = 0.0
        self._stamp: tuple[int, int] = (0, 0)
        self._isQuerying = False
        self._isNoticed = False

    def open(self) -> Deferred[IBusConsumer]:
        """
        Take the group if nobody has it, or stand by.
        """
        began = self._clock.seconds()

        def opened(answer: tuple[_Beat, dict[_Place, int] | None]) -> IBusConsumer:
            self._acquired(answer, began)
            self._schedule()
            return self

        def failed(failure: Failure) -> Failure:
            failure.trap(sqlite3.Error, BusError)
            return Failure(BusError(f"SQLite: {failure.getErrorMessage()}"))

        return self._writing.call(_acquire, self._group, self._member, None).addCallbacks(opened, failed)

    # The lease.

    def _schedule(self, delay: float | None = None) -> None:
        if self._state is _State.closed or self._isBusy:
            return
        if delay is None:
            delay = _WATCH
            if self._state is _State.active:
                delay = _COMMIT if self._hasCommitted else _BEAT
        if self._upkeep is not None and self._upkeep.active():
            self._upkeep.cancel()
        self._upkeep = self._clock.callLater(delay, self._keepUp)

    def _keepUp(self) -> None:
        self._upkeep = None
        self._isBusy = True
        began = self._clock.seconds()
        if self._state is _State.active:
            rows = self._rows()
            self._hasCommitted = False
            job = self._writing.call(_renew, self._group, self._member, self._changed(rows))
            job.addCallback(self._renewed, rows, began, self._term)
        else:
            job = self._reading.call(_beatOf, self._group).addCallback(self._watched)
        job.addErrback(self._upkeepFailed).addBoth(self._keptUp)

    def _keptUp(self, _: object) -> None:
        self._isBusy = False
        self._schedule()

    def _upkeepFailed(self, failure: Failure) -> None:
        if not failure.check(sqlite3.Error, BusError):
            self.log.failure("the keeping of a consumer group is at fault", failure)
        elif not self._isTroubled and self._state is not _State.closed:
            self._isTroubled = True
            self.log.warn("a consumer group cannot be kept: {reason}", reason=failure.getErrorMessage())

    def _renewed(self, isOurs: bool, rows: dict[_Place, int], began: float, term: int) -> None:
        self._isTroubled = False
        if term != self._term:
            return
        if isOurs:
            self._written.update(rows)
            self._confirmed = began
            if self._answer is not None and self._look is None:
                self._query()
        elif self._state is _State.active:
            self.log.warn("consumer group {group} went to another member", group=self._group)
            self._stand(None)

    def _stand(self, seen: _Beat | None) -> None:
        """
        Be one of those who wait.
        """
        self._state = _State.standby
        self._term += 1
        self._seen, self._seenAt = seen, self._clock.seconds()

    def _watched(self, beat: _Beat | None) -> Deferred[None] | None:
        self._isTroubled = False
        now = self._clock.seconds()
        if self._state is not _State.standby:
            return None
        if beat is not None and beat[0] is not None:
            if beat != self._seen:
                self._seen, self._seenAt = beat, now
                return None
            if now - self._seenAt < LEASE:
                return None
        taken = self._writing.call(_acquire, self._group, self._member, beat)
        return taken.addCallback(self._acquired, now)

    def _acquired(self, answer: tuple[_Beat, dict[_Place, int] | None], began: float) -> None:
        beat, offsets = answer
        if self._state is not _State.standby:
            return
        if offsets is None:
            self._stand(beat)
            return
        self._state = _State.active
        self._term += 1
        self._confirmed = began
        self._written = {place: offsets.get(place, 0) for place in self._places}
        self._done = dict(self._written)
        self._given = {}
        self._hasCommitted = False
        self._position = max(0, min(self._written.values(), default=0) - 1)
        if self._answer is not None:
            self._query()

    def vacated(self) -> None:
        """
        A member in this process has left its group.
        """
        if self._state is _State.standby:
            self._schedule(0)

    # The offsets.

    def commit(self, offsets: Mapping[tuple[str, int], int]) -> Deferred[None]:
        """
        See L{IBusConsumer.commit}.
        """
        if self._state is _State.closed:
            return fail(BusError("the consumer is closed"))
        if self._state is _State.active:
            for (topic, partition), offset in offsets.items():
                place = (self._numbers.get(topic, 0), partition)
                if offset > self._done.get(place, offset):
                    self._done[place] = offset
            if not self._hasCommitted:
                self._hasCommitted = True
                self._schedule()
        return succeed(None)

    def _rows(self) -> dict[_Place, int]:
        """
        What is done with of each partition. Where nothing that was given out is left to do, it is all that there is, so
        that the next member need not go through the log from where this partition's last record stood.
        """
        everything = self._position + 1
        given = self._given
        return {
            place: done if given.get(place, -1) >= done else max(done, everything) for place, done in self._done.items()
        }

    def _changed(self, rows: dict[_Place, int]) -> list[tuple[int, int, int]]:
        return [(*place, offset) for place, offset in rows.items() if offset != self._written[place]]

    # Reading.

    def read(self, limit: int) -> Deferred[list[StoredRecord]]:
        """
        See L{IBusConsumer.read}.
        """
        if self._state is _State.closed:
            return succeed([])
        answer: Deferred[list[StoredRecord]] = Deferred()
        self._answer, self._limit = answer, limit
        self._giveUp = self._clock.callLater(_PATIENCE, self._fire, [])
        self._query()
        return answer

    def _isLeader(self) -> bool:
        # One that was frozen, or whose beat the disk does not take, may have been replaced.
        return self._state is _State.active and self._clock.seconds() - self._confirmed < LEASE

    def _query(self) -> None:
        if self._isQuerying or not self._isLeader():
            return
        self._stopLooking()
        self._isQuerying, self._isNoticed = True, False
        self._stamp = self._changeTime()
        found = self._reading.call(selectRecords, tuple(self._names), self._position, self._limit)
        found.addCallbacks(self._found, self._failed, callbackArgs=(self._term, self._limit))

    def _found(self, found: tuple[list[Any], int, bool], term: int, limit: int) -> None:
        self._isQuerying = False
        if self._answer is None or self._state is _State.closed:
            return
        if term != self._term or limit != self._limit or not self._isLeader():
            # Of an earlier read, or of earlier days.
            self._query()
            return
        rows, position, isMore = found
        # A partition's may have been done with before this member came.
        rows = [row for row in rows if row[0] >= self._done[row[1], row[2]]]
        try:
            records = [
                StoredRecord(self._names[topic], place, offset, timestamp, key, value, decodeHeaders(headers))
                for offset, topic, place, timestamp, key, value, headers in rows
            ]
        except BusError as error:
            self._end().errback(error)
            return
        self._position = max(self._position, position)
        for offset, topic, partition, *_ in rows:
            where = (topic, partition)
            if self._given.get(where, -1) < self._done[where]:
                self._done[where] = offset
            self._given[where] = offset
        if records:
            self._fire(records)
        elif isMore or self._isNoticed:
            self._query()
        else:
            self._lookUntil = self._clock.seconds() + _QUERY
            self._look = self._clock.callLater(_LOOK, self._looked)

    def _looked(self) -> None:
        self._look = None
        if self._changeTime() != self._stamp or self._clock.seconds() >= self._lookUntil:
            self._query()
        else:
            self._look = self._clock.callLater(_LOOK, self._looked)

    def _changeTime(self) -> tuple[int, int]:
        try:
            status = os.stat(self._wal)
        except OSError:
            return (0, 0)
        return status.st_mtime_ns, status.st_size

    def _stopLooking(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def notice(self) -> None:
        """
        This process has committed something.
        """
        self._isNoticed = True
        if self._look is not None:
            self._query()

    def _failed(self, failure: Failure) -> None:
        failure.trap(sqlite3.Error, BusError)
        self._isQuerying = False
        if self._answer is not None:
            self._end().errback(BusError(f"SQLite: {failure.getErrorMessage()}"))

    def _fire(self, records: list[StoredRecord]) -> None:
        self._end().callback(records)

    def _end(self) -> Deferred[list[StoredRecord]]:
        assert self._answer is not None
        answer, self._answer = self._answer, None
        if self._giveUp is not None and self._giveUp.active():
            self._giveUp.cancel()
        self._stopLooking()
        return answer

    # The end.

    def close(self, timeout: float = 5.0) -> Deferred[None]:
        """
        See L{IBusConsumer.close}.

        @param timeout: s, after which it is left to itself: the group is free then once its lease has run out
        """
        closed: Deferred[None] = Deferred()
        if self._closed is None:
            self._closed = Deferred()
            rows = self._changed(self._rows()) if self._state is _State.active else []
            self._state = _State.closed
            if self._upkeep is not None and self._upkeep.active():
                self._upkeep.cancel()
            if self._answer is not None:
                self._fire([])
            # Also where it stands by: it may be about to take the group.
            left = self._writing.call(_release, self._group, self._member, rows)
            left.addTimeout(timeout, self._clock, lambda failure, _: failure.trap(CancelledError) and None)
            left.addErrback(self._leaveFailed).addCallback(self._left)
        self._closed.addCallback(closed.callback)
        return closed

    def _leaveFailed(self, failure: Failure) -> None:
        failure.trap(sqlite3.Error, BusError)
        self.log.warn("a consumer group could not be left: {reason}", reason=failure.getErrorMessage())

    def _left(self, _: object) -> None:
        assert self._closed is not None
        self._whenClosed(self)
        self._closed.callback(None)


# In the threads.


def _beatOf(connection: sqlite3.Connection, group: str) -> _Beat | None:
    beat: _Beat | None = connection.execute(
        "SELECT member, beat FROM consumer_groups WHERE name = ?", (group,)
    ).fetchone()
    return beat


def _acquire(
    connection: sqlite3.Connection, group: str, member: str, seen: _Beat | None
) -> tuple[_Beat, dict[_Place, int] | None]:
    """
    Take a group that nobody has, or whose beat is still the one that was seen.

    @return: the row as it is now; the offsets, or L{None} if another has the group
    """
    beat = _beatOf(connection, group)
    if beat is not None and beat[0] is not None and beat != seen:
        return beat, None
    taken = (member, 1 if beat is None else beat[1] + 1)
    connection.execute("REPLACE INTO consumer_groups (name, member, beat) VALUES (?, ?, ?)", (group, *taken))
    rows = connection.execute("SELECT topic, partition, next FROM consumer_offsets WHERE name = ?", (group,))
    return taken, {(topic, partition): offset for topic, partition, offset in rows}


def _renew(connection: sqlite3.Connection, group: str, member: str, offsets: list[tuple[int, int, int]]) -> bool:
    """
    Raise the beat and write offsets, if the group is still this member's.

    @return: whether it is
    """
    raised = connection.execute(
        "UPDATE consumer_groups SET beat = beat + 1 WHERE name = ? AND member = ?", (group, member)
    )
    if not raised.rowcount:
        return False
    connection.executemany(
        "INSERT INTO consumer_offsets (name, topic, partition, next) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (name, topic, partition) DO UPDATE SET next = max(next, excluded.next)",
        [(group, *row) for row in offsets],
    )
    return True


def _release(connection: sqlite3.Connection, group: str, member: str, offsets: list[tuple[int, int, int]]) -> None:
    """
    Write offsets and leave the group to whoever comes.
    """
    if _renew(connection, group, member, offsets):
        connection.execute("UPDATE consumer_groups SET member = NULL WHERE name = ?", (group,))
