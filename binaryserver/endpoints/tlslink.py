"""
TLS on a link: Twisted's, with every wait bounded, and with the link's own protocol made only once the peer proved that
it speaks TLS.
"""

# Twisted's own wrappers and endpoints carry no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

from OpenSSL.SSL import Error
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHandshakeListener,
    IProtocolFactory,
    IReactorTime,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from binaryserver.endpoints.credentials import ReloadingCredentials, opensslReason
from binaryserver.endpoints.door import placeOf
from binaryserver.endpoints.errors import HandshakeFailed
from binaryserver.endpoints.proxylink import ProxyLink
from binaryserver.errors import PeerError, PeerTimeout

PIECE = 4096
"""bytes that go through OpenSSL at once: its memory BIOs never shrink, and keep room for the largest piece of all."""


class TlsLink(TLSMemoryBIOProtocol):
    """
    A TLS link whose end is bounded: neither a peer that does not answer our close, nor one that closes and does not
    read what is still to be sent, can hold it for longer than the factory's C{closeTimeout}.
    """

    factory: TlsFactory
    _closing: IDelayedCall | None = None

    def dataReceived(self, data: bytes) -> None:
        """
        See L{PIECE}.
        """
        if len(data) <= PIECE:
            super().dataReceived(data)
            return
        for start in range(0, len(data), PIECE):
            if self._lostTLSConnection or self._aborted:
                return
            super().dataReceived(data[start : start + PIECE])

    def write(self, data: bytes) -> None:
        """
        See L{PIECE}.
        """
        if len(data) <= PIECE:
            super().write(data)
            return
        for start in range(0, len(data), PIECE):
            super().write(data[start : start + PIECE])

    def checkPeer(self) -> None:
        """
        To be called when the handshake is done, before anything is taken from the peer.

        @raise HandshakeFailed: its certificate is not, or no longer, one that may come in
        """
        credentials = self.factory.credentials
        refusal = credentials.refusal(self.getHandle())
        if refusal:
            credentials.handshakes.failed += 1
            raise HandshakeFailed(f"TLS handshake failed: {refusal}")
        credentials.handshakes.done += 1

    def loseConnection(self) -> None:
        """
        Send what was written and a close alert, wait for the peer's, and close.
        """
        super().loseConnection()
        self._boundClose()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        See L{Protocol.connectionLost}.
        """
        try:
            super().connectionLost(reason)
        finally:
            # Last, as Twisted lets TLS have its say about the loss, which may begin a close.
            if self._closing is not None and self._closing.active():
                self._closing.cancel()
            self._closing = None

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        # The peer closed, or TLS broke: Twisted closes the connection below once its output has drained, if ever.
        super()._tlsShutdownFinished(reason)
        self._boundClose()

    def _boundClose(self) -> None:
        if self._closing is None and self.connected:
            self._closing = self.factory.clock.callLater(self.factory.closeTimeout, self.abortConnection)


@implementer(IHandshakeListener)
class _HandshakeStage(Protocol):
    """
    Stands in for the link's protocol until the handshake is done.
    """

    log = Logger()
    transport: TlsLink

    def __init__(self, factory: TlsFactory, address: IAddress | None) -> None:
        self._factory = factory
        self._address = address
        self._deadline: IDelayedCall | None = None

    def connectionMade(self) -> None:
        below = self.transport.transport
        self._place = placeOf(below)
        if self._place is not None:
            self._place.handshakeBegan()
        now = self._factory.clock.seconds()
        waited = now - below.accepted if isinstance(below, ProxyLink) else 0.0
        self._deadline = self._factory.clock.callLater(
            max(0.0, self._factory.handshakeTimeout - waited), self._timedOut
        )

    def handshakeCompleted(self) -> None:
        """
        See L{IHandshakeListener.handshakeCompleted}.
        """
        self._cancel()
        if self._place is not None:
            self._place.handshakeDone()
        try:
            self.transport.checkPeer()
        except HandshakeFailed as error:
            self._note(error)
            self.transport.abortConnection()
            return
        protocol = self._factory.wrappedFactory.buildProtocol(self._address)
        if protocol is None:
            self.transport.abortConnection()
            return
        link, self.transport.wrappedProtocol = self.transport, protocol
        protocol.makeConnection(link)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._deadline is not None:
            self._cancel()
            self._factory.credentials.handshakes.failed += 1
            if isinstance(reason.value, Error):
                self._note(HandshakeFailed(f"TLS handshake failed: {opensslReason(reason.value)}"))
            else:
                self.log.debug("{peer}: closed before its TLS handshake was done", peer=self.transport.getPeer())

    def _timedOut(self) -> None:
        self._deadline = None
        self._factory.credentials.handshakes.failed += 1
        self._note(PeerTimeout(f"no whole TLS handshake within {self._factory.handshakeTimeout:g} s"))
        self.transport.abortConnection()

    def _note(self, error: PeerError) -> None:
        self.log.info("{peer}: refused: {error}", peer=self.transport.getPeer(), error=str(error))

    def _cancel(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class TlsFactory(TLSMemoryBIOFactory):
    """
    Puts TLS on links. The wrapped factory sees only those whose handshake succeeded, once it has.
    """

    protocol = TlsLink

    def __init__(
        self,
        credentials: ReloadingCredentials,
        wrapped: IProtocolFactory,
        clock: IReactorTime,
        handshakeTimeout: float,
        closeTimeout: float,
    ) -> None:
        """
        @param handshakeTimeout: s from accept (of a proxied link: the proxy's), within which the handshake must be done
        @param closeTimeout: s that a closing link may take, with output that does not drain or a silent peer
        """
        super().__init__(credentials, False, wrapped, clock)
        self.credentials = credentials
        self.clock = clock
        self.handshakeTimeout = handshakeTimeout
        self.closeTimeout = closeTimeout

    def startFactory(self) -> None:
        """
        See L{Factory.startFactory}.
        """
        self.credentials.start()

    def stopFactory(self) -> None:
        """
        See L{Factory.stopFactory}.
        """
        self.credentials.stop()

    def buildProtocol(self, addr: IAddress | None) -> TlsLink:
        """
        See L{IProtocolFactory.buildProtocol}.
        """
        return TlsLink(self, _HandshakeStage(self, addr))
