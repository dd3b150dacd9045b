"""
Mailboxes in one SQLite file: what is called in the file's thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

from binaryserver.model import (
    NO_QUEUE_MS,
    REMEMBERED_MS,
    RETRY_MS,
    BoxKey,
    DownlinkMessage,
    Final,
    FinalStatus,
    MailboxEntry,
    MailboxLimits,
    Progress,
    Put,
    Take,
)

SCHEMA = """
CREATE TABLE IF NOT EXISTS mailboxes (
    account TEXT NOT NULL,
    asset TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (account, asset)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS messages (
    key INTEGER PRIMARY KEY,
    account TEXT NOT NULL,
    asset TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    id TEXT NOT NULL,
    due INTEGER NOT NULL,
    epoch INTEGER,
    channel TEXT NOT NULL,
    correlation TEXT NOT NULL,
    expires INTEGER NOT NULL,
    no_queue INTEGER NOT NULL,
    want_ack INTEGER NOT NULL,
    queued INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    sent INTEGER NOT NULL,
    delivered INTEGER NOT NULL,
    status TEXT,
    reason TEXT,
    chosen INTEGER,
    rejected TEXT NOT NULL,
    payload BLOB NOT NULL,
    UNIQUE (account, asset, sequence),
    UNIQUE (account, asset, id)
);
CREATE INDEX IF NOT EXISTS messages_due ON messages (due);
CREATE TABLE IF NOT EXISTS finished (
    account TEXT NOT NULL,
    asset TEXT NOT NULL,
    id TEXT NOT NULL,
    until INTEGER NOT NULL,
    PRIMARY KEY (account, asset, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS finished_until ON finished (until);
"""

_ENTRY = (
    "SELECT key, account, asset, id, channel, payload, correlation, expires, no_queue, want_ack, queued, rejected, "
    "sequence, attempts, sent, delivered, status, reason, chosen FROM messages "
)

# What decides on the messages of a box that is named ?1, ?2.
_INBOX = """
SELECT
    coalesce((SELECT sequence FROM mailboxes WHERE account = ?1 AND asset = ?2), 0),
    (SELECT epoch FROM boxes WHERE account = ?1 AND asset = ?2),
    coalesce((
        SELECT incarnation FROM boxes JOIN workers USING (incarnation)
        WHERE account = ?1 AND asset = ?2 AND connected AND listening AND alive
    ), ''),
    count(*),
    coalesce(sum(length(payload)), 0)
FROM messages WHERE account = ?1 AND asset = ?2 AND status IS NULL
"""

# How many finished ids one sweep forgets at most, so that others are not kept waiting.
_FORGOTTEN_AT_ONCE = 10_000

# Of a box that has never come, and of whose messages nothing is known any more.
_FORGET_MAILBOX = """
DELETE FROM mailboxes WHERE account = ?1 AND asset = ?2
AND NOT EXISTS (SELECT 1 FROM messages WHERE account = ?1 AND asset = ?2)
AND NOT EXISTS (SELECT 1 FROM finished WHERE account = ?1 AND asset = ?2)
AND NOT EXISTS (SELECT 1 FROM boxes WHERE account = ?1 AND asset = ?2 AND incarnation <> '')
"""

_MAX_INT64 = 2**63 - 1


class _Inbox:
    """
    A box's mailbox while messages are put.

    @ivar sequence: the last one
    @ivar epoch: that of the box's latest link; L{None}: it never had one
    @ivar listener: as L{Put.listener}
    @ivar count: of the messages without a final status
    @ivar size: bytes of their payloads
    """

    __slots__ = ("count", "epoch", "listener", "sequence", "size")

    def __init__(self, sequence: int, epoch: int | None, listener: str, count: int, size: int) -> None:
        self.sequence = sequence
        self.epoch = epoch
        self.listener = listener
        self.count = count
        self.size = size

    def finalFor(self, message: DownlinkMessage, limits: MailboxLimits, nowMs: int) -> Final | None:
        """
        The final status that a message has at once.
        """
        if message.rejected:
            return Final(FinalStatus.rejected, message.rejected, nowMs)
        if message.expiresAt <= nowMs:
            return Final(FinalStatus.expired, "", nowMs)
        if message.noQueue and not self.listener:
            return Final(FinalStatus.refused, "BOX_AWAY", nowMs)
        if self.count + 1 > limits.messages or self.size + len(message.payload) > limits.size:
            return Final(FinalStatus.refused, "MAILBOX_FULL", nowMs)
        return None


class _Row(NamedTuple):
    """
    An entry and the key of its row.
    """

    key: int
    entry: MailboxEntry


def putMessages(
    connection: sqlite3.Connection, messages: Sequence[DownlinkMessage], limits: MailboxLimits, nowMs: int
) -> list[Put]:
    """
    See L{binaryserver.interfaces.ISessionStore.putMessages}.
    """
    inboxes: dict[BoxKey, _Inbox] = {}
    entered: dict[tuple[BoxKey, str], MailboxEntry] = {}
    rows: list[Sequence[Any]] = []
    puts: list[Put] = []
    for message in messages:
        box, id_ = message.box, message.id
        inbox = inboxes.get(box)
        if inbox is None:
            inbox = inboxes[box] = _Inbox(*connection.execute(_INBOX, box).fetchone())
        known = entered.get((box, id_)) or _entryOf(connection, box, id_)
        if known is not None or _isFinished(connection, box, id_, nowMs):
            puts.append(Put(known, False, inbox.listener))
            continue
        final = inbox.finalFor(message, limits, nowMs)
        if final is None:
            inbox.count += 1
            inbox.size += len(message.payload)
        inbox.sequence += 1
        entry = MailboxEntry(message if final is None else message._replace(payload=b""), inbox.sequence, final=final)
        entered[box, id_] = entry
        rows.append(_rowFor(entry, inbox.epoch))
        puts.append(Put(entry, True, inbox.listener))
    connection.executemany(
        "INSERT INTO messages (account, asset, sequence, id, due, epoch, channel, correlation, expires, no_queue, "
        "want_ack, queued, attempts, sent, delivered, status, reason, chosen, rejected, payload) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, 0, ?, ?, ?, ?, ?)",
        rows,
    )
    connection.executemany(
        "INSERT OR REPLACE INTO mailboxes VALUES (?, ?, ?)",
        [(*box, inboxes[box].sequence) for box in {box: None for box, _ in entered}],
    )
    return puts


def _rowFor(entry: MailboxEntry, epoch: int | None) -> Sequence[Any]:
    message, final = entry.message, entry.final
    if final is not None:
        due = final.at + RETRY_MS
    elif message.noQueue:
        due = min(message.expiresAt, message.queuedAt + NO_QUEUE_MS)
    else:
        due = message.expiresAt
    return (
        *message.box,
        entry.sequence,
        message.id,
        due,
        epoch,
        message.channel,
        message.correlationId,
        message.expiresAt,
        message.noQueue,
        message.wantAck,
        message.queuedAt,
        *((final.status.value, final.reason, final.at) if final is not None else (None, None, None)),
        message.rejected,
        message.payload,
    )


def _isFinished(connection: sqlite3.Connection, box: BoxKey, id_: str, nowMs: int) -> bool:
    found = connection.execute(
        "SELECT 1 FROM finished WHERE account = ? AND asset = ? AND id = ? AND until > ?", (*box, id_, nowMs)
    )
    return found.fetchone() is not None


def _entryOf(connection: sqlite3.Connection, box: BoxKey, id_: str) -> MailboxEntry | None:
    row = _rowOf(connection, box, id_)
    return None if row is None else row.entry


def _rowOf(connection: sqlite3.Connection, box: BoxKey, id_: str) -> _Row | None:
    row = connection.execute(_ENTRY + "WHERE account = ? AND asset = ? AND id = ?", (*box, id_)).fetchone()
    return None if row is None else _read(row)


def _read(row: Sequence[Any]) -> _Row:
    key, account, asset, id_, channel, payload, correlation, expires, noQueue, wantAck, queued, rejected = row[:12]
    sequence, attempts, sent, delivered, status, reason, chosen = row[12:]
    box = BoxKey(account, asset)
    message = DownlinkMessage(
        box, id_, channel, payload, correlation, expires, bool(noQueue), bool(wantAck), queued, rejected
    )
    final = None if status is None else Final(FinalStatus(status), reason, chosen)
    return _Row(key, MailboxEntry(message, sequence, attempts, sent, delivered, final))


def takeMessages(connection: sqlite3.Connection, takes: Sequence[Take], nowMs: int) -> list[list[MailboxEntry] | None]:
    """
    See L{binaryserver.interfaces.ISessionStore.takeMessages}.
    """
    return [_take(connection, take, nowMs) for take in takes]


def _take(connection: sqlite3.Connection, take: Take, nowMs: int) -> list[MailboxEntry] | None:
    (isLatest,) = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM boxes WHERE account = ? AND asset = ? AND epoch = ? AND incarnation <> '')",
        (*take.box, take.linkEpoch),
    ).fetchone()
    if not isLatest:
        return None
    found = connection.execute(
        _ENTRY + "WHERE account = ?1 AND asset = ?2 AND sequence > ?3 AND status IS NULL AND delivered = 0 "
        "AND expires > ?4 AND (NOT no_queue OR attempts OR epoch = ?5 AND queued >= ?6) ORDER BY sequence LIMIT ?7",
        (*take.box, take.after, nowMs, take.linkEpoch, nowMs - NO_QUEUE_MS, take.limit),
    )
    rows = [_read(row) for row in found]
    connection.executemany(
        "UPDATE messages SET attempts = attempts + 1, sent = ? WHERE key = ?", [(nowMs, row.key) for row in rows]
    )
    # Once it is attempted, what might not wait ends as any other.
    connection.executemany(
        "UPDATE messages SET due = expires WHERE key = ?",
        [(row.key,) for row in rows if row.entry.message.noQueue and not row.entry.attempts],
    )
    return [row.entry._replace(attempts=row.entry.attempts + 1, sentAt=nowMs) for row in rows]


def progressMessages(connection: sqlite3.Connection, heard: Sequence[Progress]) -> list[MailboxEntry | None]:
    """
    See L{binaryserver.interfaces.ISessionStore.progressMessages}.
    """
    return [_progress(connection, one) for one in heard]


def _progress(connection: sqlite3.Connection, heard: Progress) -> MailboxEntry | None:
    row = _rowOf(connection, heard.box, heard.id)
    if row is None or row.entry.final is not None:
        return None
    key, entry = row
    if heard.attempts and heard.attempts != entry.attempts:
        return None
    final = heard.final
    if final is None:
        if entry.deliveredAt:
            return None
        connection.execute("UPDATE messages SET delivered = ? WHERE key = ?", (heard.at, key))
        entry = entry._replace(deliveredAt=heard.at)
        if entry.message.wantAck:
            return entry
        final = Final(FinalStatus.acked, "", heard.at)
    _choose(connection, [(key, final, final.at + RETRY_MS)])
    return entry._replace(final=final)


def _choose(connection: sqlite3.Connection, chosen: Sequence[tuple[int, Final, int]]) -> None:
    """
    Write final statuses, by the key of the row, with the time when it is due to be looked after.
    """
    connection.executemany(
        "UPDATE messages SET status = ?, reason = ?, chosen = ?, due = ? WHERE key = ?",
        [(final.status.value, final.reason, final.at, due, key) for key, final, due in chosen],
    )


def removeMessages(connection: sqlite3.Connection, finished: Sequence[tuple[BoxKey, str]]) -> None:
    """
    See L{binaryserver.interfaces.ISessionStore.removeMessages}. What expired before it came is remembered as long.
    """
    keys = [(*box, id_) for box, id_ in finished]
    connection.executemany(
        "INSERT OR REPLACE INTO finished SELECT account, asset, id, "
        f"min(max(expires, chosen), {_MAX_INT64 - REMEMBERED_MS}) + {REMEMBERED_MS} "
        "FROM messages WHERE account = ? AND asset = ? AND id = ? AND status IS NOT NULL",
        keys,
    )
    connection.executemany(
        "DELETE FROM messages WHERE account = ? AND asset = ? AND id = ? AND status IS NOT NULL", keys
    )


def dueMessages(connection: sqlite3.Connection, nowMs: int, limit: int) -> list[MailboxEntry]:
    """
    See L{binaryserver.interfaces.ISessionStore.dueMessages}.
    """
    forgotten = connection.execute(
        "SELECT account, asset, id FROM finished WHERE until <= ? LIMIT ?", (nowMs, _FORGOTTEN_AT_ONCE)
    ).fetchall()
    connection.executemany("DELETE FROM finished WHERE account = ? AND asset = ? AND id = ?", forgotten)
    connection.executemany(_FORGET_MAILBOX, {(account, asset) for account, asset, _ in forgotten})
    due: list[MailboxEntry] = []
    chosen = []
    for row in connection.execute(_ENTRY + "WHERE due <= ? ORDER BY due LIMIT ?", (nowMs, limit)).fetchall():
        key, entry = _read(row)
        final = entry.final
        if final is None:
            isOver = entry.message.expiresAt <= nowMs
            final = Final(FinalStatus.expired, "", nowMs) if isOver else Final(FinalStatus.refused, "BOX_AWAY", nowMs)
        chosen.append((key, final, nowMs + RETRY_MS))
        due.append(entry._replace(final=final))
    _choose(connection, chosen)
    return due


def mailbox(connection: sqlite3.Connection, box: BoxKey) -> list[MailboxEntry]:
    """
    See L{binaryserver.interfaces.ISessionStore.mailbox}.
    """
    rows = connection.execute(_ENTRY + "WHERE account = ? AND asset = ? ORDER BY sequence", box)
    return [_read(row).entry for row in rows]


def mailboxMessages(connection: sqlite3.Connection) -> int:
    """
    See L{binaryserver.interfaces.ISessionStore.mailboxMessages}.
    """
    count: int = connection.execute("SELECT count(*) FROM messages").fetchone()[0]
    return count
