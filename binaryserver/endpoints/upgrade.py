"""
TLS on a link that began without: for protocols in which the peer asks for it.
"""

# Twisted's own wrappers and endpoints carry no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IHandshakeListener, IReactorTime, ISSLTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from binaryserver.endpoints.credentials import ReloadingCredentials
from binaryserver.endpoints.door import Place, placeOf
from binaryserver.endpoints.errors import HandshakeFailed
from binaryserver.endpoints.tlslink import TlsFactory, TlsLink


@implementer(IHandshakeListener)
class _UpgradeStage(Protocol):
    """
    Stands before the link's protocol until the handshake is done.
    """

    log = Logger()
    link: TlsLink

    def __init__(self, protocol: Protocol, place: Place | None) -> None:
        self._protocol = protocol
        self._place = place
        self._isThrough = False
        if place is not None:
            place.handshakeBegan()

    def handshakeCompleted(self) -> None:
        """
        See L{IHandshakeListener.handshakeCompleted}.
        """
        self._isThrough = True
        if self._place is not None:
            self._place.handshakeDone()
        try:
            self.link.checkPeer()
        except HandshakeFailed as error:
            self.log.info("{peer}: refused: {error}", peer=self.link.getPeer(), error=str(error))
            self.link.abortConnection()
            return
        self.link.wrappedProtocol = self._protocol
        if IHandshakeListener.providedBy(self._protocol):
            self._protocol.handshakeCompleted()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self._isThrough:
            self.link.factory.credentials.handshakes.failed += 1
        self._protocol.connectionLost(reason)


class TlsUpgrade:
    """
    The server's side of it, with what C{tls:} listeners are made of.
    """

    def __init__(
        self,
        credentials: ReloadingCredentials,
        clock: IReactorTime,
        handshakeTimeout: float,
        closeTimeout: float,
    ) -> None:
        """
        @param credentials: started and stopped by whoever made them
        @param handshakeTimeout: s for a handshake; the link that begins one keeps watch over it
        @param closeTimeout: s that a closing link may take
        """
        self.credentials = credentials
        self.handshakeTimeout = handshakeTimeout
        self._factory = TlsFactory(credentials, Factory(), clock, handshakeTimeout, closeTimeout)

    def start(self, protocol: Protocol) -> None:
        """
        Put TLS between a protocol and its transport: its next byte from the peer is TLS's, and C{protocol.transport} is
        another one. If it provides C{IHandshakeListener}, it is told when the handshake is done. (C{startTLS} of
        Twisted's transports does this with links of its own, whose end is not bounded.)
        """
        below: Any = protocol.transport
        producer = getattr(below, "producer", None)
        if producer is not None:
            below.unregisterProducer()
        place = placeOf(below)
        stage = _UpgradeStage(protocol, place)
        link = stage.link = TlsLink(self._factory, stage, False)
        if isinstance(below, ProtocolWrapper):
            below.wrappedProtocol = link
        elif place is not None:
            place.carry(link)
        else:
            below.protocol = link
        protocol.transport = link
        link.makeConnection(below)
        if producer is not None:
            link.registerProducer(producer, True)


def isSecure(transport: Any) -> bool:
    """
    Whether what a transport carries is protected by TLS.
    """
    return isinstance(transport, TLSMemoryBIOProtocol) or ISSLTransport.providedBy(transport)
