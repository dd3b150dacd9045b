"""
The removal of boxes from one SQLite file: what is called in the file's thread.
"""

from __future__ import annotations

import sqlite3

from binaryserver.model import BoxKey, Erased
from binaryserver.session.fingerprints import SIZE
from binaryserver.session.memorybox import epochKeptUntil
from binaryserver.session.sqliteevents import forgetStrangers
from binaryserver.session.sqlitefingerprints import fingerprints

_LAPSED = """
SELECT account, asset FROM boxes WHERE NOT connected AND last_seen < ?
AND NOT EXISTS (SELECT 1 FROM messages WHERE messages.account = boxes.account AND messages.asset = boxes.asset)
AND NOT EXISTS (SELECT 1 FROM finished WHERE finished.account = boxes.account AND finished.asset = boxes.asset)
ORDER BY last_seen LIMIT ?
"""


def erase(connection: sqlite3.Connection, box: BoxKey, beforeMs: int | None = None) -> Erased:
    """
    See L{binaryserver.interfaces.ISessionStore.erase}.

    @param beforeMs: a last link epoch that is kept until before then goes, too
    """
    row = connection.execute(
        "SELECT connected, epoch, incarnation FROM boxes WHERE account = ? AND asset = ?", box
    ).fetchone()
    isConnected, epoch, incarnation = row or (0, -1, "")
    if isConnected:
        return Erased(True, True, 0, 0, 0)
    prints = len(fingerprints(connection, box)) // SIZE
    messages, streams, mailboxes, events, *_ = (
        connection.execute(f"DELETE FROM {table} WHERE account = ? AND asset = ?", box).rowcount
        for table in ("messages", "marks", "mailboxes", "events", "strangers", "finished", "fingerprints", "boxes")
    )
    until = epochKeptUntil(epoch)
    if epoch >= 0 and (beforeMs is None or until >= beforeMs):
        connection.execute(
            "INSERT INTO boxes (account, asset, incarnation, epoch, connected, listening, protocol, peer, since, "
            "last_seen) VALUES (?, ?, '', ?, 0, 0, '', '', 0, ?)",
            (*box, epoch, until),
        )
    return Erased(bool(incarnation or streams or prints or mailboxes or events), False, messages, streams, prints)


def purge(connection: sqlite3.Connection, beforeMs: int, limit: int) -> int:
    """
    See L{binaryserver.interfaces.ISessionStore.purge}.
    """
    forgetStrangers(connection, beforeMs)
    lapsed = connection.execute(_LAPSED, (beforeMs, limit)).fetchall()
    for account, asset in lapsed:
        erase(connection, BoxKey(account, asset), beforeMs)
    return len(lapsed)
