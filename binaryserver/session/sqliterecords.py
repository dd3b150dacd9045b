"""
What operators are told of the boxes in one SQLite file: what is called in the file's thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from binaryserver.model import BoxKey, Owner
from binaryserver.session import sqliteleases
from binaryserver.session.boxrecords import (
    BoxPage,
    BoxQuery,
    BoxRecord,
    BoxSummary,
    MailboxSummary,
)
from binaryserver.session.fingerprints import SIZE
from binaryserver.session.sqliteevents import events
from binaryserver.session.sqliteowners import decodeSession, marks

_SUMMARY = (
    "SELECT account, asset, incarnation, epoch, connected, last_seen, protocol, peer, since, listening FROM boxes "
)

# A page begins behind a name, or at the first one that is asked for.
_EVERYBODY = _SUMMARY + "WHERE (account, asset) > (?, ?) ORDER BY account, asset LIMIT ?"
_OF_ACCOUNT = (
    _SUMMARY + "WHERE account = ?1 AND asset > ?2 AND asset >= ?3 AND asset < ?3 || ?5 ORDER BY asset LIMIT ?4"
)
_HIGHEST = chr(0x10FFFF)


def listBoxes(connection: sqlite3.Connection, query: BoxQuery, after: BoxKey | None, limit: int) -> BoxPage:
    """
    See L{binaryserver.interfaces.ISessionStore.listBoxes}.
    """
    if not query.account:
        rows = connection.execute(_EVERYBODY, (*(after or ("", "")), limit)).fetchall()
    elif after is not None and after.account > query.account:
        rows = []
    else:
        behind = after.asset if after is not None and after.account == query.account else ""
        rows = connection.execute(_OF_ACCOUNT, (query.account, behind, query.prefix, limit, _HIGHEST)).fetchall()
    seen = tuple(
        _summary(row) for row in rows if row[2] and query.matches(BoxKey(row[0], row[1]), isConnected=bool(row[4]))
    )
    return BoxPage(seen, BoxKey(*rows[-1][:2]) if len(rows) == limit else None)


def _summary(row: Sequence[Any]) -> BoxSummary:
    account, asset, incarnation, epoch, connected, seen, protocol, peer, since, listening = row
    owner = Owner(incarnation, epoch, bool(connected), seen)
    return BoxSummary(BoxKey(account, asset), owner, protocol, peer, since, bool(listening))


def boxRecord(connection: sqlite3.Connection, box: BoxKey) -> BoxRecord | None:
    """
    See L{binaryserver.interfaces.ISessionStore.boxRecord}.
    """
    row = connection.execute(f"{_SUMMARY} WHERE account = ? AND asset = ? AND incarnation <> ''", box).fetchone()
    (mqtt,) = connection.execute("SELECT max(mqtt) FROM boxes WHERE account = ? AND asset = ?", box).fetchone()
    streams, last = marks(connection, box), events(connection, box)
    (known,) = connection.execute(
        "SELECT coalesce(max(length(known)), 0) FROM fingerprints WHERE account = ? AND asset = ?", box
    ).fetchone()
    mailbox = connection.execute(
        "SELECT count(key), coalesce(sum(length(payload)), 0), "
        "coalesce(min(queued) FILTER (WHERE NOT delivered), 0) "
        "FROM mailboxes LEFT JOIN messages USING (account, asset) "
        "WHERE account = ? AND asset = ? AND status IS NULL GROUP BY account, asset",
        box,
    ).fetchone()
    hasMailbox = connection.execute("SELECT 1 FROM mailboxes WHERE account = ? AND asset = ?", box).fetchone()
    if row is None and not (streams or last or known or hasMailbox):
        return None
    return BoxRecord(
        None if row is None else _summary(row),
        row is not None and not sqliteleases.isDead(connection, row[2]),
        streams,
        decodeSession(mqtt),
        known // SIZE,
        MailboxSummary(*(mailbox or ())),
        tuple(last),
    )


def links(connection: sqlite3.Connection, account: str) -> int:
    """
    See L{binaryserver.interfaces.ISessionStore.links}.
    """
    (count,) = connection.execute("SELECT count(*) FROM boxes WHERE account = ? AND connected", (account,)).fetchone()
    return int(count)
