"""
Which box has its link here: claims, takeovers, and the handing over of a box to another instance (DESIGN 11).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, TimeoutError, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from binaryserver.errors import StoreError, StoreNotAsked, StoreUnavailable
from binaryserver.interfaces import IInbox, IPeers, ISessionStore
from binaryserver.model import BoxKey, Claim, StreamMark
from binaryserver.session.box import BoxSession
from binaryserver.session.boxrecords import BoxEvent, EventKind
from binaryserver.session.fingerprints import Fingerprints
from binaryserver.session.reasons import Ending, Reason
from binaryserver.session.releases import Releases
from binaryserver.session.uplink import Uplink

if TYPE_CHECKING:
    from binaryserver.session.link import BoxLink


_CLAIM_RETRY = 1.0
_FINGERPRINTS_RETRY = 1.0


@implementer(IPeers)
class NoPeers:
    """
    The only instance: whoever held a box before is dead.
    """

    def start(self, inbox: IInbox) -> Deferred[None]:
        """
        See L{IPeers.start}.
        """
        return succeed(None)

    def stop(self) -> Deferred[None]:
        """
        See L{IPeers.stop}.
        """
        return succeed(None)

    def handOver(self, incarnation: str, box: BoxKey, linkEpoch: int) -> Deferred[tuple[StreamMark, ...] | None]:
        """
        See L{IPeers.handOver}.
        """
        return succeed(None)

    def wake(self, incarnation: str, boxes: Sequence[BoxKey]) -> None:
        """
        See L{IPeers.wake}.
        """

    def disconnect(self, incarnation: str, box: BoxKey, linkEpoch: int) -> Deferred[bool | None]:
        """
        See L{IPeers.disconnect}.
        """
        return succeed(None)


class Registry:
    """
    The boxes of one instance.

    @ivar boxes: those with a link, or with anything in flight or not yet written
    @ivar links: every link of the instance that is or may become a box's
    @ivar openLinks: how many boxes are here, by box protocol and account
    @ivar releases: the ends of links on their way to the session store
    """

    log = Logger()

    def __init__(
        self,
        store: ISessionStore,
        uplink: Uplink,
        peers: IPeers,
        clock: IReactorTime,
        incarnation: str,
        nowMs: Callable[[], int],
        handoverTimeout: float,
    ) -> None:
        """
        @param incarnation: this process's
        @param nowMs: Unix ms
        @param handoverTimeout: s, the longest that a box's tracks wait for its earlier owner's answer
        """
        self._store = store
        self._uplink = uplink
        self._peers = peers
        self._clock = clock
        self._incarnation = incarnation
        self._nowMs = nowMs
        self._handoverTimeout = handoverTimeout
        self.releases = Releases(store, clock)
        self.boxes: dict[BoxKey, BoxSession] = {}
        self.links: set[BoxLink] = set()
        self.openLinks: dict[tuple[str, str], int] = {}
        self._claiming: dict[BoxKey, int] = {}
        # Boxes that the store may have given to a link of this instance, and who asks for them meanwhile.
        self._uncertain: dict[BoxKey, list[Deferred[None]]] = {}
        # Boxes whose fingerprints the session store is asked for, each with its latest asking.
        self._loading: dict[BoxSession, object] = {}
        self._leaving: dict[BoxSession, list[Deferred[tuple[StreamMark, ...]]]] = {}
        uplink.onBoxSettled = self._boxSettled
        uplink.onPressure = self._pauseAll
        uplink.onRelief = self._resumeAll

    def claim(
        self,
        link: BoxLink,
        key: BoxKey,
        protocol: str,
        peer: str,
        clean: bool,
        refused: Callable[[Failure], None],
        most: int = 0,
    ) -> Deferred[Claim]:
        """
        Make a link the box's link: the one before it, wherever it is, is closed.

        Fires with the claim once C{link.box} and C{link.linkEpoch} are set. The link may be superseded by then: its
        C{takenOver} was called. If the session store does not answer, it is not known whether the link has the box:
        C{refused} is called, and the claim goes on until it is known, since the one before it is to be asked for the
        box's tracks. Fails with L{StoreError} where it is known that the link does not have it.

        @param most: see L{ISessionStore.claim}
        """
        if key in self._uncertain:
            return fail(StoreNotAsked("it has not answered for this box yet"))
        claimed: Deferred[Claim] = Deferred()
        attempt = os.urandom(8).hex()

        def ask() -> None:
            asked = self._store.claim(key, self._incarnation, protocol, peer, self._nowMs(), clean, attempt, most)
            asked.addCallbacks(answered, failed)

        def answered(claim: Claim) -> None:
            self._claimAnswered(key)
            claimed.callback(self._claimed(claim, link, key))
            self._certain(key)

        def failed(failure: Failure) -> None:
            wasAsked = key in self._uncertain
            isRefused = failure.check(StoreError) and not failure.check(StoreUnavailable)
            if isRefused or (not wasAsked and (not failure.check(StoreUnavailable) or failure.check(StoreNotAsked))):
                self._claimAnswered(key)
                box = self.boxes.get(key)
                if box is not None:
                    # Made by a handover that met this claim.
                    self._boxSettled(box)
                if wasAsked:
                    self._certain(key)
                else:
                    claimed.errback(failure)
                return
            if not wasAsked:
                self._uncertain[key] = []
                refused(failure)
            self._clock.callLater(_CLAIM_RETRY, ask)

        self._claiming[key] = self._claiming.get(key, 0) + 1
        ask()
        return claimed

    def _claimAnswered(self, key: BoxKey) -> None:
        self._claiming[key] -= 1
        if not self._claiming[key]:
            del self._claiming[key]

    def _certain(self, key: BoxKey) -> None:
        for question in self._uncertain.pop(key, ()):
            question.callback(None)

    def _claimed(self, claim: Claim, link: BoxLink, key: BoxKey) -> Claim:
        box = self.boxes.get(key)
        if box is None:
            box = self.boxes[key] = BoxSession(key)
        box.merge(claim.marks)
        link.box = box
        link.linkEpoch = claim.linkEpoch
        if claim.linkEpoch < box.linkEpoch:
            # Another link of the box was claimed after this one, and heard of it before.
            link.takenOver()
            self._boxSettled(box)
            return claim
        old, box.link, box.linkEpoch = box.link, link, claim.linkEpoch
        if old is not None:
            old.takenOver()
        previous = claim.previous
        if previous is not None and previous.incarnation != self._incarnation:
            self._awaitHandover(box, previous.incarnation, claim.linkEpoch)
        # Only after our own question is under way: whoever waits for this answer is told then that it lost the box.
        self._answerHandovers(box)
        return claim

    def _awaitHandover(self, box: BoxSession, incarnation: str, linkEpoch: int) -> None:
        box.handoversAwaited += 1
        answer = self._peers.handOver(incarnation, box.key, linkEpoch)
        answer.addTimeout(self._handoverTimeout, self._clock)

        def answered(marks: tuple[StreamMark, ...] | None) -> Any:
            # Of a dead owner the store knows best.
            return self._store.marks(box.key) if marks is None else marks

        def silent(failure: Failure) -> Any:
            self.log.warn(
                "earlier owner did not hand a box over: repeats may follow ({reason})",
                reason=failure.getErrorMessage() or str(failure.type),
                incarnation=incarnation,
            )
            return self._store.marks(box.key)

        def storeAway(failure: Failure) -> tuple[StreamMark, ...]:
            self.log.error("session store did not give a box's marks: {reason}", reason=failure.getErrorMessage())
            return ()

        def settled(marks: tuple[StreamMark, ...]) -> None:
            box.merge(marks)
            if box.fingerprints is not None:
                # The other has added some, which the session store has.
                box.fingerprints.isLoaded = False
                self._loading.pop(box, None)
            box.handoversAwaited -= 1
            self._boxSettled(box)

        answer.addCallbacks(answered, silent).addErrback(storeAway).addCallback(settled)

    def handOver(self, key: BoxKey, linkEpoch: int) -> Deferred[tuple[StreamMark, ...]]:
        """
        Another instance owns the box as of C{linkEpoch}: close its link here. Fires with the box's marks once nothing
        of it is in flight here, and the session store has its fingerprints; at once when it has come back here since.
        """
        if key in self._uncertain:
            question: Deferred[None] = Deferred()
            self._uncertain[key].append(question)
            return question.addCallback(lambda _: self.handOver(key, linkEpoch))
        box = self.boxes.get(key)
        if box is None:
            if key in self._claiming:
                # Our own claim came first and its answer is under way: it is to find itself superseded.
                self.boxes[key] = box = BoxSession(key)
                box.linkEpoch = linkEpoch
            return self._store.marks(key)
        if box.linkEpoch > linkEpoch:
            return succeed(box.marks())
        box.linkEpoch = linkEpoch
        if box.link is not None:
            box.link.takenOver()
        if self._isSettled(box):
            return succeed(box.marks())
        answer: Deferred[tuple[StreamMark, ...]] = Deferred()
        self._leaving.setdefault(box, []).append(answer)
        return answer

    def loadFingerprints(self, box: BoxSession) -> None:
        """
        Ask the session store for a box's fingerprints, until it answers or the link is gone. Its link is told then, as
        after a handover.
        """
        if box in self._loading:
            return
        asking = self._loading[box] = object()
        fingerprints = box.fingerprints
        if fingerprints is None:
            fingerprints = box.fingerprints = Fingerprints(self._uplink.fingerprintWindow)

        def ask() -> None:
            if self._loading.get(box) is asking:
                self._store.fingerprints(box.key).addCallbacks(loaded, failed)

        def loaded(stored: bytes) -> None:
            if self._loading.get(box) is asking:
                del self._loading[box]
                fingerprints.load(stored)
                self._boxSettled(box)

        def failed(failure: Failure) -> None:
            self.log.error("session store did not give fingerprints: {reason}", reason=failure.getErrorMessage())
            self._clock.callLater(_FINGERPRINTS_RETRY, ask)

        ask()

    def writeFingerprintsAgain(self) -> None:
        """
        The session store has lost its memory.
        """
        for box in self.boxes.values():
            if box.link is not None:
                self._uplink.writeAgain(box)

    def giveUp(self, incarnation: str, key: BoxKey, linkEpoch: int) -> None:
        """
        Have an instance, this one or another, close the link that it may have of a box which is somebody else's as of
        C{linkEpoch}. Nothing waits for it.
        """

        def failed(failure: Failure) -> None:
            if failure.check(StoreError, TimeoutError):
                self.log.warn(
                    "{box}: {peer} did not say that it gave the box up: {reason}",
                    box=key,
                    peer=incarnation,
                    reason=failure.getErrorMessage(),
                )
            else:
                self.log.failure("{box}: {peer} did not give the box up", failure, box=key, peer=incarnation)

        asked: Deferred[Any]
        if incarnation == self._incarnation:
            asked = self.handOver(key, linkEpoch)
        else:
            asked = self._peers.handOver(incarnation, key, linkEpoch)
            asked.addTimeout(self._handoverTimeout, self._clock)
        asked.addErrback(failed)

    def opened(self, link: BoxLink) -> None:
        """
        A box is here.
        """
        place = link.protocolName, link.box.key.account
        self.openLinks[place] = self.openLinks.get(place, 0) + 1

    def closed(self, link: BoxLink) -> None:
        """
        It has left, after L{opened}.
        """
        place = link.protocolName, link.box.key.account
        self.openLinks[place] -= 1
        if not self.openLinks[place]:
            del self.openLinks[place]

    def detach(self, link: BoxLink) -> None:
        """
        A link that was claimed is gone.
        """
        box = link.box
        if box.link is link:
            box.link = None
            self._boxSettled(box)

    def releaser(self, link: BoxLink, reason: str, detail: str) -> Callable[[], None]:
        """
        What is to be done once the end of a link, which is now, is told.

        @param reason: of presences, why it ended
        @param detail: the same for a person to read; may be empty
        """
        key, linkEpoch, endedMs = link.box.key, link.linkEpoch, self._nowMs()
        event = BoxEvent(
            EventKind.disconnected,
            endedMs,
            reason,
            detail,
            link.protocolName,
            link.peer,
            self._incarnation,
            linkEpoch,
        )
        return lambda: self.releases.release(key, linkEpoch, endedMs, event)

    def disconnect(self, key: BoxKey, linkEpoch: int) -> bool:
        """
        See L{IInbox.disconnect}.
        """
        box = self.boxes.get(key)
        if box is None or box.link is None or box.link.linkEpoch != linkEpoch:
            return False
        box.link.end(Ending(Reason.closedByServer, "an operator disconnected it", isClean=True))
        return True

    def _boxSettled(self, box: BoxSession) -> None:
        if box.link is not None:
            if box.mayTake and box not in self._loading:
                box.link.mayTakeAgain()
            return
        if not self._isSettled(box):
            return
        self._answerHandovers(box)
        if not any(self._uplink.isUnwritten(stream) for stream in box.streams.values()):
            self.boxes.pop(box.key, None)
            self._loading.pop(box, None)

    def _isSettled(self, box: BoxSession) -> bool:
        """
        Another instance can go on where this one ends: marks are told, fingerprints are read from the session store.
        """
        if box.inFlight or box.handoversAwaited:
            return False
        return box.fingerprints is None or not self._uplink.isUnwritten(box.fingerprints)

    def _answerHandovers(self, box: BoxSession) -> None:
        for answer in self._leaving.pop(box, ()):
            answer.callback(box.marks())

    def _pauseAll(self) -> None:
        for link in list(self.links):
            link.pauseForBus()

    def _resumeAll(self) -> None:
        for link in list(self.links):
            if self._uplink.isFull:
                # What the first ones had held filled it again: the others' turn comes with the next relief.
                break
            link.resumeForBus()
