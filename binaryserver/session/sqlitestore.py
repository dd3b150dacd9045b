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
from twisted.python.failure import Failure
from zope.interface import implementer

from binaryserver.errors import ConfigError, StoreError
from binaryserver.interfaces import ISessionStore
from binaryserver.model import EPOCH_2010_MS, KEPT_STREAMS, BoxKey, Claim, MarkUpdate, MqttSession, Owner, StreamMark
from binaryserver.plugins import BackEndContext
from binaryserver.session.memorystore import MAX_WORKERS
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


@implementer(ISessionStore)
class SqliteSessionStore:
    """
    C{sqlite:PATH}
    """

    def __init__(self, spec: str, context: BackEndContext) -> None:
        path = spec.partition(":")[2]
        if not path or "?" in path:
            raise ConfigError(context.option, f"{spec!r}: the form is sqlite:PATH")
        self._thread = SqliteThread(context.reactor, context.option, path, _SCHEMA, context.startTimeout)

    def start(self) -> Deferred[None]:
        """
        See L{ISessionStore.start}.
        """
        return self._thread.start()

    def stop(self) -> Deferred[None]:
        """
        See L{ISessionStore.stop}.
        """
        return self._thread.stop()

    def _call(self, job: Job, *arguments: Any) -> Deferred[Any]:
        return self._thread.call(job, *arguments).addErrback(_storeError)

    def leaseWorker(self, incarnation: str) -> Deferred[int]:
        """
        See L{ISessionStore.leaseWorker}. A number belongs to an instance for good, whichever incarnation of it runs;
        when all are taken, the instance that leased its own longest ago loses it.
        """
        return self._call(_leaseWorker, incarnation.rpartition("@")[0])

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
    failure.trap(sqlite3.Error)
    raise StoreError(f"SQLite: {failure.getErrorMessage()}") from failure.value


# In the thread.


def _leaseWorker(connection: sqlite3.Connection, instance: str) -> int:
    now = time.time_ns()
    row = connection.execute("SELECT number FROM workers WHERE instance = ?", (instance,)).fetchone()
    if row is not None:
        connection.execute("UPDATE workers SET leased = ? WHERE instance = ?", (now, instance))
        return int(row[0])
    taken = {number for (number,) in connection.execute("SELECT number FROM workers")}
    if len(taken) < MAX_WORKERS:
        number = next(number for number in range(MAX_WORKERS) if number not in taken)
    else:
        oldest, number = connection.execute("SELECT instance, number FROM workers ORDER BY leased LIMIT 1").fetchone()
        connection.execute("DELETE FROM workers WHERE instance = ?", (oldest,))
    connection.execute("INSERT INTO workers VALUES (?, ?, ?)", (instance, number, now))
    return int(number)


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
    session = None
    if text is not None:
        subscriptions, received = json.loads(text)
        session = MqttSession(tuple((name, qos) for name, qos in subscriptions), tuple(received))
    return Claim(epoch, previous, _marks(connection, box), session)


def _update(connection: sqlite3.Connection, statement: str, values: Sequence[Any]) -> bool:
    return connection.execute(statement, values).rowcount == 1


def _marks(connection: sqlite3.Connection, box: BoxKey) -> tuple[StreamMark, ...]:
    rows = connection.execute(
        "SELECT stream, committed, latest FROM marks WHERE account = ? AND asset = ? ORDER BY raised", box
    )
    return tuple(StreamMark(stream + _BIAS, committed + _BIAS, latest) for stream, committed, latest in rows)


def _commitMarks(connection: sqlite3.Connection, marks: Sequence[MarkUpdate]) -> None:
    # Grows over processes and restarts well enough: it only orders the streams of one box.
    raised = time.time_ns()
    for number, (box, stream, committed, latest) in enumerate(marks):
        values = (committed - _BIAS, latest, raised + number, *box, stream - _BIAS)
        updated = connection.execute(
            "UPDATE marks SET committed = max(committed, ?), latest = max(latest, ?), raised = ? "
            "WHERE account = ? AND asset = ? AND stream = ?",
            values,
        )
        if not updated.rowcount:
            connection.execute(
                "INSERT INTO marks (committed, latest, raised, account, asset, stream) VALUES (?, ?, ?, ?, ?, ?)",
                values,
            )
            connection.execute(
                "DELETE FROM marks WHERE account = ?1 AND asset = ?2 AND stream NOT IN "
                "(SELECT stream FROM marks WHERE account = ?1 AND asset = ?2 ORDER BY raised DESC LIMIT ?3)",
                (*box, KEPT_STREAMS),
            )
