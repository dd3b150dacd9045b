"""
Fingerprints of boxes' tracks in SQLite. What is here runs in the thread of L{binaryserver.session.sqlitestore}.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from binaryserver.model import BoxKey, FingerprintUpdate
from binaryserver.session.fingerprints import appended
from binaryserver.session.sqliteowners import noteStray

# With its rowid: a row of several KiB has no place in the inner pages of a tree.
SCHEMA = """
CREATE TABLE IF NOT EXISTS fingerprints (
    account TEXT NOT NULL,
    asset TEXT NOT NULL,
    known BLOB NOT NULL,
    PRIMARY KEY (account, asset)
);
"""


def fingerprints(connection: sqlite3.Connection, box: BoxKey) -> bytes:
    """
    See L{binaryserver.interfaces.ISessionStore.fingerprints}.
    """
    row = connection.execute("SELECT known FROM fingerprints WHERE account = ? AND asset = ?", box).fetchone()
    return b"" if row is None else row[0]


def commitFingerprints(connection: sqlite3.Connection, updates: Sequence[FingerprintUpdate], window: int) -> None:
    """
    See L{binaryserver.interfaces.ISessionStore.commitFingerprints}.
    """
    for box, more in updates:
        connection.execute(
            "INSERT INTO fingerprints VALUES (?, ?, ?) "
            "ON CONFLICT (account, asset) DO UPDATE SET known = excluded.known",
            (*box, appended(fingerprints(connection, box), more, window)),
        )
        noteStray(connection, box)
