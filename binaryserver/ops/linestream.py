"""
Answers that are lines, for as long as somebody reads them: no more of one is made than its client takes.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request
from zope.interface import implementer

from binaryserver.errors import BinaryServerError, LocalError
from binaryserver.ops.problem import sendProblem

_PIECE = 16_384
"""bytes written at once"""
_STALLED = 30.0
"""s without progress after which a reader is dropped."""


@implementer(IPushProducer)
class LineStream:
    """
    The answer to one request.

    @cvar what: it, for the log
    @ivar isGone: nobody reads it any more
    """

    log = Logger()

    what = "a stream"

    def __init__(self, request: Request, clock: Any) -> None:
        """
        @param clock: the reactor
        """
        self._request = request
        self._clock = clock
        self.isGone = False
        self._mayWrite: Deferred[None] | None = None
        self._stall: Any = None

    async def produce(self) -> None:
        """
        Send the lines.
        """
        raise NotImplementedError

    async def release(self) -> None:
        """
        Nobody reads the lines any more: nothing may be held for them.
        """

    def start(self) -> Deferred[None]:
        """
        Begin to answer.

        @return: fires when nothing is held for it any more
        """
        self._request.notifyFinish().addBoth(self._gone)
        return Deferred.fromCoroutine(self._run()).addErrback(self._failed)

    async def _run(self) -> None:
        try:
            await self.produce()
        finally:
            await self.release()
        if not self.isGone:
            self.open()
            self._request.unregisterProducer()
            self._request.finish()

    def open(self) -> None:
        """
        Send the header, which may be long before the first line. What fails before is answered with an error.
        """
        if not (self.isGone or self._request.startedWriting):
            self._request.registerProducer(self, True)
            self._request.write(b"")

    async def send(self, lines: bytes) -> None:
        """
        Write lines as the client takes them: a piece more than it has taken is all that is held for it.
        """
        self.open()
        for start in range(0, len(lines), _PIECE):
            if self._mayWrite is not None:
                await self._mayWrite
            if self.isGone:
                return
            self._request.write(lines[start : start + _PIECE])

    def _failed(self, failure: Failure) -> None:
        if failure.check(BinaryServerError):
            self.log.warn("{what} ended: {reason}", what=self.what, reason=failure.getErrorMessage())
            status, detail = 503, failure.getErrorMessage()
        else:
            self.log.failure("{what} ended in an unforeseen way", failure, what=self.what)
            status, detail = 500, "this is the gateway's fault; its log says more"
        if self.isGone:
            return
        if self._request.startedWriting:
            # There may be lines out already: that the answer is cut short is all that can be said.
            self._request.unregisterProducer()
            self._request.loseConnection()
        else:
            sendProblem(self._request, status, detail)

    def end(self) -> None:
        """
        The gateway stops: cut the answer short.
        """
        self._failed(Failure(LocalError("the gateway stops")))
        self._gone(None)

    def _gone(self, _: object) -> None:
        self.isGone = True
        self.resumeProducing()
        # Not only once it has noticed: what it waits for may take long.
        Deferred.fromCoroutine(self.release()).addErrback(self._failed)

    def pauseProducing(self) -> None:
        """
        The client does not take more for now.
        """
        if self._mayWrite is None and not self.isGone:
            self._mayWrite = Deferred()
            self._stall = self._clock.callLater(_STALLED, self._stalled)

    def _stalled(self) -> None:
        self.log.info("the client of {what} took nothing for {seconds} s: dropped", what=self.what, seconds=_STALLED)
        channel: Any = self._request.channel
        channel.transport.abortConnection()

    def resumeProducing(self) -> None:
        """
        It does again.
        """
        if self._stall is not None and self._stall.active():
            self._stall.cancel()
        waiting, self._mayWrite = self._mayWrite, None
        if waiting is not None:
            waiting.callback(None)

    def stopProducing(self) -> None:
        """
        See L{IPushProducer.stopProducing}; L{_gone} is told too.
        """
