"""
Accounts' budgets in one SQLite file, by the machine's clock: what is called in the file's thread.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence

from binaryserver.model import Draw
from binaryserver.session.buckets import Bucket, drawFrom

SCHEMA = """
CREATE TABLE IF NOT EXISTS buckets (
    account TEXT NOT NULL,
    kind TEXT NOT NULL,
    tokens REAL NOT NULL,
    at REAL NOT NULL,
    full_at REAL NOT NULL,
    PRIMARY KEY (account, kind)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS buckets_full ON buckets (full_at);
"""


def draw(connection: sqlite3.Connection, draws: Sequence[Draw]) -> list[float]:
    """
    See L{binaryserver.interfaces.ISessionStore.draw}.
    """
    now = time.time()
    connection.execute("DELETE FROM buckets WHERE full_at <= ?", (now,))
    granted = []
    for one in draws:
        name = one.account, one.kind
        row = connection.execute(
            "SELECT tokens, at, full_at FROM buckets WHERE account = ? AND kind = ?", name
        ).fetchone()
        given, bucket = drawFrom(None if row is None else Bucket(*row), one, now)
        connection.execute("INSERT OR REPLACE INTO buckets VALUES (?, ?, ?, ?, ?)", (*name, *bucket))
        granted.append(given)
    return granted
