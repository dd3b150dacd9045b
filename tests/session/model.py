"""
An L{ISessionStore} as plain dicts: what the others are compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from binaryserver.errors import AccountFull, StoreError
from binaryserver.model import (
    EPOCH_2010_MS,
    NO_QUEUE_MS,
    RETRY_MS,
    BoxKey,
    Claim,
    DownlinkMessage,
    Erased,
    Final,
    FinalStatus,
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
    StreamMark,
    Take,
)


class ModelStore:
    """
    Answers at once.
    """

    def __init__(self) -> None:
        self.alive: set[str] = set()
        self.heardOf: set[str] = set()
        self.adopted: dict[BoxKey, tuple[str, Orphan]] = {}
        self.before: dict[BoxKey, Owner | None] = {}
        self.attempts: dict[BoxKey, tuple[str, Owner | None]] = {}
        self.owners: dict[BoxKey, Owner] = {}
        self.epochs: dict[BoxKey, int] = {}
        self.listening: dict[BoxKey, bool] = {}
        self.sessions: dict[BoxKey, MqttSession | None] = {}
        self.streams: dict[BoxKey, dict[int, StreamMark]] = {}
        self.prints: dict[BoxKey, list[bytes]] = {}
        self.entries: dict[tuple[BoxKey, str], MailboxEntry] = {}
        self.given: dict[tuple[BoxKey, str], int] = {}
        self.putUnder: dict[tuple[BoxKey, str], Owner | None] = {}
        self.finished: set[tuple[BoxKey, str]] = set()
        self.counts: dict[BoxKey, int] = {}

    def leaseWorker(self, incarnation: str) -> None:
        """
        See L{ISessionStore.leaseWorker}; the number is the store's to choose.
        """
        self.alive = {one for one in self.alive if one[0] != incarnation[0]} | {incarnation}
        self.heardOf.add(incarnation[0])

    def resign(self, incarnation: str) -> None:
        """
        See L{ISessionStore.resign}.
        """
        self.alive.discard(incarnation)

    def isDead(self, incarnation: str) -> bool:
        """
        See L{ISessionStore.isDead}.
        """
        return incarnation not in self.alive

    def claim(
        self,
        box: BoxKey,
        incarnation: str,
        protocol: str,
        peer: str,
        nowMs: int,
        clean: bool,
        attempt: str,
        most: int = 0,
    ) -> Claim:
        """
        See L{ISessionStore.claim}.
        """
        if incarnation[0] in self.heardOf and incarnation not in self.alive:
            raise StoreError("it is dead")
        if box in self.attempts and self.attempts[box][0] == attempt:
            return Claim(self.owners[box].linkEpoch, self.attempts[box][1], self.marks(box), self.sessions.get(box))
        linked = {one for one, owner in self.owners.items() if owner.connected and one.account == box.account}
        if most and box not in linked and len(linked) >= most:
            raise AccountFull("it is full")
        previous = self.owners.get(box)
        epoch = self._own(box, incarnation, nowMs)
        self.attempts[box] = (attempt, previous)
        self.before[box] = previous
        if clean:
            self.sessions[box] = None
        return Claim(epoch, previous, self.marks(box), self.sessions.get(box))

    def _own(self, box: BoxKey, incarnation: str, nowMs: int) -> int:
        epoch = nowMs - EPOCH_2010_MS
        if box in self.epochs and self.epochs[box] >= epoch:
            epoch = self.epochs[box] + 1
        self.epochs[box] = epoch
        self.owners[box] = Owner(incarnation, epoch, True, nowMs)
        self.listening[box] = False
        self.attempts.pop(box, None)
        self.adopted.pop(box, None)
        return epoch

    def _isLatest(self, box: BoxKey, linkEpoch: int) -> bool:
        return box in self.owners and self.owners[box].linkEpoch == linkEpoch

    def release(self, box: BoxKey, linkEpoch: int, nowMs: int) -> bool:
        """
        See L{ISessionStore.release}.
        """
        if not self._isLatest(box, linkEpoch):
            return False
        self.owners[box] = Owner(self.owners[box].incarnation, linkEpoch, False, nowMs)
        self.adopted.pop(box, None)
        return True

    def restore(self, incarnation: str, links: Sequence[LinkState]) -> list[bool]:
        """
        See L{ISessionStore.restore}.
        """
        return [self._restore(incarnation, link) for link in links]

    def _restore(self, incarnation: str, link: LinkState) -> bool:
        self.commitMarks([MarkUpdate(link.box, *mark) for mark in link.marks])
        owner = self.owners.get(link.box)
        if self.epochs.get(link.box, -1) > link.linkEpoch:
            return False
        if owner is None and self.epochs.get(link.box) == link.linkEpoch:
            return False
        if owner is not None and owner.linkEpoch == link.linkEpoch and owner.incarnation != incarnation:
            return False
        self.epochs[link.box] = link.linkEpoch
        self.owners[link.box] = Owner(incarnation, link.linkEpoch, True, link.since)
        self.listening[link.box] = link.isListening
        self.attempts.pop(link.box, None)
        self.adopted.pop(link.box, None)
        self.before.pop(link.box, None)
        self.sessions[link.box] = link.mqtt
        return True

    def adopt(self, dead: str, incarnation: str, nowMs: int, limit: int, attempt: str) -> list[Orphan]:
        """
        See L{ISessionStore.adopt}; of a limit that is never reached.
        """
        again = [
            orphan
            for box, (by, orphan) in self.adopted.items()
            if by == attempt and self.owners[box].incarnation == incarnation
        ]
        if again or dead in self.alive:
            return again
        lost = {box: owner.linkEpoch for box, owner in self.owners.items() if owner[:1] == (dead,) and owner.connected}
        for box, epoch in lost.items():
            new = self._own(box, incarnation, nowMs)
            self.adopted[box] = (attempt, Orphan(box, new, epoch, "md30", "192.0.2.1", self.before.get(box)))
        return [self.adopted[box][1] for box in lost]

    def erase(self, box: BoxKey) -> Erased:
        """
        See L{ISessionStore.erase}.
        """
        owner = self.owners.get(box)
        if owner is not None and owner.connected:
            return Erased(True, True, 0, 0, 0)
        counts = [len(kept) for kept in (self.mailbox(box), self.marks(box), self.prints.get(box, []))]
        wasKnown = owner is not None or box in self.counts or any(counts)
        kept: tuple[dict[BoxKey, Any], ...] = (
            self.owners,
            self.listening,
            self.sessions,
            self.streams,
            self.prints,
            self.counts,
            self.attempts,
            self.adopted,
            self.before,
        )
        for byBox in kept:
            byBox.pop(box, None)
        mail: tuple[dict[tuple[BoxKey, str], Any], ...] = (self.entries, self.given, self.putUnder)
        for byId in mail:
            for key in [key for key in byId if key[0] == box]:
                del byId[key]
        self.finished = {key for key in self.finished if key[0] != box}
        return Erased(wasKnown, False, *counts)

    def purge(self, beforeMs: int, limit: int) -> int:
        """
        See L{ISessionStore.purge}; of a limit that is never reached, within a day.
        """
        mail = {key[0] for key in (*self.entries, *self.finished)}
        lapsed = [
            box
            for box, owner in self.owners.items()
            if owner.seenAt < beforeMs and not owner.connected and box not in mail
        ]
        for box in lapsed:
            self.erase(box)
        return len(lapsed)

    def saveMqtt(self, box: BoxKey, linkEpoch: int, session: MqttSession | None, isListening: bool) -> bool:
        """
        See L{ISessionStore.saveMqtt}.
        """
        if not self._isLatest(box, linkEpoch):
            return False
        self.sessions[box] = session
        self.listening[box] = isListening
        return True

    def commitMarks(self, marks: Sequence[MarkUpdate]) -> None:
        """
        See L{ISessionStore.commitMarks}.
        """
        for update in marks:
            streams = self.streams.setdefault(update.box, {})
            old = streams.pop(update.stream, StreamMark(update.stream, update.committed, update.latest))
            committed, latest = max(old.committed, update.committed), max(old.latest, update.latest)
            streams[update.stream] = StreamMark(update.stream, committed, latest)
            self.streams[update.box] = dict(list(streams.items())[-4:])

    def marks(self, box: BoxKey) -> tuple[StreamMark, ...]:
        """
        See L{ISessionStore.marks}.
        """
        return tuple(self.streams.get(box, {}).values())

    def commitFingerprints(self, updates: Sequence[FingerprintUpdate], window: int) -> None:
        """
        See L{ISessionStore.commitFingerprints}.
        """
        for box, more in updates:
            known = self.prints.get(box, [])
            new = [more[at : at + 8] for at in range(0, len(more), 8)][-window:]
            there = next(count for count in range(len(new), -1, -1) if known[len(known) - count :] == new[:count])
            self.prints[box] = (known + new[there:])[-window:]

    def fingerprints(self, box: BoxKey) -> bytes:
        """
        See L{ISessionStore.fingerprints}.
        """
        return b"".join(self.prints.get(box, []))

    def putMessages(self, messages: Sequence[DownlinkMessage], limits: MailboxLimits, nowMs: int) -> list[Put]:
        """
        See L{ISessionStore.putMessages}.
        """
        return [self._put(message, limits, nowMs) for message in messages]

    def _put(self, message: DownlinkMessage, limits: MailboxLimits, nowMs: int) -> Put:
        key = (message.box, message.id)
        owner = self.owners.get(message.box)
        isHeard = owner is not None and owner.connected and self.listening[message.box]
        listener = owner.incarnation if owner and isHeard and owner.incarnation in self.alive else ""
        if key in self.entries or key in self.finished:
            return Put(self.entries.get(key), False, listener)
        waiting = [len(entry.message.payload) for entry in self.mailbox(message.box) if entry.final is None]
        final = None
        if message.rejected:
            final = Final(FinalStatus.rejected, message.rejected, nowMs)
        elif nowMs >= message.expiresAt:
            final = Final(FinalStatus.expired, "", nowMs)
        elif message.noQueue and listener == "":
            final = Final(FinalStatus.refused, "BOX_AWAY", nowMs)
        elif len(waiting) + 1 > limits.messages or sum(waiting) + len(message.payload) > limits.size:
            final = Final(FinalStatus.refused, "MAILBOX_FULL", nowMs)
        self.counts[message.box] = self.counts.get(message.box, 0) + 1
        kept = message if final is None else message._replace(payload=b"")
        self.entries[key] = MailboxEntry(kept, self.counts[message.box], final=final)
        self.putUnder[key] = owner
        return Put(self.entries[key], True, listener)

    def takeMessages(self, takes: Sequence[Take], nowMs: int) -> list[list[MailboxEntry] | None]:
        """
        See L{ISessionStore.takeMessages}.
        """
        return [self._take(take, nowMs) if self._isLatest(take.box, take.linkEpoch) else None for take in takes]

    def _take(self, take: Take, nowMs: int) -> list[MailboxEntry]:
        def mayGo(entry: MailboxEntry) -> bool:
            message = entry.message
            if entry.final or entry.deliveredAt or message.expiresAt <= nowMs or entry.sequence <= take.after:
                return False
            if not message.noQueue or entry.attempts:
                return True
            owner = self.putUnder[message.box, message.id]
            return owner is not None and owner.linkEpoch == take.linkEpoch and nowMs - message.queuedAt <= NO_QUEUE_MS

        taken = [entry for entry in self.mailbox(take.box) if mayGo(entry)][: take.limit]
        taken = [entry._replace(attempts=entry.attempts + 1, sentAt=nowMs) for entry in taken]
        self.entries.update({(take.box, entry.message.id): entry for entry in taken})
        return taken

    def progressMessages(self, heard: Sequence[Progress]) -> list[MailboxEntry | None]:
        """
        See L{ISessionStore.progressMessages}.
        """
        return [self._progress(one) for one in heard]

    def _progress(self, heard: Progress) -> MailboxEntry | None:
        entry = self.entries.get((heard.box, heard.id))
        if entry is None or entry.final is not None or (heard.final is None and entry.deliveredAt):
            return None
        if heard.attempts not in (0, entry.attempts):
            return None
        if heard.final is not None:
            entry = entry._replace(final=heard.final)
        elif entry.message.wantAck:
            entry = entry._replace(deliveredAt=heard.at)
        else:
            entry = entry._replace(deliveredAt=heard.at, final=Final(FinalStatus.acked, "", heard.at))
        self.entries[heard.box, heard.id] = entry
        return entry

    def removeMessages(self, finished: Sequence[tuple[BoxKey, str]]) -> None:
        """
        See L{ISessionStore.removeMessages}; within a day.
        """
        for key in finished:
            if key in self.entries and self.entries[key].final is not None:
                del self.entries[key]
                self.given.pop(key, None)
                self.finished.add(key)

    def dueMessages(self, nowMs: int, limit: int) -> list[MailboxEntry]:
        """
        See L{ISessionStore.dueMessages}; of a limit that is never reached.
        """
        due = []
        for key, entry in self.entries.items():
            message, final = entry.message, entry.final
            if final is None and message.expiresAt <= nowMs:
                entry = entry._replace(final=Final(FinalStatus.expired, "", nowMs))
            elif final is None and message.noQueue and not entry.attempts and message.queuedAt + NO_QUEUE_MS <= nowMs:
                entry = entry._replace(final=Final(FinalStatus.refused, "BOX_AWAY", nowMs))
            elif final is None or max(final.at, self.given.get(key, 0)) + RETRY_MS > nowMs:
                continue
            self.entries[key] = entry
            self.given[key] = nowMs
            due.append(entry)
        return due

    def mailbox(self, box: BoxKey) -> list[MailboxEntry]:
        """
        See L{ISessionStore.mailbox}.
        """
        return [entry for entry in self.entries.values() if entry.message.box == box]
