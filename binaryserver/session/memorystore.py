"""
Sessions in memory: for tests and trials.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from binaryserver.errors import AccountFull, ConfigError, StoreError
from binaryserver.interfaces import ISessionStore
from binaryserver.model import (
    BoxKey,
    Claim,
    DownlinkMessage,
    Draw,
    Erased,
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
    Renewal,
    StreamMark,
    Take,
)
from binaryserver.plugins import BackEndContext
from binaryserver.session.boxrecords import BoxEvent, remembered, takenOver
from binaryserver.session.buckets import MemoryBuckets
from binaryserver.session.fingerprints import SIZE, appended
from binaryserver.session.memorybox import MemoryBox, epochKeptUntil
from binaryserver.session.memoryboxes import MemoryBoxes
from binaryserver.session.memorymailbox import MemoryMailboxes

MAX_WORKERS = 1 << 14
"""How many worker numbers there are."""

MAY_CLAIM = (Renewal.renewed, Renewal.unknown)
"""What a renewal would say to an incarnation that may claim boxes."""


def instanceOf(incarnation: str) -> str:
    """
    The instance of which C{INSTANCE@START} is one run.
    """
    return incarnation.rpartition("@")[0] or incarnation


@implementer(ISessionStore)
class MemorySessionStore(MemoryBoxes):
    """
    C{memory:}
    """

    def __init__(self, spec: str, context: BackEndContext) -> None:
        if spec.partition(":")[2]:
            raise ConfigError(context.option, f"{spec!r}: memory: takes no value")
        MemoryBoxes.__init__(self, context.reactor)
        self._buckets = MemoryBuckets(context.reactor.seconds)
        self._workers: dict[str, int] = {}
        self._taken: set[int] = set()
        # The incarnation of each instance that is alive, and when, s of the clock, it renewed.
        self._alive: dict[str, tuple[str, float]] = {}
        # The incarnation of each instance that was registered last.
        self._registered: dict[str, str] = {}
        self._mailboxes = MemoryMailboxes(self._ownerOf, self._listenerOf)

    def start(self) -> Deferred[None]:
        """
        See L{ISessionStore.start}.
        """
        return succeed(None)

    def stop(self) -> Deferred[None]:
        """
        See L{ISessionStore.stop}.
        """
        return succeed(None)

    def peers(self, incarnation: str) -> None:
        """
        See L{ISessionStore.peers}: one process's own.
        """

    def leaseWorker(self, incarnation: str, wanted: int | None = None) -> Deferred[int]:
        """
        See L{ISessionStore.leaseWorker}.
        """
        instance = instanceOf(incarnation)
        number = self._workers.get(instance)
        if number is None:
            first = () if wanted is None else (wanted,)
            # Mostly the numbers are taken one after the other.
            tried = chain(first, range(len(self._taken), MAX_WORKERS), range(len(self._taken)))
            number = next((one for one in tried if one not in self._taken), None)
        if number is None:
            return fail(StoreError("every worker number is taken"))
        self._workers[instance] = number
        self._taken.add(number)
        self._alive[instance] = incarnation, self._clock.seconds()
        self._registered[instance] = incarnation
        return succeed(number)

    def renew(self, incarnation: str) -> Deferred[Renewal]:
        """
        See L{ISessionStore.renew}.
        """
        standing = self._standing(incarnation)
        if standing is Renewal.renewed:
            self._alive[instanceOf(incarnation)] = incarnation, self._clock.seconds()
        return succeed(standing)

    def bury(self, leaseMs: int) -> Deferred[list[str]]:
        """
        See L{ISessionStore.bury}.
        """
        now = self._clock.seconds()
        self._alive = {one: alive for one, alive in self._alive.items() if (now - alive[1]) * 1000 <= leaseMs}
        owners = {box.owner.incarnation for box in self._boxes.values() if box.owner and box.isConnected}
        return succeed(sorted(owner for owner in owners if not self._isAlive(owner)))

    def isDead(self, incarnation: str) -> Deferred[bool]:
        """
        See L{ISessionStore.isDead}.
        """
        return succeed(not self._isAlive(incarnation))

    def resign(self, incarnation: str) -> Deferred[None]:
        """
        See L{ISessionStore.resign}.
        """
        if self._isAlive(incarnation):
            del self._alive[instanceOf(incarnation)]
        return succeed(None)

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
    ) -> Deferred[Claim]:
        """
        See L{ISessionStore.claim}.
        """
        standing = self._standing(incarnation)
        if standing not in MAY_CLAIM:
            return fail(StoreError(f"{incarnation} may not claim: {standing.value}"))
        known = self._boxes.get(box)
        if known is not None and known.owner is not None and known.attempt == attempt:
            epoch = known.owner.linkEpoch
            return succeed(Claim(epoch, known.previous, tuple(known.marks.values()), known.mqtt))
        isConnected = known is not None and known.isConnected
        if most and not isConnected and self._linked[box.account] >= most:
            return fail(AccountFull(f"{most} boxes of {box.account} are connected already"))
        known = self._known(box)
        previous = known.previous = known.owner
        known.attempt, known.adopted = attempt, None
        epoch = known.nextEpoch(nowMs)
        if isConnected:
            taken = takenOver(nowMs, protocol, peer, incarnation, epoch)
            known.events = remembered(known.events, taken)
        self._own(box, Owner(incarnation, epoch, True, nowMs))
        known.protocol, known.peer, known.isListening = protocol, peer, False
        if clean:
            known.mqtt = None
        return succeed(Claim(epoch, previous, tuple(known.marks.values()), known.mqtt))

    def release(self, box: BoxKey, linkEpoch: int, nowMs: int, event: BoxEvent | None = None) -> Deferred[bool]:
        """
        See L{ISessionStore.release}.
        """
        known = self._latest(box, linkEpoch)
        if known is None:
            return succeed(False)
        assert known.owner is not None
        self._own(box, known.owner._replace(connected=False, seenAt=nowMs))
        known.isListening, known.adopted = False, None
        if event is not None:
            known.events = remembered(known.events, event)
        return succeed(True)

    def restore(self, incarnation: str, links: Sequence[LinkState]) -> Deferred[list[bool]]:
        """
        See L{ISessionStore.restore}.
        """
        restored = []
        for link in links:
            known = self._known(link.box)
            for mark in link.marks:
                known.raiseMark(mark)
            owner = known.owner
            mine = (link.linkEpoch, incarnation)
            isSame = owner is not None and (owner.linkEpoch, owner.incarnation) == mine
            isLatest = isSame or known.lastEpoch < link.linkEpoch
            if isLatest:
                self._own(link.box, Owner(incarnation, link.linkEpoch, True, link.since))
                known.protocol, known.peer, known.isListening = link.protocol, link.peer, link.isListening
                known.mqtt = link.mqtt
                known.attempt, known.previous, known.adopted = "", None, None
            restored.append(isLatest)
        return succeed(restored)

    def adopt(self, dead: str, incarnation: str, nowMs: int, limit: int, attempt: str) -> Deferred[list[Orphan]]:
        """
        See L{ISessionStore.adopt}.
        """
        orphans: list[Orphan] = []
        for key, box in self._boxes.items():
            owner = box.owner
            if owner is not None and owner.incarnation == incarnation and box.adopted and box.adopted[0] == attempt:
                orphans.append(Orphan(key, owner.linkEpoch, box.adopted[1], box.protocol, box.peer, box.previous))
        if orphans or self._isAlive(dead):
            return succeed(orphans)
        for key, box in self._boxes.items():
            owner = box.owner
            if owner is not None and owner.incarnation == dead and owner.connected and len(orphans) < limit:
                epoch = box.nextEpoch(nowMs)
                self._own(key, Owner(incarnation, epoch, True, nowMs))
                box.isListening = False
                # Who held the box before is kept: the next to adopt it may have to tell, too.
                box.attempt, box.adopted = "", (attempt, owner.linkEpoch)
                orphans.append(Orphan(key, epoch, owner.linkEpoch, box.protocol, box.peer, box.previous))
        return succeed(orphans)

    def draw(self, draws: Sequence[Draw]) -> Deferred[list[float]]:
        """
        See L{ISessionStore.draw}.
        """
        return succeed(self._buckets.draw(draws))

    def erase(self, box: BoxKey) -> Deferred[Erased]:
        """
        See L{ISessionStore.erase}.
        """
        return succeed(self._erase(box))

    def _erase(self, box: BoxKey, beforeMs: int | None = None) -> Erased:
        """
        @param beforeMs: a last link epoch that is kept until before then goes, too
        """
        known = self._boxes.get(box, MemoryBox())
        if known.isConnected:
            return Erased(True, True, 0, 0, 0)
        messages, isStranger = self._mailboxes.erase(box), box in self._strangers
        self._disown(box)
        if known.lastEpoch >= 0 and (beforeMs is None or epochKeptUntil(known.lastEpoch) >= beforeMs):
            self._boxes[box] = MemoryBox(lastEpoch=known.lastEpoch)
        wasKnown = known.isKnown or isStranger or messages is not None
        return Erased(wasKnown, False, messages or 0, len(known.marks), len(known.fingerprints) // SIZE)

    def purge(self, beforeMs: int, limit: int) -> Deferred[int]:
        """
        See L{ISessionStore.purge}.
        """
        lapsed = [
            box
            for box, known in self._boxes.items()
            if not known.isConnected and known.seenAt < beforeMs and not self._mailboxes.hasMail(box)
        ]
        self._forgetStrangers(beforeMs)
        for box in lapsed[:limit]:
            self._erase(box, beforeMs)
        return succeed(len(lapsed[:limit]))

    def commitMarks(self, marks: Sequence[MarkUpdate]) -> Deferred[None]:
        """
        See L{ISessionStore.commitMarks}.
        """
        for box, stream, committed, latest in marks:
            self._known(box).raiseMark(StreamMark(stream, committed, latest))
        return succeed(None)

    def marks(self, box: BoxKey) -> Deferred[tuple[StreamMark, ...]]:
        """
        See L{ISessionStore.marks}.
        """
        known = self._boxes.get(box)
        return succeed(tuple(known.marks.values()) if known else ())

    def fingerprints(self, box: BoxKey) -> Deferred[bytes]:
        """
        See L{ISessionStore.fingerprints}.
        """
        known = self._boxes.get(box)
        return succeed(known.fingerprints if known else b"")

    def commitFingerprints(self, updates: Sequence[FingerprintUpdate], window: int) -> Deferred[None]:
        """
        See L{ISessionStore.commitFingerprints}.
        """
        for box, fingerprints in updates:
            known = self._known(box)
            known.fingerprints = appended(known.fingerprints, fingerprints, window)
        return succeed(None)

    def saveMqtt(self, box: BoxKey, linkEpoch: int, session: MqttSession | None, isListening: bool) -> Deferred[bool]:
        """
        See L{ISessionStore.saveMqtt}.
        """
        known = self._latest(box, linkEpoch)
        if known is None:
            return succeed(False)
        known.mqtt = session
        known.isListening = isListening
        return succeed(True)

    def putMessages(
        self, messages: Sequence[DownlinkMessage], limits: MailboxLimits, nowMs: int
    ) -> Deferred[list[Put]]:
        """
        See L{ISessionStore.putMessages}.
        """
        return succeed([self._mailboxes.put(message, limits, nowMs) for message in messages])

    def takeMessages(self, takes: Sequence[Take], nowMs: int) -> Deferred[list[list[MailboxEntry] | None]]:
        """
        See L{ISessionStore.takeMessages}.
        """
        return succeed([self._mailboxes.take(take, nowMs) for take in takes])

    def progressMessages(self, heard: Sequence[Progress]) -> Deferred[list[MailboxEntry | None]]:
        """
        See L{ISessionStore.progressMessages}.
        """
        return succeed([self._mailboxes.progress(one) for one in heard])

    def removeMessages(self, finished: Sequence[tuple[BoxKey, str]]) -> Deferred[None]:
        """
        See L{ISessionStore.removeMessages}.
        """
        for box, id_ in finished:
            self._mailboxes.remove(box, id_)
        return succeed(None)

    def dueMessages(self, nowMs: int, limit: int) -> Deferred[list[MailboxEntry]]:
        """
        See L{ISessionStore.dueMessages}.
        """
        return succeed(self._mailboxes.due(nowMs, limit))

    def mailbox(self, box: BoxKey) -> Deferred[list[MailboxEntry]]:
        """
        See L{ISessionStore.mailbox}.
        """
        return succeed(self._mailboxes.mailbox(box))

    def mailboxMessages(self) -> Deferred[int]:
        """
        See L{ISessionStore.mailboxMessages}.
        """
        return succeed(self._mailboxes.count())

    def _standing(self, incarnation: str) -> Renewal:
        if self._isAlive(incarnation):
            return Renewal.renewed
        latest = self._registered.get(instanceOf(incarnation))
        if latest is None:
            return Renewal.unknown
        return Renewal.declaredDead if latest == incarnation else Renewal.superseded

    def _isAlive(self, incarnation: str) -> bool:
        alive = self._alive.get(instanceOf(incarnation))
        return alive is not None and alive[0] == incarnation
