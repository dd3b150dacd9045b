"""
TLS on a link that began without: for protocols in which the peer asks for it.
"""

# Twisted's own wrappers and endpoints carry no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IReactorTime, ISSLTransport
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import TLSMemoryBIOProtocol

from binaryserver.endpoints.tlslink import TlsFactory, TlsLink


class TlsUpgrade:
    """
    The server's side of it, with what C{tls:} listeners are made of.
    """

    def __init__(
        self,
        credentials: IOpenSSLServerConnectionCreator,
        clock: IReactorTime,
        handshakeTimeout: float,
        closeTimeout: float,
    ) -> None:
        """
        @param handshakeTimeout: s for a handshake; the link that begins one keeps watch over it
        @param closeTimeout: s that a closing link may take
        """
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
        link = TlsLink(self._factory, protocol, False)
        if isinstance(below, ProtocolWrapper):
            below.wrappedProtocol = link
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
