"""
The link of a simulated box, and its way for datagrams: bytes over transports. What they mean is decided in
L{binaryserver.tools.box_client}.
"""

from __future__ import annotations

from typing import Any

from OpenSSL.SSL import Error as SSLError
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IPushProducer,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from binaryserver.endpoints.credentials import opensslReason
from binaryserver.errors import PeerError
from binaryserver.tools.box_client import Box


@implementer(IPushProducer)
class BoxLink(Protocol):
    """
    One link of one box.

    @ivar paused: the transport has enough to write for now
    """

    transport: Any
    """An L{ITCPTransport} and L{IConsumer}; TLS over one likewise."""

    def __init__(self, box: Box, clock: IReactorTime, tls: IOpenSSLClientConnectionCreator | None) -> None:
        """
        @param tls: checks the gateway's certificate if the box begins TLS
        """
        self.paused = False
        self._box = box
        self._clock = clock
        self._tls = tls

    def connectionMade(self) -> None:
        """
        See L{Protocol.connectionMade}.
        """
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)
        self._box.linkUp(self, self._clock.seconds())

    def dataReceived(self, data: bytes) -> None:
        """
        See L{Protocol.dataReceived}.
        """
        now = self._clock.seconds()
        try:
            self._box.dataReceived(data, now)
        except PeerError as error:
            self._box.peerBroke(error, now)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        See L{Protocol.connectionLost}.
        """
        error = reason.value
        text = opensslReason(error) if isinstance(error, SSLError) else reason.getErrorMessage()
        self._box.linkDown(text, self._clock.seconds())

    def send(self, data: bytes) -> None:
        """
        See L{binaryserver.tools.box_plan.Link.send}.
        """
        self.transport.write(data)

    def startTls(self) -> None:
        """
        See L{binaryserver.tools.box_plan.Link.startTls}.
        """
        assert self._tls is not None
        self.transport.startTLS(self._tls)

    def cut(self) -> None:
        """
        See L{binaryserver.tools.box_plan.Link.cut}.
        """
        self.transport.abortConnection()

    def leave(self) -> None:
        """
        See L{binaryserver.tools.box_plan.Link.leave}.
        """
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def pauseProducing(self) -> None:
        """
        See L{IPushProducer.pauseProducing}.
        """
        self.paused = True

    def resumeProducing(self) -> None:
        """
        See L{IPushProducer.resumeProducing}.
        """
        self.paused = False
        self._box.fill(self._clock.seconds())

    def stopProducing(self) -> None:
        """
        See L{IPushProducer.stopProducing}.
        """
        self.paused = True


class BoxLinkFactory(Factory):
    """
    Makes the link of one box.
    """

    noisy = False

    def __init__(self, box: Box, clock: IReactorTime, tls: IOpenSSLClientConnectionCreator | None = None) -> None:
        """
        @param tls: see L{BoxLink}
        """
        self._box = box
        self._clock = clock
        self._tls = tls

    def buildProtocol(self, addr: object) -> BoxLink:
        """
        See L{Factory.buildProtocol}.
        """
        return BoxLink(self._box, self._clock, self._tls)


class BoxDatagrams(DatagramProtocol):
    """
    One box's way for datagrams, to one address and back.
    """

    transport: Any
    """An L{IUDPTransport}."""

    def __init__(self, box: Box, clock: IReactorTime, host: str, port: int) -> None:
        """
        @param host: an IP address
        """
        self._box = box
        self._clock = clock
        self._host = host
        self._port = port

    def startProtocol(self) -> None:
        """
        See L{DatagramProtocol.startProtocol}. Being connected, the socket takes nothing from elsewhere.
        """
        self.transport.connect(self._host, self._port)

    def datagramReceived(self, datagram: bytes, addr: object) -> None:
        """
        See L{DatagramProtocol.datagramReceived}.
        """
        now = self._clock.seconds()
        try:
            self._box.datagramReceived(datagram, now)
        except PeerError as error:
            self._box.peerBroke(error, now)

    def send(self, data: bytes) -> None:
        """
        See L{binaryserver.tools.box_plan.DatagramLink.send}.
        """
        self.transport.write(data)

    def close(self) -> None:
        """
        See L{binaryserver.tools.box_plan.DatagramLink.close}.
        """
        self.transport.stopListening()
