"""
Who is alive of the instances that share one SQLite file, by the machine's clock: what is called in the file's thread.
"""

from __future__ import annotations

import sqlite3
import time

from binaryserver.errors import StoreError
from binaryserver.model import Renewal
from binaryserver.session.memorystore import MAX_WORKERS, instanceOf

SCHEMA = """
CREATE TABLE IF NOT EXISTS workers (
    instance TEXT NOT NULL PRIMARY KEY,
    number INTEGER NOT NULL UNIQUE,
    incarnation TEXT NOT NULL UNIQUE,
    alive INTEGER NOT NULL,
    renewed INTEGER NOT NULL
) WITHOUT ROWID;
"""

# ms since it was last heard of, after which an instance's number may be another's, if there is no unused one left.
_FORGOTTEN = 86_400_000

# Not DISTINCT, which would walk over every box that is connected.
_OWNERS_THAT_ARE_DEAD = """
WITH RECURSIVE owners (incarnation) AS (
    SELECT min(incarnation) FROM boxes WHERE connected
    UNION ALL
    SELECT (SELECT min(incarnation) FROM boxes WHERE connected AND incarnation > owners.incarnation)
    FROM owners WHERE owners.incarnation IS NOT NULL
)
SELECT incarnation FROM owners
WHERE incarnation IS NOT NULL
AND NOT EXISTS (SELECT 1 FROM workers WHERE workers.incarnation = owners.incarnation AND alive)
"""


def _now() -> int:
    return time.time_ns() // 1_000_000


def leaseWorker(connection: sqlite3.Connection, incarnation: str, wanted: int | None) -> int:
    """
    See L{binaryserver.interfaces.ISessionStore.leaseWorker}. When every number has an instance, the one that was not
    heard of for longest gives up its own, if that was a day or more.

    @raise StoreError: it was not
    """
    now = _now()
    instance = instanceOf(incarnation)
    row = connection.execute("SELECT number FROM workers WHERE instance = ?", (instance,)).fetchone()
    number = int(row[0]) if row is not None else _freeNumber(connection, wanted, now)
    connection.execute("INSERT OR REPLACE INTO workers VALUES (?, ?, ?, 1, ?)", (instance, number, incarnation, now))
    return number


def _freeNumber(connection: sqlite3.Connection, wanted: int | None, now: int) -> int:
    taken = {number for (number,) in connection.execute("SELECT number FROM workers")}
    if wanted is not None and wanted not in taken:
        return wanted
    if len(taken) < MAX_WORKERS:
        return next(number for number in range(MAX_WORKERS) if number not in taken)
    oldest, number, renewed = connection.execute(
        "SELECT instance, number, renewed FROM workers ORDER BY renewed LIMIT 1"
    ).fetchone()
    if now - renewed < _FORGOTTEN:
        raise StoreError(f"all {MAX_WORKERS} worker numbers are taken by instances that lived within a day")
    connection.execute("DELETE FROM workers WHERE instance = ?", (oldest,))
    return int(number)


def renew(connection: sqlite3.Connection, incarnation: str) -> Renewal:
    """
    See L{binaryserver.interfaces.ISessionStore.renew}.
    """
    renewed = connection.execute(
        "UPDATE workers SET renewed = ? WHERE incarnation = ? AND alive", (_now(), incarnation)
    )
    return Renewal.renewed if renewed.rowcount else standing(connection, incarnation)


def standing(connection: sqlite3.Connection, incarnation: str) -> Renewal:
    """
    What L{renew} would say, without renewing.
    """
    known = connection.execute(
        "SELECT incarnation, alive FROM workers WHERE instance = ?", (instanceOf(incarnation),)
    ).fetchone()
    if known is None:
        return Renewal.unknown
    latest, isAlive = known
    if latest != incarnation:
        return Renewal.superseded
    return Renewal.renewed if isAlive else Renewal.declaredDead


def bury(connection: sqlite3.Connection, leaseMs: int) -> list[str]:
    """
    See L{binaryserver.interfaces.ISessionStore.bury}.
    """
    now = _now()
    # Where the clock was put back, a lease counts from the first look at it: whoever lives renews it by then.
    connection.execute("UPDATE workers SET renewed = ?1 WHERE renewed > ?1", (now,))
    connection.execute("UPDATE workers SET alive = 0 WHERE alive AND renewed < ?", (now - leaseMs,))
    return [incarnation for (incarnation,) in connection.execute(_OWNERS_THAT_ARE_DEAD)]


def isDead(connection: sqlite3.Connection, incarnation: str) -> bool:
    """
    See L{binaryserver.interfaces.ISessionStore.isDead}.
    """
    alive = connection.execute("SELECT 1 FROM workers WHERE incarnation = ? AND alive", (incarnation,))
    return alive.fetchone() is None


def resign(connection: sqlite3.Connection, incarnation: str) -> None:
    """
    See L{binaryserver.interfaces.ISessionStore.resign}.
    """
    connection.execute("UPDATE workers SET alive = 0, renewed = ? WHERE incarnation = ?", (_now(), incarnation))
