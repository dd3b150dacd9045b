"""
Boxes in one SQLite file, who holds them, and what is known of their tracks: what is called in the file's thread.

A row without an incarnation is of a box that has no owner: it was erased, and the row keeps its last link epoch, or it
never had one, and something was kept of it nevertheless. Its C{last_seen} is the time from which on it counts for how
long that is kept.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from typing import Any

from binaryserver.errors import AccountFull, StoreError
from binaryserver.model import (
    EPOCH_2010_MS,
    KEPT_STREAMS,
    BoxKey,
    Claim,
    LinkState,
    MarkUpdate,
    MqttSession,
    Orphan,
    Owner,
    StreamMark,
)
from binaryserver.session import sqliteevents, sqliteleases
from binaryserver.session.boxrecords import BoxEvent, RefusalNote, takenOver
from binaryserver.session.memorystore import MAY_CLAIM

SCHEMA = """
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
CREATE INDEX IF NOT EXISTS boxes_linked ON boxes (account) WHERE connected;
CREATE INDEX IF NOT EXISTS boxes_seen ON boxes (last_seen) WHERE NOT connected;
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


def claim(
    connection: sqlite3.Connection,
    box: BoxKey,
    incarnation: str,
    protocol: str,
    peer: str,
    nowMs: int,
    clean: bool,
    attempt: str,
    most: int,
) -> Claim:
    """
    See L{binaryserver.interfaces.ISessionStore.claim}.
    """
    standing = sqliteleases.standing(connection, incarnation)
    if standing not in MAY_CLAIM:
        raise StoreError(f"{incarnation} may not claim: {standing.value}")
    row = connection.execute(
        "SELECT incarnation, epoch, connected, last_seen, mqtt, attempt, previous "
        "FROM boxes WHERE account = ? AND asset = ?",
        box,
    ).fetchone()
    if row is not None and row[5] == attempt:
        return Claim(row[1], _decodeOwner(row[6]), marks(connection, box), decodeSession(row[4]))
    isConnected = row is not None and bool(row[2])
    if most and not isConnected and _isFull(connection, box.account, most):
        raise AccountFull(f"{most} boxes of {box.account} are connected already")
    previous = None if row is None or not row[0] else Owner(row[0], row[1], isConnected, row[3])
    text = None if row is None or clean else row[4]
    epoch = max(row[1] + 1 if row is not None else 0, nowMs - EPOCH_2010_MS)
    if isConnected:
        sqliteevents.remember(connection, box, takenOver(nowMs, protocol, peer, incarnation, epoch))
    sqliteevents.welcome(connection, box)
    connection.execute(
        "INSERT OR REPLACE INTO boxes VALUES (?, ?, ?, ?, 1, 0, ?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
        (*box, incarnation, epoch, protocol, peer, nowMs, nowMs, text, attempt, json.dumps(previous)),
    )
    return Claim(epoch, previous, marks(connection, box), decodeSession(text))


def _isFull(connection: sqlite3.Connection, account: str, most: int) -> bool:
    # No more of them are gone through than it takes.
    last = connection.execute(
        "SELECT 1 FROM boxes WHERE account = ? AND connected LIMIT 1 OFFSET ?", (account, most - 1)
    )
    return last.fetchone() is not None


def release(connection: sqlite3.Connection, box: BoxKey, linkEpoch: int, nowMs: int, event: BoxEvent | None) -> bool:
    """
    See L{binaryserver.interfaces.ISessionStore.release}.
    """
    isLatest = update(
        connection,
        "UPDATE boxes SET connected = 0, listening = 0, last_seen = ?, adopted = NULL, lost = NULL "
        "WHERE account = ? AND asset = ? AND epoch = ? AND incarnation <> ''",
        (nowMs, *box, linkEpoch),
    )
    if isLatest and event is not None:
        sqliteevents.remember(connection, box, event)
    return isLatest


def noteRefusals(connection: sqlite3.Connection, refusals: Sequence[RefusalNote]) -> None:
    """
    See L{binaryserver.interfaces.ISessionStore.noteRefusals}.
    """
    for box, _, isBox in refusals:
        if isBox:
            noteStray(connection, box)
    sqliteevents.noteRefusals(connection, refusals)


def restore(connection: sqlite3.Connection, incarnation: str, links: Sequence[LinkState]) -> list[bool]:
    """
    See L{binaryserver.interfaces.ISessionStore.restore}.
    """
    commitMarks(connection, [MarkUpdate(link.box, *mark) for link in links for mark in link.marks])
    for link in links:
        sqliteevents.welcome(connection, link.box)
    return [
        update(
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
                encodeSession(link.mqtt),
            ),
        )
        for link in links
    ]


def adopt(
    connection: sqlite3.Connection, dead: str, incarnation: str, nowMs: int, limit: int, attempt: str
) -> list[Orphan]:
    """
    See L{binaryserver.interfaces.ISessionStore.adopt}.
    """
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


def accounts(connection: sqlite3.Connection, asset: str) -> tuple[str, ...]:
    """
    See L{binaryserver.interfaces.ISessionStore.accounts}.
    """
    rows = connection.execute(
        "SELECT account FROM boxes WHERE asset = ? AND incarnation <> '' ORDER BY account", (asset,)
    )
    return tuple(account for (account,) in rows)


def encodeSession(session: MqttSession | None) -> str | None:
    """
    An MQTT session as it is kept.
    """
    return None if session is None else json.dumps([session.subscriptions, session.received])


def _decodeOwner(text: str | None) -> Owner | None:
    values = None if text is None else json.loads(text)
    return None if values is None else Owner(*values)


def decodeSession(text: str | None) -> MqttSession | None:
    """
    The opposite of L{encodeSession}.
    """
    if text is None:
        return None
    try:
        subscriptions, received = json.loads(text)
        return MqttSession(tuple((name, qos) for name, qos in subscriptions), tuple(received))
    except (ValueError, TypeError) as error:
        raise StoreError(f"a kept MQTT session cannot be read: {error}") from error


def update(connection: sqlite3.Connection, statement: str, values: Sequence[Any]) -> bool:
    """
    Whether a statement changed one row.
    """
    return connection.execute(statement, values).rowcount == 1


def marks(connection: sqlite3.Connection, box: BoxKey) -> tuple[StreamMark, ...]:
    """
    See L{binaryserver.interfaces.ISessionStore.marks}.
    """
    rows = connection.execute(
        "SELECT stream, committed, latest FROM marks WHERE account = ? AND asset = ? ORDER BY raised", box
    )
    return tuple(StreamMark(stream + _BIAS, committed + _BIAS, latest) for stream, committed, latest in rows)


def commitMarks(connection: sqlite3.Connection, marks: Sequence[MarkUpdate]) -> None:
    """
    See L{binaryserver.interfaces.ISessionStore.commitMarks}.
    """
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
            noteStray(connection, box)


def noteStray(connection: sqlite3.Connection, box: BoxKey) -> None:
    """
    Something is kept of a box: if it has no owner, that counts from now on.
    """
    connection.execute(
        "INSERT OR IGNORE INTO boxes (account, asset, incarnation, epoch, connected, listening, protocol, peer, since, "
        "last_seen) VALUES (?, ?, '', -1, 0, 0, '', '', 0, ?)",
        (*box, time.time_ns() // 1_000_000),
    )
