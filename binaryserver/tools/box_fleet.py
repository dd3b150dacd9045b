"""
Many simulated boxes in one process.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.errors import ConfigError
from binaryserver.tools.box_client import Box
from binaryserver.tools.box_endpoint import AccessFor
from binaryserver.tools.box_inbox import Heard
from binaryserver.tools.box_link import BoxDatagrams, BoxLinkFactory
from binaryserver.tools.box_md21 import Md21Box
from binaryserver.tools.box_md30 import Md30Box
from binaryserver.tools.box_plan import BoxPlan
from binaryserver.tools.box_store import STREAM_MAX, StateDirectory, TrackStore
from binaryserver.tools.box_sums import Sums

LEAVE_TIMEOUT: Final = 5.0
"""s that boxes have to leave in good order when they are told to."""
TICK: Final = 0.05
"""s between two looks at which boxes have something to do by the clock: one timer for all of them."""
COMPLAINT_INTERVAL: Final = 5.0
"""s: what goes wrong is logged at most so often, however many boxes it strikes."""
_DATAGRAM: Final = 65_535
"""bytes: the largest datagram that is taken."""
_DRIVEN: Final = 10_000_000
"""s that a vehicle has driven before, at most."""


class Fleet:
    """
    Boxes that bring their tracks to a gateway.

    @ivar boxes: all of them
    @ivar sums: what they have come to so far
    """

    log = Logger()

    def __init__(
        self,
        clock: Any,
        accessFor: AccessFor,
        plan: BoxPlan,
        assets: Sequence[str],
        tracks: int,
        *,
        stream: int | None = None,
        ramp: float = 0.0,
        random: Random | None = None,
        state: StateDirectory | None = None,
        messageHeard: Callable[[str, Heard], None] = lambda asset, heard: None,
        wallTime: Callable[[], float] = time.time,
    ) -> None:
        """
        @param clock: an L{IReactorTime}; with UDP an L{IReactorUDP} and, for host names, an L{IReactorCore} as well
        @param accessFor: tells how the box of an asset connects
        @param tracks: how many each box records
        @param stream: of all the boxes; L{None}: drawn by each
        @param ramp: s over which the first connects are spread
        @param random: decides what is left to chance; one with a seed makes a run that can be repeated
        @param state: where the boxes' stores are kept over runs
        @param messageHeard: told of each message that is no repeat, and of which box's it is
        @param wallTime: gives the Unix time in s
        @raise ConfigError: what is kept in C{state} cannot be used
        """
        self.sums = Sums()
        self.boxes: list[Box] = []
        self._clock = clock
        self._accessFor = accessFor
        self._plan = plan
        self._ramp = ramp
        self._state = state
        self._account = plan.account or ""
        self._messageHeard = messageHeard
        self._running = 0
        self._complaints = 0
        self._complainedAt = -COMPLAINT_INTERVAL
        self._done: Deferred[Sums] | None = None
        self._left: Deferred[None] | None = None
        self._leaving: Any = None
        self._attempts: dict[Box, Deferred[Any]] = {}
        self._ticking = LoopingCall(self._tick)
        self._ticking.clock = clock
        random = random or Random()
        offset = wallTime() - clock.seconds()
        for asset in assets:
            store = state.load(self._account, asset) if state is not None else None
            if store is not None and stream not in (None, store.stream):
                raise ConfigError("--stream", f"the kept state of {asset} has another one: {store.stream}")
            if store is None:
                place = zlib.crc32(asset.encode()) % _DRIVEN
                store = TrackStore(stream or random.randint(1, STREAM_MAX), place)
            made = Md30Box if plan.md21 is None else Md21Box
            self.boxes.append(made(asset, plan, store, tracks, Random(random.random()), self.sums, self, offset))

    def start(self) -> Deferred[Sums]:
        """
        Let the boxes go.

        @return: fires with the sums once all is acked and no box is to stay, no box can do more, or L{stop} was called;
            fails with L{ConfigError} if the boxes' state cannot be kept, and with anything else that is a bug
        """
        now = self._clock.seconds()
        self.sums.started = self.sums.ended = now
        self._running = len(self.boxes)
        self._done = Deferred()
        for number, box in enumerate(self.boxes):
            box.connectAt(now + self._ramp * number / len(self.boxes), now + self._plan.stay)
        done = self._done
        self._ticking.start(TICK).addErrback(self._end)
        return done

    def leave(self) -> Deferred[None] | None:
        """
        Stay no longer: the boxes leave in good order, within L{LEAVE_TIMEOUT}. Where they were not to stay anyway, this
        is L{stop}.

        @return: fires once the run has ended; L{None}: it has
        """
        if self._done is not None and not self._plan.stay:
            self.stop()
        if self._done is None:
            return None
        if self._left is None:
            self._left = Deferred()
            self._leaving = self._clock.callLater(LEAVE_TIMEOUT, self.stop)
            for box in self.boxes:
                box.leave(self._clock.seconds())
        return self._left

    def stop(self) -> None:
        """
        End the run, if it has not ended, whatever is not acked.
        """
        if self._done is not None:
            self._end(None)

    def _end(self, failure: Failure | None) -> None:
        now = self._clock.seconds()
        for attempt in tuple(self._attempts.values()):
            attempt.cancel()
        for box in self.boxes:
            box.stop(now)
        self.sums.ended = now
        self._finish(failure)

    def _tick(self) -> None:
        now = self._clock.seconds()
        for box in self.boxes:
            if box.due <= now:
                box.tick(now)

    def _finish(self, failure: Failure | None = None) -> None:
        if self._ticking.running:
            self._ticking.stop()
        if self._leaving is not None and self._leaving.active():
            self._leaving.cancel()
        done, self._done = self._done, None
        if done is not None:
            done.callback(self.sums if failure is None else failure)
        left, self._left = self._left, None
        if left is not None:
            left.callback(None)

    # What boxes ask for: binaryserver.tools.box_plan.Owner.

    def connectBox(self, box: Box) -> None:
        """
        See L{binaryserver.tools.box_plan.Owner.connectBox}.
        """

        def failed(reason: Failure) -> None:
            box.linkFailed(reason.getErrorMessage() or reason.value.__class__.__name__, self._clock.seconds())

        def ended(result: object) -> object:
            self._attempts.pop(box, None)
            return result

        access = self._accessFor(box.asset)
        attempt = access.endpoint.connect(BoxLinkFactory(box, self._clock, access.tls))
        self._attempts[box] = attempt
        attempt.addBoth(ended)
        attempt.addErrback(failed)

    def openDatagrams(self, box: Box, host: str, port: int) -> None:
        """
        See L{binaryserver.tools.box_plan.Owner.openDatagrams}.
        """
        clock = self._clock

        def opened(address: str) -> None:
            link = BoxDatagrams(box, clock, address, port)
            clock.listenUDP(0, link, interface="::" if isIPv6Address(address) else "", maxPacketSize=_DATAGRAM)
            box.datagramsUp(link, clock.seconds())

        def failed(reason: Failure) -> None:
            box.datagramsFailed(reason.getErrorMessage(), clock.seconds())

        isAddress = isIPAddress(host) or isIPv6Address(host)
        found: Deferred[str] = succeed(host) if isAddress else maybeDeferred(clock.resolve, host)
        found.addCallback(opened).addErrback(failed)

    def boxEnded(self, box: Box) -> None:
        """
        See L{binaryserver.tools.box_plan.Owner.boxEnded}.
        """
        self._running -= 1
        if not self._running:
            self._finish()

    def keepBox(self, box: Box) -> None:
        """
        See L{binaryserver.tools.box_plan.Owner.keepBox}.
        """
        if self._state is not None:
            try:
                self._state.save(self._account, box.asset, box.store)
            except ConfigError as error:
                self._state = None
                self._end(Failure(error))

    def messageHeard(self, box: Box, heard: Heard) -> None:
        """
        See L{binaryserver.tools.box_plan.Owner.messageHeard}.
        """
        self._messageHeard(box.asset, heard)

    def complain(self, box: Box, text: str) -> None:
        """
        See L{binaryserver.tools.box_plan.Owner.complain}.
        """
        now = self._clock.seconds()
        if now >= self._complainedAt + COMPLAINT_INTERVAL:
            self.log.warn("{asset}: {text}{more}", asset=box.asset, text=text, more=self._more())
            self._complainedAt = now
        else:
            self._complaints += 1

    def _more(self) -> str:
        unsaid, self._complaints = self._complaints, 0
        return f" (and {unsaid} more before)" if unsaid else ""
