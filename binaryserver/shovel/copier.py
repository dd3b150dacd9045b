"""
From one list to one topic, for as long as the list is ours.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.errors import StoreError
from binaryserver.shovel.counts import Counts
from binaryserver.shovel.publishing import Publisher
from binaryserver.shovel.source import Source
from binaryserver.transcode.cloudconnect_layout import Kind

_RETRY = 0.5
"""s after which a list that could not be asked is asked again."""

_LONGEST_WAIT = 1.0
"""s after which it is looked whether a list of another reader is to be had."""


class State(Enum):
    """
    What a copier waits for.
    """

    stopped = "to be started"
    standby = "the reader of the list to go"
    idle = "events"
    taking = "the answer of the list"
    publishing = "the bus"


class Copier:
    """
    One batch at a time: it is done with once the bus has it, and only then comes the next, so that what fails can be
    sent again in its place.

    @ivar state: what is waited for
    """

    log = Logger()

    def __init__(
        self,
        clock: Any,
        source: Source,
        publisher: Publisher,
        kind: Kind,
        counts: Counts,
        batch: int,
        poll: float,
        lease: float,
    ) -> None:
        """
        @param batch: events that are taken at once
        @param poll: s between two looks at a list that was empty
        @param lease: s, as the source has it
        """
        self._clock = clock
        self._source = source
        self._publisher = publisher
        self._kind = kind.value
        self._counts = counts
        self._batch = batch
        self._poll = poll
        self.state = State.stopped
        self._isStopping = False
        self._isOurs = False
        # Of what was taken last: how many there are, and how many the bus has.
        self._held = self._done = 0
        self._pause: Deferred[None] | None = None
        self._running: Deferred[None] | None = None
        self._renewing = LoopingCall(self._renew)
        self._renewing.clock = clock
        self._lease = lease

    def start(self) -> None:
        """
        Begin.
        """
        self._running = Deferred.fromCoroutine(self._run()).addErrback(self._failed)
        self._renewing.start(self._lease / 3, now=False)

    def stop(self, timeout: float) -> Deferred[bool]:
        """
        Take no more, let what was taken come to the bus, and let go of the list.

        @param timeout: s
        @return: fires with whether everything that was taken is done with
        """
        return Deferred.fromCoroutine(self._stop(timeout))

    async def _stop(self, timeout: float) -> bool:
        self._isStopping = True
        if self._pause is not None:
            self._pause.cancel()
        running = self._running
        if running is not None and not running.called:
            ended: Deferred[None] = Deferred()
            running.addBoth(_fire, ended)
            await ended.addTimeout(timeout, self._clock, lambda *_: None)
            running.cancel()
        if self._renewing.running:
            self._renewing.stop()
        self.state = State.stopped
        if self._isOurs:
            await self._letGo()
        return not self._held

    async def _letGo(self) -> None:
        try:
            if self._done:
                await self._source.exchange(self._done, 0)
                self._held -= self._done
                self._done = 0
            await self._source.release()
        except StoreError as error:
            self.log.warn("{key} is not let go of: {reason}", key=self._source.key, reason=error)

    async def _run(self) -> None:
        while not self._isStopping:
            self.state = State.taking
            try:
                taken = await self._source.exchange(self._done, self._batch)
            except StoreError as error:
                self._trouble(str(error))
                await self._wait(_RETRY)
                continue
            self._trouble("")
            self._held, self._done = len(taken.packed), 0
            self._counts.backlog[self._kind] = taken.backlog
            self._own(taken.isOurs, taken.isNew)
            if not taken.isOurs:
                self.state = State.standby
                await self._wait(min(_LONGEST_WAIT, taken.wait + 0.01))
            elif taken.packed:
                self.state = State.publishing
                self._counts.batches += 1
                if taken.isNew:
                    self._counts.again += len(taken.packed)
                await self._publish(taken.packed)
            else:
                self.state = State.idle
                await self._wait(self._poll)

    async def _publish(self, packed: list[bytes]) -> None:
        try:
            if await self._publisher.publish(packed, self._mayRetry):
                self._done = len(packed)
        except CancelledError:
            raise
        except Exception as error:
            # They are taken again: to go on without them would be to lose them.
            self.log.failure("a batch of {key} failed in an unforeseen way", key=self._source.key)
            self._counts.troubles[self._kind] = f"{type(error).__name__}: {error}"
            await self._wait(_RETRY)

    def _mayRetry(self) -> bool:
        return self._isOurs and not self._isStopping

    def _own(self, isOurs: bool, isNew: bool) -> None:
        if isNew:
            self._counts.takeovers += 1
            self.log.info("{key} is read by us now", key=self._source.key)
        elif self._isOurs and not isOurs:
            self.log.warn("{key} is read by another", key=self._source.key)
        self._isOurs = self._counts.reading[self._kind] = isOurs

    def _renew(self) -> Deferred[None] | None:
        """
        A batch that waits for the bus for long must not cost the lease.
        """
        if not self._isOurs or self.state is not State.publishing:
            return None

        def renewed(isOurs: bool) -> None:
            self._own(isOurs, False)

        def failed(failure: Failure) -> None:
            failure.trap(StoreError)

        return self._source.renew().addCallbacks(renewed, failed)

    def _trouble(self, reason: str) -> None:
        before = self._counts.troubles[self._kind]
        if reason and reason != before:
            self.log.warn("{key} cannot be read: {reason}", key=self._source.key, reason=reason)
        elif before and not reason:
            self.log.info("{key} can be read again", key=self._source.key)
        self._counts.troubles[self._kind] = reason

    async def _wait(self, seconds: float) -> None:
        if self._isStopping:
            return
        self._pause = deferLater(self._clock, seconds)
        try:
            await self._pause
        except CancelledError:
            if not self._isStopping:
                raise
        finally:
            self._pause = None

    def _failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._counts.troubles[self._kind] = failure.getErrorMessage()
            self.log.failure("{key} is not copied any more", failure, key=self._source.key)


def _fire(result: object, ended: Deferred[None]) -> None:
    if not ended.called:
        ended.callback(None)
