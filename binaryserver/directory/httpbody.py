"""
Answers of a directory service, as they come over the wire: whole, bounded, and not unpacked.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer


class TooLarge(Exception):
    """
    An answer has more bytes than it may have.
    """


class Encoded(Exception):
    """
    An answer is compressed, which it was asked not to be.
    """


@implementer(IAgent)
class PlainAgent:
    """
    An agent that asks for answers as they are, and takes no others: some KiB of compressed zeros are some MiB unpacked,
    at once. It keeps no cookies either.
    """

    def __init__(self, agent: IAgent) -> None:
        self._agent = agent

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        """
        See L{IAgent.request}.
        """
        headers = Headers() if headers is None else headers.copy()
        headers.setRawHeaders(b"accept-encoding", [b"identity"])
        asked: Deferred[IResponse] = self._agent.request(method, uri, headers, bodyProducer)
        return asked.addCallback(self._check)

    def _check(self, response: IResponse) -> IResponse:
        coding = b",".join(response.headers.getRawHeaders(b"content-encoding", []))
        response.headers.removeHeader(b"set-cookie")
        if coding and coding.strip().lower() != b"identity":
            # An answer that nobody reads would keep its connection.
            readBody(response, 0).addErrback(lambda _: None).cancel()
            raise Encoded
        return response


class _Reading(Protocol):
    """
    Takes an answer's body, and drops the connection once it has more than it may have.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._pieces: list[bytes] = []
        self._size = 0
        self.done: Deferred[bytes] = Deferred(self._cancel)

    def _cancel(self, done: Deferred[bytes]) -> None:
        # Before the connection says that it is gone.
        done.errback(CancelledError())
        self._drop()

    def _drop(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            # Not loseConnection, which with TLS waits for a peer that may never answer.
            transport.stopProducing()

    def dataReceived(self, data: bytes) -> None:
        """
        See L{Protocol.dataReceived}.
        """
        self._size += len(data)
        if self._size <= self._most:
            self._pieces.append(data)
        elif not self.done.called:
            self._pieces.clear()
            self.done.errback(TooLarge(self._most))
            self._drop()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        See L{Protocol.connectionLost}.
        """
        if self.done.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.done.callback(b"".join(self._pieces))
        else:
            self.done.errback(reason)


def readBody(response: IResponse, most: int) -> Deferred[bytes]:
    """
    The bytes of an answer's body. Fails with L{TooLarge}, or as the connection does. Cancelling it drops the
    connection.

    @param most: bytes that it may have
    """
    reading = _Reading(most)
    response.deliverBody(reading)
    return reading.done
