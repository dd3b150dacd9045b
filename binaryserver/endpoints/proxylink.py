"""
Links that come through a proxy: the PROXY protocol's header first, then everything as if the client had connected.
"""

# Twisted's own wrappers and endpoints carry no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocolFactory, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from binaryserver.endpoints.door import placeOf
from binaryserver.endpoints.proxyheader import ProxyHeaderReader
from binaryserver.errors import BadProxyHeader, PeerError, PeerTimeout


class ProxyLink(ProtocolWrapper):
    """
    A transport whose ends are those that the header names. Before the header is complete it wraps a L{_HeaderStage},
    after it the protocol of the link.

    @ivar accepted: s of the reactor's clock, when the connection was accepted
    """

    factory: ProxyFactory

    def __init__(self, factory: ProxyFactory) -> None:
        super().__init__(factory, _HeaderStage(factory))
        self.accepted = factory.clock.seconds()
        self._source: IAddress | None = None
        self._destination: IAddress | None = None

    def getPeer(self) -> IAddress:
        """
        The client.
        """
        return self._source or super().getPeer()

    def getHost(self) -> IAddress:
        """
        Where the client connected to.
        """
        return self._destination or super().getHost()

    def headerRead(self, source: IAddress | None, destination: IAddress | None, rest: bytes) -> None:
        """
        Become the link that the header tells of.
        """
        self._source, self._destination = source, destination
        place = placeOf(self)
        if place is not None and not place.admitsAddress(source):
            self.abortConnection()
            return
        protocol = self.factory.wrappedFactory.buildProtocol(self.getPeer())
        if protocol is None:
            self.abortConnection()
            return
        self.wrappedProtocol = protocol
        protocol.makeConnection(self)
        if place is not None and not isinstance(protocol, TLSMemoryBIOProtocol):
            place.handshakeDone()
        if rest and not self.disconnecting:
            protocol.dataReceived(rest)


class _HeaderStage(Protocol):
    """
    Waits for the header.
    """

    log = Logger()
    transport: ProxyLink  # type: ignore[assignment]

    def __init__(self, factory: ProxyFactory) -> None:
        self._factory = factory
        self._reader: ProxyHeaderReader | None = ProxyHeaderReader()
        self._deadline: IDelayedCall | None = None

    def connectionMade(self) -> None:
        place = placeOf(self.transport)
        if place is not None:
            place.handshakeBegan()
        self._deadline = self._factory.clock.callLater(self._factory.headerTimeout, self._timedOut)

    def dataReceived(self, data: bytes) -> None:
        if self._reader is None:
            return
        try:
            header = self._reader.feed(data)
        except BadProxyHeader as error:
            self._refuse(error)
            return
        if header is not None:
            self._end()
            self.transport.headerRead(*header)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._reader is not None:
            # Health checks of load balancers do this all day.
            self.log.debug("{peer}: closed before a PROXY header came", peer=self.transport.getPeer())
            self._end()

    def _timedOut(self) -> None:
        self._deadline = None
        self._refuse(PeerTimeout(f"no whole PROXY protocol header within {self._factory.headerTimeout:g} s"))

    def _refuse(self, error: PeerError) -> None:
        self._end()
        self.log.info("{peer}: refused: {error}", peer=self.transport.getPeer(), error=str(error))
        self.transport.abortConnection()

    def _end(self) -> None:
        self._reader = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class ProxyFactory(WrappingFactory[ProxyLink]):
    """
    Reads the PROXY protocol's header, version 1 or 2, before anything else. The wrapped factory's C{buildProtocol} gets
    the client's address, and only links whose header was good.
    """

    noisy = False

    def __init__(self, wrapped: IProtocolFactory, clock: IReactorTime, headerTimeout: float) -> None:
        """
        @param headerTimeout: s from accept, within which the header must be complete
        """
        super().__init__(wrapped)
        self.clock = clock
        self.headerTimeout = headerTimeout

    def buildProtocol(self, addr: IAddress | None) -> ProxyLink:
        """
        See L{IProtocolFactory.buildProtocol}.
        """
        return ProxyLink(self)
