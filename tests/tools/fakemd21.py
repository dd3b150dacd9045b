"""
A server of MD21 for the tests of the simulated boxes, in memory or on sockets. It takes blocks and messages' acks for
real, counts what comes again, and can be told to be slow, to refuse and to break rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from twisted.internet.protocol import DatagramProtocol, Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from binaryserver.md21 import codec
from binaryserver.md21.datagrams import MAX_HELD, Arrival, DatagramSequence
from binaryserver.md21.framing import Framing, frame
from binaryserver.md21.values import (
    MAX_PDU,
    BaseValueAck,
    BaseValues,
    Channel,
    Disconnect,
    Header,
    HeaderAck,
    HeaderStatus,
    MessageAck,
    Pdu,
    Ping,
    Reason,
    Track,
    TrackingAck,
    TrackingData,
    Transport,
    UdpOffer,
    WantAck,
)
from tests.tools.box_gateway import MemoryReactor

HOST = "127.0.0.1"
UDP_PORT = 2100
TOKEN_SIZE = 32


class FakeMd21:
    """
    @ivar headers: every header, and whether it came in TLS
    @ivar blocks: every block that came: (asset, the tracks, by datagram)
    @ivar tracks: how often each track came, by asset and value
    @ivar acks: every messageack: (asset, ack)
    @ivar pdus: what else came: (asset, PDU)
    @ivar reasons: of the disconnects
    @ivar holding: blocks are not acked until L{release}
    @ivar deaf: nothing is taken behind a header
    @ivar status: the next answers to headers
    @ivar baseValueAcks: base values are acked
    @ivar udp: the port that is offered; L{None}: none is
    @ivar host: that is offered
    @ivar tls: what TLS is started with; L{None}: there is none
    @ivar behindTls: bytes behind the answer to the wish for TLS
    """

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.headers: list[tuple[Header, bool]] = []
        self.blocks: list[tuple[str, tuple[Track, ...], bool]] = []
        self.wantAcks: list[WantAck] = []
        self.tracks: Counter[tuple[str, Track]] = Counter()
        self.acks: list[tuple[str, MessageAck]] = []
        self.pdus: list[tuple[str, Pdu]] = []
        self.reasons: list[Reason] = []
        self.holding = False
        self.deaf = False
        self.status = HeaderStatus.OK
        self.baseValueAcks = True
        self.udp: int | None = None
        self.host = HOST
        self.tls: Any = None
        self.behindTls = b""
        self.links: list[FakeLink] = []
        self.ways: dict[bytes, Way] = {}
        self.unknown = 0
        self.opened = 0

    def link(self) -> FakeLink:
        """
        Its end of a new link.
        """
        return FakeLink(self)

    def release(self) -> None:
        """
        Ack the blocks that wait for it.
        """
        self.holding = False
        for link in self.links:
            link.release()

    def send(self, *pdus: Pdu) -> None:
        """
        To every box that is there.
        """
        for link in self.links:
            for pdu in pdus:
                link.send(pdu)

    def duplicates(self) -> int:
        """
        How many tracks came that had come before.
        """
        return self.tracks.total() - len(self.tracks)

    def datagramReceived(self, data: bytes, write: Callable[[bytes], None]) -> None:
        """
        @param write: sends one back
        """
        datagram = codec.decode(data)
        assert isinstance(datagram, Transport)
        way = self.ways.get(datagram.token)
        if way is None:
            self.unknown += 1
        else:
            way.received(datagram, write)


class FakeLink(Protocol):
    """
    The server's end of one link.
    """

    transport: Any
    asset = ""
    isSecure = False

    def __init__(self, server: FakeMd21) -> None:
        self.server = server
        self.framing = Framing(MAX_PDU)
        self.way: Way | None = None
        self.waiting: list[bool] = []

    def connectionMade(self) -> None:
        """
        See L{Protocol}.
        """
        self.server.links.append(self)

    def dataReceived(self, data: bytes) -> None:
        """
        See L{Protocol}.
        """
        for pdu in self.framing.feed(data):
            if not (self.server.deaf and self.asset):
                self.handle(codec.decode(pdu), False)

    def handle(self, pdu: Pdu, byDatagram: bool) -> None:
        """
        Do what a PDU asks for.
        """
        server = self.server
        if isinstance(pdu, Header):
            self.header(pdu)
        elif isinstance(pdu, TrackingData):
            server.blocks.append((self.asset, pdu.tracks, byDatagram))
            server.wantAcks.append(pdu.wantAck)
            server.tracks.update((self.asset, track) for track in pdu.tracks)
            if pdu.wantAck is not WantAck.NONE:
                self.waiting.append(byDatagram)
            if not server.holding:
                self.release()
        elif isinstance(pdu, MessageAck):
            server.acks.append((self.asset, pdu))
        elif isinstance(pdu, Disconnect):
            server.reasons.append(pdu.reason)
            self.transport.loseConnection()
        else:
            server.pdus.append((self.asset, pdu))
            if isinstance(pdu, BaseValues) and server.baseValueAcks:
                self.send(BaseValueAck(pdu.revision))
            elif isinstance(pdu, Ping) and not pdu.reply:
                self.send(Ping(pdu.number, True))

    def header(self, header: Header) -> None:
        """
        Answer it.
        """
        server = self.server
        server.headers.append((header, self.isSecure))
        if header.tls and not self.isSecure and server.tls is not None:
            self.send(HeaderAck(HeaderStatus.TLS_ACCEPTED))
            self.transport.write(server.behindTls)
            self.isSecure = True
            self.transport.startTLS(server.tls)
            return
        status = HeaderStatus.TLS_UNAVAILABLE if header.tls and server.tls is None else server.status
        if status is not HeaderStatus.OK:
            self.send(HeaderAck(status))
            self.transport.loseConnection()
            return
        self.asset = header.asset
        offer = None
        if server.udp is not None and header.capabilities.udp:
            server.opened += 1
            offer = UdpOffer(server.host, server.udp, bytes([server.opened]) * TOKEN_SIZE)
            self.way = server.ways[offer.token] = Way(self, offer.token)
        self.send(HeaderAck(HeaderStatus.OK, offer))
        self.send(BaseValues(1, (Channel(7, "seven"),), WantAck.ALL_60, 0))

    def release(self) -> None:
        """
        Ack the blocks that wait for it, each the way that it came.
        """
        waiting, self.waiting = self.waiting, []
        for byDatagram in waiting:
            if byDatagram and self.way is not None:
                self.way.send(TrackingAck())
            else:
                self.send(TrackingAck())

    def send(self, pdu: Pdu) -> None:
        """
        By TCP.
        """
        self.transport.write(frame(codec.encode(pdu)))

    def drop(self) -> None:
        """
        End the link without a word.
        """
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        See L{Protocol}.
        """
        self.server.links.remove(self)
        if self.way is not None:
            self.way.close()


class Way:
    """
    The datagrams of one link.
    """

    def __init__(self, link: FakeLink, token: bytes) -> None:
        self.link = link
        self.token = token
        self.sequence = DatagramSequence(token)
        self.write: Callable[[bytes], None] | None = None
        self.timer: Any = None

    def received(self, datagram: Transport, write: Callable[[bytes], None]) -> None:
        """
        One has come.
        """
        self.write = write
        sequence = self.sequence
        sequence.acked(datagram.acks)
        if datagram.pdu is not None:
            now = self.link.server.clock.seconds()
            if sequence.judge(datagram.sequence, len(datagram.pdu), MAX_HELD, now) is Arrival.fresh:
                sequence.take(datagram.sequence, datagram.pdu, now)
            while (pdu := sequence.give()) is not None:
                self.link.handle(codec.decode(pdu), True)
        self.flush()

    def send(self, pdu: Pdu) -> None:
        """
        By datagram.
        """
        self.sequence.queue(codec.encode(pdu))
        self.flush()

    def flush(self) -> None:
        """
        Send what is due, and wait for what will be.
        """
        clock = self.link.server.clock
        if self.write is None:
            return
        if self.timer is not None and self.timer.active():
            self.timer.cancel()
        for datagram in self.sequence.output(clock.seconds(), 1 << 30):
            self.write(datagram)
        due = self.sequence.deadline()
        if due is not None and not self.sequence.isLost:
            self.timer = clock.callLater(max(0.0, due - clock.seconds()), self.flush)

    def close(self) -> None:
        """
        The token is void.
        """
        if self.timer is not None and self.timer.active():
            self.timer.cancel()
        del self.link.server.ways[self.token]


class MemoryPort:
    """
    A box's end of UDP in memory.
    """

    def __init__(self, reactor: Md21Reactor, protocol: Any) -> None:
        self.reactor = reactor
        self.protocol = protocol
        self.isOpen = True

    def connect(self, host: str, port: int) -> None:
        """
        See L{IUDPTransport}.
        """
        self.reactor.udpPeers.append((host, port))

    def write(self, data: bytes) -> None:
        """
        See L{IUDPTransport}.
        """
        self.reactor.datagrams.append((self.reactor.gateway.datagramReceived, (data, self.back)))

    def back(self, data: bytes) -> None:
        """
        The server sends one.
        """
        self.reactor.datagrams.append((self.took, (data,)))

    def took(self, data: bytes) -> None:
        """
        It arrives.
        """
        if self.isOpen:
            self.protocol.datagramReceived(data, (HOST, UDP_PORT))

    def stopListening(self) -> None:
        """
        See L{IListeningPort}.
        """
        self.isOpen = False


class Md21Reactor(MemoryReactor):
    """
    Connects everything to one server of MD21.

    @ivar udpPeers: where boxes' sockets were connected to
    """

    gateway: FakeMd21  # type: ignore[assignment]  # as far as the reactor uses it they are alike

    def __init__(self) -> None:
        MemoryReactor.__init__(self)
        self.gateway = FakeMd21(self)
        self.datagrams: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self.udpPeers: list[tuple[str, int]] = []
        self.udpPorts: list[MemoryPort] = []

    def listenUDP(self, port: int, protocol: Any, interface: str = "", maxPacketSize: int = 8192) -> MemoryPort:
        """
        See L{IReactorUDP}.
        """
        made = protocol.transport = MemoryPort(self, protocol)
        self.udpPorts.append(made)
        protocol.startProtocol()
        return made

    def flush(self) -> None:
        """
        Carry bytes and datagrams until none is under way.
        """
        MemoryReactor.flush(self)
        while self.datagrams:
            datagrams, self.datagrams = self.datagrams, []
            for arrive, arguments in datagrams:
                arrive(*arguments)
            MemoryReactor.flush(self)


class FakeFactory(Factory):
    """
    The server on a socket.
    """

    noisy = False

    def __init__(self, server: FakeMd21) -> None:
        self.server = server

    def buildProtocol(self, addr: object) -> FakeLink:
        """
        See L{Factory}.
        """
        return self.server.link()


class FakeDatagrams(DatagramProtocol):
    """
    Its UDP side on a socket.
    """

    noisy = False

    def __init__(self, server: FakeMd21) -> None:
        self.server = server

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        """
        See L{DatagramProtocol}.
        """

        def back(data: bytes) -> None:
            if self.transport is not None:
                self.transport.write(data, addr)

        self.server.datagramReceived(datagram, back)
