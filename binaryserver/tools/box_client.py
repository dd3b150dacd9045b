"""
A simulated box: what it does with its link, whatever it speaks. No bytes are taken apart here and no transport is
touched; what MD30 and MD21 ask of a box is in L{binaryserver.tools.box_md30} and L{binaryserver.tools.box_md21}.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import inf
from random import Random
from typing import Final

from binaryserver.errors import PeerError
from binaryserver.tools.box_inbox import AckChoice, Heard, Inbox
from binaryserver.tools.box_plan import NEXT, BoxPlan, BoxState, DatagramLink, Link, Outgoing, Owner, WrongState
from binaryserver.tools.box_store import TrackStore
from binaryserver.tools.box_sums import Sums
from binaryserver.tools.box_timing import Backoff, KeepAlive

ANSWER_TIMEOUT: Final = 30.0
"""s that a box waits for each answer while a link is opened, and for the end of a link that it leaves."""


class Box(ABC):
    """
    One box. Times (C{now}) are seconds of the fleet's clock.

    @ivar state: what it waits for
    @ivar due: s of the clock: C{tick} has nothing to do before
    """

    _outbox: Outgoing

    def __init__(
        self,
        asset: str,
        plan: BoxPlan,
        store: TrackStore,
        tracks: int,
        random: Random,
        sums: Sums,
        owner: Owner,
        wallOffset: float,
    ) -> None:
        """
        @param tracks: how many it records in this run; what waits in C{store} comes before
        @param wallOffset: s, what C{now} lacks to Unix time
        """
        self.asset = asset
        self.store = store
        self.state = BoxState.waiting
        self.due = 0.0
        self._plan = plan
        self._random = random
        self._sums = sums
        self._owner = owner
        self._wallOffset = wallOffset
        self._inbox = Inbox(plan.ack or AckChoice.NONE, random, sums.messages)
        self._link: Link | None = None
        self._connectAt = 0.0
        self._stayUntil = 0.0
        self._since = 0.0
        self._cutAt = inf
        self._gaveUp = ""
        self._backoff = Backoff(plan.reconnectDelay, random)
        self._keepAlive = KeepAlive(plan.keepAlive)
        self._overdueAt = inf
        sums.boxes += 1
        sums.tracks += tracks + store.waiting

    def connectAt(self, when: float, stayUntil: float) -> None:
        """
        Set the time of the first connect, and that before which the box does not leave, whatever is acked.
        """
        self._connectAt = self.due = when
        self._stayUntil = stayUntil

    def _go(self, state: BoxState, now: float) -> None:
        if state not in NEXT[self.state]:
            raise WrongState(f"a box cannot go from {self.state.name} to {state.name}")
        self.state = state
        self._since = now
        self.due = now

    # What the fleet and the link tell.

    def linkUp(self, link: Link, now: float) -> None:
        """
        There is a link.
        """
        every = self._plan.cutEvery
        self._link = link
        self._keepAlive.linkUp()
        self._gaveUp = ""
        self._cutAt = now + self._random.expovariate(1 / every) if every else inf
        self._greet(now)

    def linkFailed(self, reason: str, now: float) -> None:
        """
        There will be no link.
        """
        if self.state is BoxState.connecting:
            self._sums.failedConnects += 1
            self._complain(f"cannot connect: {reason}")
            self._wait(now, failed=True)

    def linkDown(self, reason: str, now: float) -> None:
        """
        The link is gone.
        """
        self._link = None
        self._linkEnded()
        state = self.state
        if state is BoxState.leaving:
            self._end(BoxState.done, now)
        elif state not in (BoxState.refused, BoxState.stopped):
            if self._cutAt > -inf:
                self._sums.lostLinks += 1
                self._complain(f"lost the link while waiting for {state.value}: {self._gaveUp or reason}")
            self._linkLost()
            self._owner.keepBox(self)
            self._wait(now, failed=state is not BoxState.open and self._cutAt > -inf)

    def peerBroke(self, error: PeerError, now: float) -> None:
        """
        The gateway broke the protocol.
        """
        self._sums.peerErrors += 1
        self._giveUp(f"the gateway broke the protocol: {error}")

    def leave(self, now: float) -> None:
        """
        Stay no longer than it takes until all is acked.
        """
        self._stayUntil = now
        self.due = min(self.due, now)

    def stop(self, now: float) -> None:
        """
        Do no more; leave at once.
        """
        if self.state in (BoxState.done, BoxState.refused, BoxState.stopped):
            return
        self._go(BoxState.stopped, now)
        self._cut()
        self._owner.keepBox(self)

    def _wait(self, now: float, failed: bool) -> None:
        self._go(BoxState.waiting, now)
        self._connectAt = now + self._backoff.lost(failed)

    def _end(self, state: BoxState, now: float) -> None:
        self._go(state, now)
        self._owner.keepBox(self)
        self._owner.boxEnded(self)

    def _refuse(self, text: str, now: float) -> None:
        self._sums.refused += 1
        self._complain(text)
        self._cut()
        self._end(BoxState.refused, now)

    def _cutAsPlanned(self) -> None:
        """
        End the link as the plan has it: no person needs to hear of it, and it is not counted as lost.
        """
        self._cutAt = -inf
        self._cut()

    def _giveUp(self, why: str) -> None:
        """
        End the link: the gateway is to blame.
        """
        self._gaveUp = why
        self._cut()

    def _cut(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.cut()

    def _write(self, data: bytes, now: float) -> None:
        if data and self._link is not None:
            self._keepAlive.sent(now)
            self._link.send(data)

    def _complain(self, text: str) -> None:
        self._owner.complain(self, text)

    def tick(self, now: float) -> None:
        """
        Do what is due by the clock, and say in L{due} when there is more.
        """
        state = self.state
        self.due = inf
        if state is BoxState.waiting:
            if self._outbox.empty and now >= self._stayUntil:
                self._end(BoxState.done, now)
            elif now >= self._connectAt:
                self._go(BoxState.connecting, now)
                self.due = inf
                self._owner.connectBox(self)
            else:
                self.due = min(self._connectAt, self._stayUntil if self._outbox.empty else inf)
        elif self._link is None:
            return
        elif now >= self._cutAt and state is not BoxState.leaving:
            self._sums.cuts += 1
            self._cutAsPlanned()
        elif state is BoxState.open:
            self._tickOpen(now)
        elif now >= self._since + ANSWER_TIMEOUT:
            self._giveUp(f"it did not come within {ANSWER_TIMEOUT:g} s")
        else:
            self.due = min(self._cutAt, self._since + ANSWER_TIMEOUT)

    def _tickOpen(self, now: float) -> None:
        plan = self._plan
        keepAlive = self._keepAlive
        if keepAlive.isOverdue(now):
            self._giveUp(f"its ping had no answer within {keepAlive.timeout:g} s")
            return
        if plan.ackTimeout is not None and now >= self._overdueAt:
            self._overdueAt = self._outbox.oldestSent(now) + plan.ackTimeout
            if now >= self._overdueAt:
                self._sums.ackTimeouts += 1
                self._cutAsPlanned()
                return
        if now >= self._overdueAt:
            self._overdueAt = self._resendOverdue(now)
        more = self._tickProtocol(now)
        self.fill(now)
        if keepAlive.isDue(now):
            self._ping(now)
        if self.state is BoxState.open:
            self.due = min(
                self.due,
                self._cutAt,
                self._overdueAt,
                more,
                self._outbox.recordedAt(),
                self._stayUntil if self._stayUntil > now else inf,
                keepAlive.next,
            )

    def _ping(self, now: float) -> None:
        self._write(self._pingBytes(), now)
        self._keepAlive.asked(now)

    def _begin(self, now: float) -> bool:
        """
        The link is open, and the box knows where it stands: record, if this is the first time.

        @return: the link is still there: it is not where the box's store cannot be kept
        """
        self._go(BoxState.open, now)
        self._backoff.succeeded()
        self._overdueAt = now + (self._plan.ackTimeout or inf)
        if not self._outbox.recorded:
            self._outbox.record(now, self._wallOffset)
            self._owner.keepBox(self)
        return self._link is not None

    def fill(self, now: float) -> None:
        """
        Send what may be sent; leave when all is acked, unless it is to stay.
        """
        link = self._link
        if link is None or self.state is not BoxState.open:
            return
        more = True
        while more and not link.paused:
            more = self._sendSome(now)
        if self._outbox.empty and now >= self._stayUntil and self._mayLeave():
            self._go(BoxState.leaving, now)
            self._write(self._farewell(), now)
            link.leave()

    def _hear(self, heard: Heard) -> bool:
        """
        A message has come.

        @return: the link goes on; not, if it is cut on it
        """
        if heard.isNew:
            self._owner.messageHeard(self, heard)
        # Not on a repeat: a box that was sent much would never get on.
        if not heard.isNew or not self._plan.cutOnMessage or self._random.random() >= self._plan.cutOnMessage:
            return True
        self._sums.cuts += 1
        self._cutAsPlanned()
        return False

    # What the protocol does.

    @abstractmethod
    def dataReceived(self, data: bytes, now: float) -> None:
        """
        The gateway sent bytes.

        @raise PeerError: it broke the protocol
        """

    @abstractmethod
    def _greet(self, now: float) -> None:
        """
        There is a link: say the first words.
        """

    @abstractmethod
    def _linkLost(self) -> None:
        """
        The link is gone before all was done: no ack of it comes any more.
        """

    def _linkEnded(self) -> None:  # noqa: B027  # most have nothing to do
        """
        Close what was open beside the link, however that has ended.
        """

    @abstractmethod
    def _sendSome(self, now: float) -> bool:
        """
        Send a part of what may be sent.

        @return: whether there may be more of it
        """

    @abstractmethod
    def _resendOverdue(self, now: float) -> float:
        """
        Send again what has had no ack for long.

        @return: s of the clock, when to look again
        """

    @abstractmethod
    def _tickProtocol(self, now: float) -> float:
        """
        Do what else is due by the clock.

        @return: s of the clock, when there is more
        """

    @abstractmethod
    def _pingBytes(self) -> bytes:
        """
        What asks whether the link is alive.
        """

    @abstractmethod
    def _farewell(self) -> bytes:
        """
        The last words.
        """

    def _mayLeave(self) -> bool:
        """
        Nothing that needs no ack is still on its way.
        """
        return True

    def datagramsUp(self, link: DatagramLink, now: float) -> None:
        """
        There is a way for the datagrams that the box asked its owner for.
        """
        raise WrongState("a box that sends no datagrams has a way for them")

    def datagramsFailed(self, reason: str, now: float) -> None:
        """
        There will be none.
        """
        raise WrongState("a box that sends no datagrams has no way for them")

    def datagramReceived(self, data: bytes, now: float) -> None:
        """
        One has come.

        @raise PeerError: the gateway broke the protocol
        """
        raise WrongState("a box that sends no datagrams gets one")
