"""
Mailboxes in memory.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

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
    Owner,
    Progress,
    Put,
    Take,
)
from binaryserver.session.boxrecords import MailboxSummary


class _Mailbox:
    """
    One box's.

    @ivar entries: by id, in the order of their sequences
    @ivar epochs: the link epoch that a C{noQueue} message was put under, by id
    @ivar finished: when to forget a finished id, Unix ms, by id
    """

    __slots__ = ("entries", "epochs", "finished", "last")

    def __init__(self) -> None:
        self.entries: dict[str, MailboxEntry] = {}
        self.epochs: dict[str, int] = {}
        self.finished: dict[str, int] = {}
        self.last = 0


class MemoryMailboxes:
    """
    Every box's. Methods as those of L{binaryserver.interfaces.ISessionStore}, at once.
    """

    def __init__(self, owner: Callable[[BoxKey], Owner | None], listener: Callable[[BoxKey], str]) -> None:
        """
        @param owner: who holds, or last held, a box
        @param listener: the incarnation that listens for it, empty: none
        """
        self._owner = owner
        self._listener = listener
        self._boxes: dict[BoxKey, _Mailbox] = {}
        # (when, box, id). Some of it may be gone, or due at another time by now.
        self._due: list[tuple[int, BoxKey, str]] = []
        self._dueAt: dict[tuple[BoxKey, str], int] = {}
        # (until when, box, id) of the finished ones.
        self._remembered: list[tuple[int, BoxKey, str]] = []

    def put(self, message: DownlinkMessage, limits: MailboxLimits, nowMs: int) -> Put:
        """
        One of C{putMessages}.
        """
        box = self._boxes.setdefault(message.box, _Mailbox())
        listener = self._listener(message.box)
        known = box.entries.get(message.id)
        if known is not None or box.finished.get(message.id, nowMs) > nowMs:
            return Put(known, False, listener)
        final = None
        live = [entry for entry in box.entries.values() if entry.final is None]
        size = sum(len(entry.message.payload) for entry in live) + len(message.payload)
        if message.rejected:
            final = Final(FinalStatus.rejected, message.rejected, nowMs)
        elif message.expiresAt <= nowMs:
            final = Final(FinalStatus.expired, "", nowMs)
        elif message.noQueue and not listener:
            final = Final(FinalStatus.refused, "BOX_AWAY", nowMs)
        elif len(live) >= limits.messages or size > limits.size:
            final = Final(FinalStatus.refused, "MAILBOX_FULL", nowMs)
        box.last += 1
        entry = MailboxEntry(message._replace(payload=b"") if final else message, box.last, final=final)
        box.entries[message.id] = entry
        owner = self._owner(message.box)
        if message.noQueue and owner is not None:
            box.epochs[message.id] = owner.linkEpoch
        if final is not None:
            due = nowMs + RETRY_MS
        else:
            due = min(message.expiresAt, message.queuedAt + NO_QUEUE_MS) if message.noQueue else message.expiresAt
        self._dueNext(entry, due)
        return Put(entry, True, listener)

    def take(self, take: Take, nowMs: int) -> list[MailboxEntry] | None:
        """
        One of C{takeMessages}.
        """
        owner = self._owner(take.box)
        if owner is None or owner.linkEpoch != take.linkEpoch:
            return None
        taken: list[MailboxEntry] = []
        box = self._boxes.get(take.box)
        if box is None:
            return taken
        for entry in list(box.entries.values()):
            message = entry.message
            if len(taken) >= take.limit:
                break
            if entry.sequence <= take.after or entry.final or entry.deliveredAt or message.expiresAt <= nowMs:
                continue
            isLate = box.epochs.get(message.id) != take.linkEpoch or message.queuedAt + NO_QUEUE_MS < nowMs
            if message.noQueue and not entry.attempts and isLate:
                continue
            entry = entry._replace(attempts=entry.attempts + 1, sentAt=nowMs)
            box.entries[message.id] = entry
            if message.noQueue:
                self._dueNext(entry, message.expiresAt)
            taken.append(entry)
        return taken

    def progress(self, heard: Progress) -> MailboxEntry | None:
        """
        One of C{progressMessages}.
        """
        box = self._boxes.get(heard.box)
        entry = box.entries.get(heard.id) if box is not None else None
        if box is None or entry is None or entry.final is not None:
            return None
        if heard.attempts and heard.attempts != entry.attempts:
            return None
        final = heard.final
        if final is None:
            if entry.deliveredAt:
                return None
            entry = entry._replace(deliveredAt=heard.at)
            if not entry.message.wantAck:
                final = Final(FinalStatus.acked, "", heard.at)
        if final is not None:
            entry = entry._replace(final=final)
            self._dueNext(entry, final.at + RETRY_MS)
        box.entries[heard.id] = entry
        return entry

    def remove(self, key: BoxKey, id_: str) -> None:
        """
        One of C{removeMessages}.
        """
        box = self._boxes.get(key)
        entry = box.entries.get(id_) if box is not None else None
        if box is None or entry is None or entry.final is None:
            return
        del box.entries[id_]
        box.epochs.pop(id_, None)
        self._dueAt.pop((key, id_), None)
        until = max(entry.message.expiresAt, entry.final.at) + REMEMBERED_MS
        box.finished[id_] = until
        heapq.heappush(self._remembered, (until, key, id_))

    def due(self, nowMs: int, limit: int) -> list[MailboxEntry]:
        """
        C{dueMessages}.
        """
        while self._remembered and self._remembered[0][0] <= nowMs:
            until, key, id_ = heapq.heappop(self._remembered)
            mailbox = self._boxes.get(key)
            if mailbox is None or mailbox.finished.get(id_) != until:
                continue
            del mailbox.finished[id_]
            if not self.hasMail(key) and self._owner(key) is None:
                # The box has never come.
                del self._boxes[key]
        due: list[MailboxEntry] = []
        while self._due and self._due[0][0] <= nowMs and len(due) < limit:
            when, key, id_ = heapq.heappop(self._due)
            if self._dueAt.get((key, id_)) != when:
                continue
            box = self._boxes[key]
            entry = box.entries[id_]
            if entry.final is None:
                late = entry.message.expiresAt <= nowMs
                final = Final(FinalStatus.expired, "", nowMs) if late else Final(FinalStatus.refused, "BOX_AWAY", nowMs)
                box.entries[id_] = entry = entry._replace(final=final)
            self._dueNext(entry, nowMs + RETRY_MS)
            due.append(entry)
        return due

    def summary(self, box: BoxKey) -> MailboxSummary | None:
        """
        What waits for a box; L{None}: it has no mailbox.
        """
        known = self._boxes.get(box)
        if known is None:
            return None
        live = [entry for entry in known.entries.values() if entry.final is None]
        waiting = [entry.message.queuedAt for entry in live if not entry.deliveredAt]
        return MailboxSummary(len(live), sum(len(entry.message.payload) for entry in live), min(waiting, default=0))

    def mailbox(self, key: BoxKey) -> list[MailboxEntry]:
        """
        C{mailbox}.
        """
        box = self._boxes.get(key)
        return list(box.entries.values()) if box is not None else []

    def count(self) -> int:
        """
        C{mailboxMessages}.
        """
        return sum(len(box.entries) for box in self._boxes.values())

    def hasMail(self, key: BoxKey) -> bool:
        """
        Something stands in a box's mailbox, or is remembered as finished.
        """
        box = self._boxes.get(key)
        return box is not None and bool(box.entries or box.finished)

    def erase(self, key: BoxKey) -> int | None:
        """
        Remove a box's mailbox. Gives how many messages stood in it; L{None}: there was none.
        """
        box = self._boxes.pop(key, None)
        if box is None:
            return None
        for id_ in box.entries:
            del self._dueAt[key, id_]
        return len(box.entries)

    def _dueNext(self, entry: MailboxEntry, when: int) -> None:
        place = (entry.message.box, entry.message.id)
        if self._dueAt.get(place) == when:
            return
        self._dueAt[place] = when
        heapq.heappush(self._due, (when, *place))
