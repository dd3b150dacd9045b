"""
Which box has its link here: claims, takeovers, and the handing over of a box to another instance (DESIGN 11).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from binaryserver.interfaces import IPeers, ISessionStore
from binaryserver.model import BoxKey, Claim, StreamMark
from binaryserver.session.box import BoxSession
from binaryserver.session.uplink import Uplink

if TYPE_CHECKING:
    from binaryserver.session.link import BoxLink


@implementer(IPeers)
class NoPeers:
    """
    The only instance: whoever held a box before is dead.
    """

    def handOver(self, incarnation: str, box: BoxKey, linkEpoch: int) -> Deferred[tuple[StreamMark, ...] | None]:
        """
        See L{IPeers.handOver}.
        """
        return succeed(None)


class Registry:
    """
    The boxes of one instance.

    @ivar boxes: those with a link, or with anything in flight or not yet written
    @ivar links: every link of the instance that is or may become a box's
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
        self.boxes: dict[BoxKey, BoxSession] = {}
        self.links: set[BoxLink] = set()
        self._claiming: dict[BoxKey, int] = {}
        self._leaving: dict[BoxSession, list[Deferred[tuple[StreamMark, ...]]]] = {}
        uplink.onBoxSettled = self._boxSettled
        uplink.onPressure = self._pauseAll
        uplink.onRelief = self._resumeAll

    def claim(self, link: BoxLink, key: BoxKey, protocol: str, peer: str, clean: bool) -> Deferred[Claim]:
        """
        Make a link the box's link: the one before it, wherever it is, is closed.

        Fires with the claim once C{link.box} and C{link.linkEpoch} are set. The link may be superseded by then: its
        C{takenOver} was called. Fails with L{binaryserver.errors.StoreError}.
        """
        self._claiming[key] = self._claiming.get(key, 0) + 1
        claimed = self._store.claim(key, self._incarnation, protocol, peer, self._nowMs(), clean)
        return claimed.addBoth(self._claimAnswered, key).addCallback(self._claimed, link, key)

    def _claimAnswered(self, answer: Claim | Failure, key: BoxKey) -> Claim | Failure:
        self._claiming[key] -= 1
        if not self._claiming[key]:
            del self._claiming[key]
        return answer

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
            box.handoversAwaited -= 1
            self._boxSettled(box)

        answer.addCallbacks(answered, silent).addErrback(storeAway).addCallback(settled)

    def handOver(self, key: BoxKey, linkEpoch: int) -> Deferred[tuple[StreamMark, ...]]:
        """
        Another instance owns the box as of C{linkEpoch}: close its link here. Fires with the box's marks once nothing
        of it is in flight here; at once when it has come back here since.
        """
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
        if not box.inFlight and not box.handoversAwaited:
            return succeed(box.marks())
        answer: Deferred[tuple[StreamMark, ...]] = Deferred()
        self._leaving.setdefault(box, []).append(answer)
        return answer

    def detach(self, link: BoxLink) -> None:
        """
        A link that was claimed is gone.
        """
        box = link.box
        if box.link is link:
            box.link = None
            released = self._store.release(box.key, link.linkEpoch, self._nowMs())
            released.addErrback(self._releaseFailed)
            self._boxSettled(box)

    def _releaseFailed(self, failure: Failure) -> None:
        self.log.warn("session store did not note a link's end: {reason}", reason=failure.getErrorMessage())

    def _boxSettled(self, box: BoxSession) -> None:
        if box.link is not None:
            if box.mayTake:
                box.link.mayTakeAgain()
            return
        if box.inFlight or box.handoversAwaited:
            return
        self._answerHandovers(box)
        if not any(self._uplink.isUnwritten(stream) for stream in box.streams.values()):
            self.boxes.pop(box.key, None)

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
