"""
One incarnation among others: its lease, and the boxes of those that died (G6, DESIGN 11).

Every instance renews its lease in the session store, and looks which others have not. What a dead one's boxes do not
tell themselves, by coming back, one of the living tells for them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.errors import StoreError
from binaryserver.ids import IdSource
from binaryserver.model import LinkState, Orphan, Renewal
from binaryserver.ops.health import Check
from binaryserver.proto import cloudnext_pb2
from binaryserver.session.boxrecords import BoxEvent, EventKind
from binaryserver.session.reasons import Reason
from binaryserver.transcode.envelope import Envelope
from binaryserver.transcode.events import presenceRecord
from binaryserver.transcode.names import Published
from binaryserver.transcode.privacy import shownPeer

if TYPE_CHECKING:
    from binaryserver.gateway import Gateway

_RENEWALS = 0.3
"""Of a lease: how often it is renewed."""

_CHUNK = 200

_PROTOCOLS = {"md30": cloudnext_pb2.PROTOCOL_MD30, "md21": cloudnext_pb2.PROTOCOL_MD21}


class Membership:
    """
    Of one incarnation.
    """

    log = Logger()

    def __init__(self, gateway: Gateway, lease: float, grace: float, superseded: Callable[[], None]) -> None:
        """
        @param superseded: called when another process has started under the name of this instance: this one is to end
        @param lease: s after which an incarnation that has not renewed may be declared dead
        @param grace: s that the boxes of a dead one have to come back
        """
        self._gateway = gateway
        self._superseded = superseded
        self._lease = lease
        self._grace = grace
        self._worker = 0
        # s of the clock, since when the store has answered every renewal.
        self._sinceWhen: float | None = None
        self._renewedMs = 0
        # s of the clock, when the store last answered; None: it did not when it was last asked.
        self._heardAt: float | None = None
        self._deadSince: dict[str, float] = {}
        self._next: IDelayedCall | None = None
        self._running: Deferred[None] | None = None
        self._judging: Deferred[None] | None = None
        self._mustRestore = False
        self._mustStartAgain = False
        # By the dead: attempts to adopt their boxes that the store may have made, and has not answered.
        self._unheard: dict[str, str] = {}
        self._isStopping = False

    def start(self) -> Deferred[None]:
        """
        Register. Fires once C{gateway.ids} is set.
        """

        def leased(worker: int) -> None:
            self._isWorker(worker)
            self._sinceWhen = self._heardAt = self._gateway.clock.seconds()
            self._renewedMs = self._gateway.nowMs()
            self._next = self._gateway.clock.callLater(self._lease * _RENEWALS, self._turn)

        gateway = self._gateway
        return gateway.store.leaseWorker(gateway.incarnation).addCallback(leased)

    def stop(self) -> Deferred[None]:
        """
        Give the lease back: every link has been released.
        """
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._isStopping = True
        if self._next is not None and self._next.active():
            self._next.cancel()
        for task in (self._running, self._judging):
            if task is not None:
                await task
        try:
            await self._gateway.store.resign(self._gateway.incarnation)
        except StoreError as error:
            self.log.warn("the lease was not given back, it lapses instead: {reason}", reason=str(error))

    def check(self) -> Check:
        """
        How the session store does, by the renewals of the lease: it is well as long as the last one was answered, and
        no longer ago than a lease.
        """
        if self._heardAt is None:
            return Check(False, "it did not renew the lease")
        age = self._gateway.clock.seconds() - self._heardAt
        if age > self._lease:
            return Check(False, f"it has not answered for {age:.0f} s")
        return Check(True, "it renews the lease")

    def _isWorker(self, worker: int) -> None:
        if worker != self._worker or not hasattr(self._gateway, "ids"):
            self._worker = worker
            self._gateway.ids = IdSource(worker, self._gateway.nowMs)

    def _turn(self) -> None:
        clock = self._gateway.clock
        began = clock.seconds()

        def failed(failure: Failure) -> None:
            if self._sinceWhen is not None:
                self.log.warn("session store is away: {reason}", reason=failure.getErrorMessage())
            self._sinceWhen = self._heardAt = None
            if not failure.check(StoreError):
                self.log.failure("the lease could not be renewed, in an unforeseen way", failure)

        def again(_: object) -> None:
            self._running = None
            if not self._isStopping:
                wait = max(0.0, began + self._lease * _RENEWALS - clock.seconds())
                self._next = clock.callLater(wait, self._turn)

        self._running = Deferred.fromCoroutine(self._renew(began)).addErrback(failed).addBoth(again)

    async def _renew(self, began: float) -> None:
        gateway = self._gateway
        renewal = await gateway.store.renew(gateway.incarnation)
        now = self._heardAt = gateway.clock.seconds()
        nowMs = gateway.nowMs()
        if (
            self._sinceWhen is None
            or now - began > self._lease * _RENEWALS
            or nowMs - self._renewedMs > 2000 * self._lease * _RENEWALS
        ):
            # The store was away, or as good as, or this process was, maybe with its whole host: others may have been
            # kept from renewing as well.
            self._sinceWhen = now
        self._renewedMs = nowMs
        if renewal is Renewal.superseded:
            self.log.error(
                "another process has started as {instance} and this one ends: each is to have an --instance of its own",
                instance=gateway.instance,
            )
            self._sinceWhen = None
            self._superseded()
            return
        if renewal is not Renewal.renewed:
            self.log.warn("this instance's lease is gone: {renewal}", renewal=renewal.value)
            self._sinceWhen = now
            self._mustRestore = True
            # Also if what follows fails, and is done again when the lease is as it should be.
            self._mustStartAgain |= renewal is Renewal.unknown
            # First: nobody adopts the boxes of one that lives.
            self._isWorker(await gateway.store.leaseWorker(gateway.incarnation, self._worker))
        if self._mustRestore:
            await self._restore()
            self._mustRestore = False
            if self._mustStartAgain:
                self._mustStartAgain = False
                gateway.delivery.startAgain()
                gateway.registry.writeFingerprintsAgain()
            else:
                # Nobody was told of mail for the boxes of a dead one.
                gateway.delivery.wakeAll()
        if self._isSteady and self._judging is None:
            # On its own: the next renewal does not wait for it.
            self._judging = Deferred.fromCoroutine(self._judge()).addErrback(self._notJudged)
            self._judging.addCallback(self._judged)

    @property
    def _isSteady(self) -> bool:
        """
        The store has been there for everybody for a whole lease, so that who has not renewed is dead.
        """
        since = self._sinceWhen
        return since is not None and self._gateway.clock.seconds() - since >= self._lease

    def _notJudged(self, failure: Failure) -> None:
        if failure.check(StoreError):
            self.log.warn("the dead could not be looked for: {reason}", reason=failure.getErrorMessage())
        else:
            self.log.failure("the dead could not be looked for, in an unforeseen way", failure)

    def _judged(self, _: None) -> None:
        self._judging = None

    async def _restore(self) -> None:
        """
        Write this instance's links again, and close those that are another's by now.
        """
        links = [link for link in self._gateway.registry.links if link.isBoxOpen]
        for start in range(0, len(links), _CHUNK):
            chunk = links[start : start + _CHUNK]
            states: list[LinkState] = [link.state() for link in chunk]
            restored = await self._gateway.store.restore(self._gateway.incarnation, states)
            for link, isLatest in zip(chunk, restored, strict=True):
                if not isLatest:
                    link.takenOver()

    async def _judge(self) -> None:
        """
        Declare dead who has not renewed, and tell the boxes of those that had their grace.
        """
        gateway = self._gateway
        now = gateway.clock.seconds()
        dead = await gateway.store.bury(int(self._lease * 1000))
        self._deadSince = {one: self._deadSince.get(one, now) for one in dead if one != gateway.incarnation}
        for incarnation, since in self._deadSince.items():
            if since == now:
                self.log.warn("instance {incarnation} has died and left boxes", incarnation=incarnation)
            if now - since >= self._grace:
                await self._adopt(incarnation)
        for incarnation in list(self._unheard):
            # It may hold nothing any more, since it is we who do.
            await self._adopt(incarnation)

    async def _adopt(self, dead: str) -> None:
        """
        Tell the boxes of a dead one.
        """
        gateway = self._gateway
        while self._isSteady and not self._isStopping:
            attempt = self._unheard.setdefault(dead, os.urandom(8).hex())
            orphans: list[Orphan] = await gateway.store.adopt(
                dead, gateway.incarnation, gateway.nowMs(), _CHUNK, attempt
            )
            del self._unheard[dead]
            for orphan in orphans:
                self._tell(orphan, dead)
            if len(orphans) < _CHUNK:
                break

    def _tell(self, orphan: Orphan, incarnation: str) -> None:
        gateway = self._gateway
        previous = orphan.previous
        if previous is not None and previous.connected and previous.incarnation != incarnation:
            # The claim of the dead one may have come after its death, so that nobody asked for the box.
            gateway.registry.giveUp(previous.incarnation, orphan.box, orphan.linkEpoch)
        protocol = _PROTOCOLS.get(orphan.protocol, cloudnext_pb2.PROTOCOL_UNSPECIFIED)
        gateway.counters.orphans += 1
        toldMs = gateway.nowMs()
        reason, detail = Reason.serverShutdown.value, f"its instance {incarnation} died"
        event = BoxEvent(
            EventKind.disconnected,
            toldMs,
            reason,
            detail,
            orphan.protocol,
            orphan.peer,
            incarnation,
            orphan.lostEpoch,
        )

        def tell(published: Published) -> None:
            envelope = Envelope(published.box, gateway.ids.next(), orphan.linkEpoch, gateway.instance, protocol)
            gateway.announcer.announce(
                presenceRecord(
                    envelope,
                    gateway.ids.next(),
                    cloudnext_pb2.PRESENCE_TYPE_DISCONNECT,
                    toldMs,
                    shownPeer(published.policy, orphan.peer),
                    reason,
                    detail=detail,
                ),
                lambda: gateway.registry.releases.release(orphan.box, orphan.linkEpoch, toldMs, event),
            )

        gateway.names.whenKnown(orphan.box, tell)
