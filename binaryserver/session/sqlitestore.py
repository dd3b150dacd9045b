"""
Sessions in one SQLite file, which the workers of a host share.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from binaryserver.errors import ConfigError, StoreError, StoreNotAsked, StoreUnavailable
from binaryserver.interfaces import ISessionStore
from binaryserver.model import (
    EPOCH_2010_MS,
    KEPT_STREAMS,
    BoxKey,
    Claim,
    DownlinkMessage,
    FingerprintUpdate,
    LinkState,
    MailboxEntry,
    MailboxLimits,
    MarkUpdate,
    MqttSession,
    Orphan,
    Owner,
    Progress,
    Put,
    Renewal,
    StreamMark,
    Take,
)
from binaryserver.plugins import BackEndContext
from binaryserver.session import sqlitefingerprints, sqliteleases, sqlitemailbox
from binaryserver.session.memorystore import MAY_CLAIM
from binaryserver.sqlitethread import Job, SqliteThread, isLocked

_SCHEMA = """
CREATE TABLE IF NOT EXISTS boxes (
    account TEXT NOT NULL,
    asset TEXT NOT NULL,
    incarnation TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    connected INTEGER NOT NULL,
    listening INTEGER NOT NULL,
    protocol TEXT NOT NULL,
    peer TEXT NOT NULL,
    since INTEGER NOT NULL,
    last_seen INTEGER NOT NULL,
    mqtt TEXT,
    attempt TEXT,
    previous TEXT,
    adopted TEXT,
    lost INTEGER,
    PRIMARY KEY (account, asset)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS boxes_connected ON boxes (incarnation) WHERE connected;
CREATE INDEX IF NOT EXISTS boxes_adopted ON boxes (adopted) WHERE adopted IS NOT NULL;
CREATE INDEX IF NOT EXISTS boxes_asset ON boxes (asset);
CREATE TABLE IF NOT EXISTS marks (
    account TEXT NOT NULL,
    asset TEXT NOT NULL,
    stream INTEGER NOT NULL,
    committed INTEGER NOT NULL,
    latest INTEGER NOT NULL,
    raised INTEGER NOT NULL,
    PRIMARY KEY (account, asset, stream)
) WITHOUT ROWID;
"""

# SQLite's integers are signed: what has 64 bits is kept less this, so that comparing them stays right.
_BIAS = 1 << 63

# Of the tables of all parts; counts up with each change of them.
_VERSION = 5


@implementer(ISessionStore)
class SqliteSessionStore:
    """
    C{sqlite:PATH}
    """

    def __init__(self, spec: str, context: BackEndContext) -> None:
        path = spec.partition(":")[2]
        if not path or "?" in path:
            raise ConfigError(context.option, f"{spec!r}: the form is sqlite:PATH")
        self._context = context
        self._thread = SqliteThread(
            context.reactor,
            context.option,
            path,
            _SCHEMA + sqliteleases.SCHEMA + sqlitemailbox.SCHEMA + sqlitefingerprints.SCHEMA,
            StoreUnavailable,
            context.startTimeout,
            context.startTimeout,
            version=_VERSION,
        )

    def start(self) -> Deferred[None]:
        """
        See L{ISessionStore.start}.
        """
        return self._thread.start()

    def stop(self) -> Deferred[None]:
        """
        See L{ISessionStore.stop}.
        """
        late = StoreError("the session store was stopped before it was written")
        return self._thread.stop(self._context.stopTimeout, late)

    def _call(self, job: Job, *arguments: Any) -> Deferred[Any]:
        return self._thread.call(job, *arguments).addErrback(_storeError)

    def peers(self, incarnation: str) -> None:
        """
        See L{ISessionStore.peers}: a file tells nobody anything.
        """

    def leaseWorker(self, incarnation: str, wanted: int | None = None) -> Deferred[int]:
        """
        See L{ISessionStore.leaseWorker} and L{sqliteleases.leaseWorker}.
        """
        return self._call(sqliteleases.leaseWorker, incarnation, wanted)

    def renew(self, incarnation: str) -> Deferred[Renewal]:
        """
        See L{ISessionStore.renew}.
        """
        return self._call(sqliteleases.renew, incarnation)

    def bury(self, leaseMs: int) -> Deferred[list[str]]:
        """
        See L{ISessionStore.bury}.
        """
        return self._call(sqliteleases.bury, leaseMs)

    def isDead(self, incarnation: str) -> Deferred[bool]:
        """
        See L{ISessionStore.isDead}.
        """
        return self._call(sqliteleases.isDead, incarnation)

    def resign(self, incarnation: str) -> Deferred[None]:
        """
        See L{ISessionStore.resign}.
        """
        return self._call(sqliteleases.resign, incarnation)

    def claim(
        self, box: BoxKey, incarnation: str, protocol: str, peer: str, nowMs: int, clean: bool, attempt: str
    ) -> Deferred[Claim]:
        """
        See L{ISessionStore.claim}.
        """
        return self._call(_claim, box, incarnation, protocol, peer, nowMs, clean, attempt)

    def release(self, box: BoxKey, linkEpoch: int, nowMs: int) -> Deferred[bool]:
        """
        See L{ISessionStore.release}.
        """
        return self._call(
            _update,
            "UPDATE boxes SET connected = 0, listening = 0, last_seen = ?, adopted = NULL, lost = NULL "
            "WHERE account = ? AND asset = ? AND epoch = ?",
            (nowMs, *box, linkEpoch),
        )

    def restore(self, incarnation: str, links: Sequence[LinkState]) -> Deferred[list[bool]]:
        """
        See L{ISessionStore.restore}.
        """
        return self._call(_restore, incarnation, links)

    def adopt(self, dead: str, incarnation: str, nowMs: int, limit: int, attempt: str) -> Deferred[list[Orphan]]:
        """
        See L{ISessionStore.adopt}.
        """
        return self._call(_adopt, dead, incarnation, nowMs, limit, attempt)

    def accounts(self, asset: str) -> Deferred[tuple[str, ...]]:
        """
        See L{ISessionStore.accounts}.
        """
        return self._call(_accounts, asset)

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

    def fingerprints(self, box: BoxKey) -> Deferred[bytes]:
        """
        See L{ISessionStore.fingerprints}.
        """
        return self._call(sqlitefingerprints.fingerprints, box)

    def commitFingerprints(self, updates: Sequence[FingerprintUpdate], window: int) -> Deferred[None]:
        """
        See L{ISessionStore.commitFingerprints}.
        """
        return self._call(sqlitefingerprints.commitFingerprints, updates, window)

    def saveMqtt(self, box: BoxKey, linkEpoch: int, session: MqttSession | None, isListening: bool) -> Deferred[bool]:
        """
        See L{ISessionStore.saveMqtt}.
        """
        return self._call(
            _update,
            "UPDATE boxes SET mqtt = ?, listening = ? WHERE account = ? AND asset = ? AND epoch = ?",
            (_encodeSession(session), isListening, *box, linkEpoch),
        )

    def putMessages(
        self, messages: Sequence[DownlinkMessage], limits: MailboxLimits, nowMs: int
    ) -> Deferred[list[Put]]:
        """
        See L{ISessionStore.putMessages}.
        """
        return self._call(sqlitemailbox.putMessages, messages, limits, nowMs)

    def takeMessages(self, takes: Sequence[Take], nowMs: int) -> Deferred[list[list[MailboxEntry] | None]]:
        """
        See L{ISessionStore.takeMessages}.
        """
        return self._call(sqlitemailbox.takeMessages, takes, nowMs)

    def progressMessages(self, heard: Sequence[Progress]) -> Deferred[list[MailboxEntry | None]]:
        """
        See L{ISessionStore.progressMessages}.
        """
        return self._call(sqlitemailbox.progressMessages, heard)

    def removeMessages(self, finished: Sequence[tuple[BoxKey, str]]) -> Deferred[None]:
        """
        See L{ISessionStore.removeMessages}.
        """
        return self._call(sqlitemailbox.removeMessages, finished)

    def dueMessages(self, nowMs: int, limit: int) -> Deferred[list[MailboxEntry]]:
        """
        See L{ISessionStore.dueMessages}.
        """
        return self._call(sqlitemailbox.dueMessages, nowMs, limit)

    def mailbox(self, box: BoxKey) -> Deferred[list[MailboxEntry]]:
        """
        See L{ISessionStore.mailbox}.
        """
        return self._call(sqlitemailbox.mailbox, box)


def _storeError(failure: Failure) -> None:
    # An OverflowError is SQLite's too: a number of more than 64 bits.
    failure.trap(sqlite3.Error, OverflowError)
    # Who waits in vain for the file's lock has changed nothing.
    kind = StoreNotAsked if isLocked(failure.value) else StoreError
    raise kind(f"SQLite: {failure.getErrorMessage()}") from failure.value


# In the thread.


def _claim(
    connection: sqlite3.Connection,
    box: BoxKey,
    incarnation: str,
    protocol: str,
    peer: str,
    nowMs: int,
    clean: bool,
    attempt: str,
) -> Claim:
    standing = sqliteleases.standing(connection, incarnation)
    if standing not in MAY_CLAIM:
        raise StoreError(f"{incarnation} may not claim: {standing.value}")
    row = connection.execute(
        "SELECT incarnation, epoch, connected, last_seen, mqtt, attempt, previous "
        "FROM boxes WHERE account = ? AND asset = ?",
        box,
    ).fetchone()
    if row is not None and row[5] == attempt:
        return Claim(row[1], _decodeOwner(row[6]), _marks(connection, box), _decodeSession(row[4]))
    previous = None if row is None else Owner(row[0], row[1], bool(row[2]), row[3])
    text = None if row is None or clean else row[4]
    epoch = _nextEpoch(previous.linkEpoch if previous else -1, nowMs)
    connection.execute(
        "INSERT OR REPLACE INTO boxes VALUES (?, ?, ?, ?, 1, 0, ?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
        (*box, incarnation, epoch, protocol, peer, nowMs, nowMs, text, attempt, json.dumps(previous)),
    )
    return Claim(epoch, previous, _marks(connection, box), _decodeSession(text))


def _nextEpoch(last: int, nowMs: int) -> int:
    return max(last + 1, nowMs - EPOCH_2010_MS)


def _restore(connection: sqlite3.Connection, incarnation: str, links: Sequence[LinkState]) -> list[bool]:
    _commitMarks(connection, [MarkUpdate(link.box, *mark) for link in links for mark in link.marks])
    return [
        _update(
            connection,
            "INSERT INTO boxes VALUES (?, ?, ?, ?, 1, ?, ?, ?, ?, ?, ?, NULL, NULL, NULL, NULL) "
            "ON CONFLICT (account, asset) DO UPDATE SET incarnation = excluded.incarnation, "
            "epoch = excluded.epoch, connected = 1, listening = excluded.listening, "
            "protocol = excluded.protocol, peer = excluded.peer, since = excluded.since, "
            "last_seen = excluded.last_seen, mqtt = excluded.mqtt, "
            "attempt = NULL, previous = NULL, adopted = NULL, lost = NULL "
            "WHERE epoch < excluded.epoch OR epoch = excluded.epoch AND incarnation = excluded.incarnation",
            (
                *link.box,
                incarnation,
                link.linkEpoch,
                link.isListening,
                link.protocol,
                link.peer,
                link.since,
                link.since,
                _encodeSession(link.mqtt),
            ),
        )
        for link in links
    ]


def _adopt(
    connection: sqlite3.Connection, dead: str, incarnation: str, nowMs: int, limit: int, attempt: str
) -> list[Orphan]:
    again = _adopted(connection, incarnation, attempt)
    if again or not sqliteleases.isDead(connection, dead):
        return again
    # Who held the box before is kept: the next to adopt it may have to tell, too.
    connection.execute(
        "UPDATE boxes SET incarnation = ?1, epoch = max(epoch + 1, ?2), listening = 0, since = ?3, last_seen = ?3, "
        "attempt = NULL, adopted = ?4, lost = epoch WHERE (account, asset) IN "
        "(SELECT account, asset FROM boxes WHERE connected AND incarnation = ?5 LIMIT ?6)",
        (incarnation, nowMs - EPOCH_2010_MS, nowMs, attempt, dead, limit),
    )
    return _adopted(connection, incarnation, attempt)


def _adopted(connection: sqlite3.Connection, incarnation: str, attempt: str) -> list[Orphan]:
    rows = connection.execute(
        "SELECT account, asset, epoch, lost, protocol, peer, previous FROM boxes WHERE adopted = ? AND incarnation = ?",
        (attempt, incarnation),
    )
    return [
        Orphan(BoxKey(account, asset), epoch, lost, protocol, peer, _decodeOwner(previous))
        for account, asset, epoch, lost, protocol, peer, previous in rows
    ]


def _accounts(connection: sqlite3.Connection, asset: str) -> tuple[str, ...]:
    rows = connection.execute("SELECT account FROM boxes WHERE asset = ? ORDER BY account", (asset,))
    return tuple(account for (account,) in rows)


def _encodeSession(session: MqttSession | None) -> str | None:
    return None if session is None else json.dumps([session.subscriptions, session.received])


def _decodeOwner(text: str | None) -> Owner | None:
    values = None if text is None else json.loads(text)
    return None if values is None else Owner(*values)


def _decodeSession(text: str | None) -> MqttSession | None:
    if text is None:
        return None
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
