"""
What is remembered of how the links of boxes ended, in one SQLite file: what is called in the file's thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from binaryserver.model import BoxKey
from binaryserver.session.boxrecords import MOST_STRANGERS, BoxEvent, EventKind, RefusalNote, remembered

SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    account TEXT NOT NULL,
    asset TEXT NOT NULL,
    number INTEGER NOT NULL,
    kind TEXT NOT NULL,
    at INTEGER NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    protocol TEXT NOT NULL,
    peer TEXT NOT NULL,
    instance TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    times INTEGER NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (account, asset, number)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS events_refused ON events (asset) WHERE kind = 'refused';
CREATE TABLE IF NOT EXISTS strangers (
    account TEXT NOT NULL,
    asset TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (account, asset)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS strangers_at ON strangers (at);
"""


def events(connection: sqlite3.Connection, box: BoxKey) -> list[BoxEvent]:
    """
    What is remembered of a box, the oldest first.
    """
    rows = connection.execute(
        "SELECT kind, at, reason, detail, protocol, peer, instance, epoch, times, since FROM events "
        "WHERE account = ? AND asset = ? ORDER BY number",
        box,
    )
    return [BoxEvent(EventKind(kind), *rest) for kind, *rest in rows]


def remember(connection: sqlite3.Connection, box: BoxKey, event: BoxEvent) -> None:
    """
    Add an event to those of a box.
    """
    kept = remembered(events(connection, box), event)
    connection.execute("DELETE FROM events WHERE account = ? AND asset = ?", box)
    connection.executemany(
        "INSERT INTO events (account, asset, number, kind, at, reason, detail, protocol, peer, instance, epoch, times, "
        "since) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [(*box, number, one.kind.value, *one[1:]) for number, one in enumerate(kept)],
    )


def noteRefusals(connection: sqlite3.Connection, refusals: Sequence[RefusalNote]) -> None:
    """
    See L{binaryserver.interfaces.ISessionStore.noteRefusals}.
    """
    for box, event, isBox in refusals:
        remember(connection, box, event)
        isKnown = (
            isBox
            or connection.execute(
                "SELECT 1 FROM boxes WHERE account = ? AND asset = ? AND (incarnation <> '' OR epoch < 0)", box
            ).fetchone()
        )
        if isKnown:
            welcome(connection, box)
        else:
            connection.execute(
                "INSERT OR REPLACE INTO strangers (account, asset, at) VALUES (?, ?, ?)", (*box, event.at)
            )
    # -1: all of them, behind those that are kept.
    for box in connection.execute(
        "SELECT account, asset FROM strangers ORDER BY at DESC LIMIT -1 OFFSET ?", (MOST_STRANGERS,)
    ).fetchall():
        _forget(connection, box)


def welcome(connection: sqlite3.Connection, box: BoxKey) -> None:
    """
    A name that is no stranger's any more.
    """
    connection.execute("DELETE FROM strangers WHERE account = ? AND asset = ?", box)


def forgetStrangers(connection: sqlite3.Connection, beforeMs: int) -> None:
    """
    Those that were refused last before a time.
    """
    for box in connection.execute("SELECT account, asset FROM strangers WHERE at < ?", (beforeMs,)).fetchall():
        _forget(connection, box)


def _forget(connection: sqlite3.Connection, box: tuple[str, str]) -> None:
    for table in ("strangers", "events"):
        connection.execute(f"DELETE FROM {table} WHERE account = ? AND asset = ?", box)


def refusedAs(connection: sqlite3.Connection, asset: str) -> tuple[str, ...]:
    """
    See L{binaryserver.interfaces.ISessionStore.refusedAs}.
    """
    rows = connection.execute(
        "SELECT DISTINCT account FROM events WHERE asset = ? AND kind = 'refused' ORDER BY account", (asset,)
    )
    return tuple(account for (account,) in rows)
