"""
TLS links in memory: the gateway's side under test, the peer's by Python's own C{ssl}.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from dataclasses import dataclass, field

from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from binaryserver.endpoints.identity import PeerIdentity, peerIdentity
from tests.certificates import Issued, replaceFile

PROXY_ADDRESS = IPv4Address("TCP", "10.0.0.1", 40000)


class Recording(Protocol):
    """
    A link's protocol that keeps what happens to it.
    """

    def __init__(self, address: IAddress | None) -> None:
        self.address = address
        self.received = b""
        self.identity: PeerIdentity | None = None
        self.lost: list[Failure] = []

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.identity = peerIdentity(self.transport)

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.append(reason)


class RecordingFactory(Factory):
    """
    Makes them.
    """

    noisy = False

    def __init__(self) -> None:
        self.made: list[Recording] = []

    def buildProtocol(self, addr: IAddress | None) -> Recording:
        self.made.append(Recording(addr))
        return self.made[-1]


class LinkTransport(StringTransport):
    """
    The connection below, which ends when it is told to unless its output is stuck.
    """

    def __init__(self) -> None:
        super().__init__(peerAddress=PROXY_ADDRESS)
        self.aborted = False
        self.stuck = False
        self.protocol: IProtocol | None = None

    def abortConnection(self) -> None:
        self.aborted = True
        super().abortConnection()

    @property
    def ended(self) -> bool:
        """
        A real transport would be gone by now.
        """
        return self.aborted or (self.disconnecting and not self.stuck)


@dataclass
class Link:
    """
    One link from accept on.
    """

    factory: IProtocolFactory
    transport: LinkTransport = field(default_factory=LinkTransport)

    def __post_init__(self) -> None:
        protocol = self.factory.buildProtocol(PROXY_ADDRESS)
        assert protocol is not None
        # As a connection of Twisted's has it.
        self.protocol = self.transport.protocol = protocol
        protocol.makeConnection(self.transport)

    def receive(self, data: bytes) -> None:
        """
        Bytes from the peer.
        """
        assert self.transport.protocol is not None
        self.transport.protocol.dataReceived(data)

    def settle(self) -> None:
        """
        What the reactor does next: a transport that was told to end does.
        """
        if self.transport.ended:
            self.lose()

    def lose(self) -> None:
        """
        The connection below is gone.
        """
        assert self.transport.protocol is not None
        self.transport.protocol.connectionLost(Failure(connectionDone.value))


class MemoryPeer:
    """
    The peer's TLS.

    @ivar carried: bytes, both ways
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        link: Link,
        name: str | None = "localhost",
        session: ssl.SSLSession | None = None,
    ) -> None:
        """
        @param name: the server's, to ask for and to check; L{None}: neither
        @param session: of an earlier link, to resume
        """
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_hostname=name, session=session)
        self.link = link
        self.received = b""
        self.carried = 0

    def handshake(self) -> None:
        """
        @raise ssl.SSLError: it failed, or needs more than the other side gives
        """
        for _ in range(10):
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.exchange()
            else:
                self.exchange()
                return
        raise ssl.SSLError("the handshake does not end")

    def exchange(self) -> None:
        """
        Carry what is to be carried, both ways.
        """
        data = self._out.read()
        if data:
            self.link.receive(data)
        answer = self.link.transport.value()
        self.carried += len(data) + len(answer)
        self._in.write(answer)
        self.link.transport.clear()

    def write(self, data: bytes) -> None:
        """
        Send application bytes.
        """
        self.tls.write(data)
        self.exchange()

    def read(self) -> bytes:
        """
        Application bytes that came.

        @raise ssl.SSLZeroReturnError: the other side closed
        """
        self.exchange()
        got = b""
        while True:
            try:
                piece = self.tls.read(65536)
            except ssl.SSLWantReadError:
                return got
            if not piece:
                return got
            got += piece

    def closeNotify(self) -> None:
        """
        Say that nothing more will come.
        """
        with suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self.exchange()


def clientContext(authorityPem: bytes, directory: str, issued: Issued | None = None) -> ssl.SSLContext:
    """
    What a box would use: trusts one authority, shows a certificate if it has one.
    """
    context = ssl.create_default_context(cadata=authorityPem.decode())
    if issued is not None:
        path = f"{directory}/client-{issued.certificate.serial_number:x}.pem"
        replaceFile(path, issued.certificatePem() + issued.keyPem())
        context.load_cert_chain(path)
    return context
