"""
Sessions in one SQLite file, which the workers of a host share.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from binaryserver.errors import ConfigError, StoreError, StoreUnavailable
from binaryserver.interfaces import ISessionStore
from binaryserver.model import EPOCH_2010_MS, KEPT_STREAMS, BoxKey, Claim, MarkUpdate, MqttSession, Owner, StreamMark
from binaryserver.plugins import BackEndContext
from binaryserver.session.memorystore import MAX_WORKERS, instanceOf
from binaryserver.sqlitethread import Job, SqliteThread

_SCHEMA = """
CREATE TABLE IF NOT EXISTS boxes (
    account TEXT NOT NULL,
    asset TEXT NOT NULL,
    incarnation TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    connected INTEGER NOT NULL,
    protocol TEXT NOT NULL,
    peer TEXT NOT NULL,
    since INTEGER NOT NULL,
    last_seen INTEGER NOT NULL,
    mqtt TEXT,
    PRIMARY KEY (account, asset)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS marks (
    account TEXT NOT NULL,
    asset TEXT NOT NULL,
    stream INTEGER NOT NULL,
    committed INTEGER NOT NULL,
    latest INTEGER NOT NULL,
    raised INTEGER NOT NULL,
    PRIMARY KEY (account, asset, stream)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS workers (
    instance TEXT NOT NULL PRIMARY KEY,
    number INTEGER NOT NULL UNIQUE,
    leased INTEGER NOT NULL
) WITHOUT ROWID;
"""

# SQLite's integers are signed: what has 64 bits is kept less this, so that comparing them stays right.
_BIAS = 1 << 63

# s after which a started store says again that its worker lives.
_RENEWAL = 600.0

# ns without that, after which the number may be another instance's, if there is no unused one left.
_LAPSED = 86_400 * 10**9


@implementer(ISessionStore)
class SqliteSessionStore:
    """
    C{sqlite:PATH}
    """

    log = Logger()

    def __init__(self, spec: str, context: BackEndContext) -> None:
        path = spec.partition(":")[2]
        if not path or "?" in path:
            raise ConfigError(context.option, f"{spec!r}: the form is sqlite:PATH")
        self._context = context
        self._thread = SqliteThread(
            context.reactor, context.option, path, _SCHEMA, StoreUnavailable, context.startTimeout, context.startTimeout
        )
        self._leased: dict[str, int] = {}
        self._renewing: IDelayedCall | None = None

    def start(self) -> Deferred[None]:
        """
        See L{ISessionStore.start}.
        """
        return self._thread.start()

    def stop(self) -> Deferred[None]:
        """
        See L{ISessionStore.stop}.
        """
        if self._renewing is not None:
            self._renewing.cancel()
            self._renewing = None
        late = StoreError("the session store was stopped before it was written")
        return self._thread.stop(self._context.stopTimeout, late)

    def _call(self, job: Job, *arguments: Any) -> Deferred[Any]:
        return self._thread.call(job, *arguments).addErrback(_storeError)

    def leaseWorker(self, incarnation: str) -> Deferred[int]:
        """
        See L{ISessionStore.leaseWorker}. A number stays its instance's: a new incarnation takes it over from the old
        one. A store that is started renews what it leased; when every number has an instance, the one that was not
        renewed for longest goes to the newcomer, if that was a day or more. Fails with L{StoreError} if it was not.
        """
        instance = instanceOf(incarnation)

        def leased(number: int) -> int:
            self._leased[instance] = number
            if self._renewing is None:
                self._renewing = self._context.reactor.callLater(_RENEWAL, self._renew)
            return number

        return self._call(_leaseWorker, instance).addCallback(leased)

    def _renew(self) -> None:
        self._renewing = self._context.reactor.callLater(_RENEWAL, self._renew)
        self._call(_renewWorkers, list(self._leased.items())).addErrback(
            lambda failure: self.log.error("the worker's lease was not renewed: {reason}", reason=failure.value)
        )

    def claim(
        self, box: BoxKey, incarnation: str, protocol: str, peer: str, nowMs: int, clean: bool
    ) -> Deferred[Claim]:
        """
        See L{ISessionStore.claim}.
        """
        return self._call(_claim, box, incarnation, protocol, peer, nowMs, clean)

    def release(self, box: BoxKey, linkEpoch: int, nowMs: int) -> Deferred[bool]:
        """
        See L{ISessionStore.release}.
        """
        return self._call(
            _update,
            "UPDATE boxes SET connected = 0, last_seen = ? WHERE account = ? AND asset = ? AND epoch = ?",
            (nowMs, *box, linkEpoch),
        )

    def commitMarks(self, marks: Sequence[MarkUpdate]) -> Deferred[None]:
        """
        See L{ISessionStore.commitMarks}.
        """
        return self._call(_commitMarks, marks)

    def marks(self, box: BoxKey) -> Deferred[tuple[StreamMark, ...]]:
        """
        See L{ISessionStore.marks}.
        """
        return self._call(_marks, box)

    def saveMqtt(self, box: BoxKey, linkEpoch: int, session: MqttSession | None) -> Deferred[bool]:
        """
        See L{ISessionStore.saveMqtt}.
        """
        text = None if session is None else json.dumps([session.subscriptions, session.received])
        return self._call(
            _update,
            "UPDATE boxes SET mqtt = ? WHERE account = ? AND asset = ? AND epoch = ?",
            (text, *box, linkEpoch),
        )


def _storeError(failure: Failure) -> None:
    # An OverflowError is SQLite's too: a number of more than 64 bits.
    failure.trap(sqlite3.Error, OverflowError)
    raise StoreError(f"SQLite: {failure.getErrorMessage()}") from failure.value


# In the thread.


def _leaseWorker(connection: sqlite3.Connection, instance: str) -> int:
    now = time.time_ns()
    row = connection.execute("SELECT number FROM workers WHERE instance = ?", (instance,)).fetchone()
    if row is not None:
        _renewWorkers(connection, [(instance, row[0])])
        return int(row[0])
    taken = {number for (number,) in connection.execute("SELECT number FROM workers")}
    if len(taken) < MAX_WORKERS:
        number = next(number for number in range(MAX_WORKERS) if number not in taken)
    else:
        oldest, number, leased = connection.execute(
            "SELECT instance, number, leased FROM workers ORDER BY leased LIMIT 1"
        ).fetchone()
        if now - leased < _LAPSED:
            raise StoreError(f"all {MAX_WORKERS} worker numbers are taken by instances that lived within a day")
        connection.execute("DELETE FROM workers WHERE instance = ?", (oldest,))
    connection.execute("INSERT INTO workers VALUES (?, ?, ?)", (instance, number, now))
    return int(number)


def _renewWorkers(connection: sqlite3.Connection, leased: Sequence[tuple[str, int]]) -> None:
    now = time.time_ns()
    connection.executemany(
        "UPDATE workers SET leased = ? WHERE instance = ? AND number = ?", [(now, *lease) for lease in leased]
    )


def _claim(
    connection: sqlite3.Connection, box: BoxKey, incarnation: str, protocol: str, peer: str, nowMs: int, clean: bool
) -> Claim:
    row = connection.execute(
        "SELECT incarnation, epoch, connected, mqtt FROM boxes WHERE account = ? AND asset = ?", box
    ).fetchone()
    previous = None if row is None else Owner(row[0], row[1], bool(row[2]))
    text = None if row is None or clean else row[3]
    epoch = max(previous.linkEpoch + 1 if previous else 0, nowMs - EPOCH_2010_MS)
    connection.execute(
        "INSERT OR REPLACE INTO boxes VALUES (?, ?, ?, ?, 1, ?, ?, ?, ?, ?)",
        (*box, incarnation, epoch, protocol, peer, nowMs, nowMs, text),
    )
    session = None if text is None else _decodeSession(text)
    return Claim(epoch, previous, _marks(connection, box), session)


def _decodeSession(text: str) -> MqttSession:
    try:
        subscriptions, received = json.loads(text)
        return MqttSession(tuple((name, qos) for name, qos in subscriptions), tuple(received))
    except (ValueError, TypeError) as error:
        raise StoreError(f"a kept MQTT session cannot be read: {error}") from error


def _update(connection: sqlite3.Connection, statement: str, values: Sequence[Any]) -> bool:
    return connection.execute(statement, values).rowcount == 1


def _marks(connection: sqlite3.Connection, box: BoxKey) -> tuple[StreamMark, ...]:
    rows = connection.execute(
        "SELECT stream, committed, latest FROM marks WHERE account = ? AND asset = ? ORDER BY raised", box
    )
    return tuple(StreamMark(stream + _BIAS, committed + _BIAS, latest) for stream, committed, latest in rows)


def _commitMarks(connection: sqlite3.Connection, marks: Sequence[MarkUpdate]) -> None:
    # The order of raising is counted for each box, not told by a clock: one that is put back would have the stream that
    # was raised last forgotten first.
    for box, stream, committed, latest in marks:
        values = (*box, stream - _BIAS, committed - _BIAS, latest)
        updated = connection.execute(
            "UPDATE marks SET committed = max(committed, ?4), latest = max(latest, ?5), "
            "raised = (SELECT max(raised) + 1 FROM marks WHERE account = ?1 AND asset = ?2) "
            "WHERE account = ?1 AND asset = ?2 AND stream = ?3",
            values,
        )
        if not updated.rowcount:
            connection.execute(
                "INSERT INTO marks (account, asset, stream, committed, latest, raised) VALUES (?1, ?2, ?3, ?4, ?5, "
                "(SELECT coalesce(max(raised), 0) + 1 FROM marks WHERE account = ?1 AND asset = ?2))",
                values,
            )
            connection.execute(
                "DELETE FROM marks WHERE account = ?1 AND asset = ?2 AND stream NOT IN "
                "(SELECT stream FROM marks WHERE account = ?1 AND asset = ?2 ORDER BY raised DESC LIMIT ?3)",
                (*box, KEPT_STREAMS),
            )
