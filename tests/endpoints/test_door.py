"""
Tests for L{binaryserver.endpoints.door}, and for TLS, the PROXY protocol and upgrades behind it.
"""

from __future__ import annotations

import os
import ssl
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import defer
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.endpoints.credentials import CredentialFiles, ReloadingCredentials
from binaryserver.endpoints.door import PATIENCE, Door, DoorCounts, DoorLimits, Place, placeOf
from binaryserver.endpoints.identity import isRevoked
from binaryserver.endpoints.listening import ServerEndpoint
from binaryserver.endpoints.upgrade import TlsUpgrade
from tests.certificates import Authority, replaceFile
from tests.endpoints.links import Link, LinkTransport, MemoryPeer, Recording, RecordingFactory, clientContext
from tests.endpoints.test_proxyheader import V2_IPV4, V2_LOCAL, V2_TLVS


class FakePort:
    """
    A listener that may be told to accept no more.
    """

    connected = True
    disconnecting = False
    isReading = True

    def stopReading(self) -> None:
        """
        Accept no more.
        """
        self.isReading = False

    def startReading(self) -> None:
        """
        Accept.
        """
        self.isReading = True


class DoorTestCase(SynchronousTestCase):
    """
    One door and links that come by it.
    """

    def setUp(self) -> None:
        self.clock: Any = Clock()
        self.links = RecordingFactory()
        self.port = FakePort()
        directory = self.directory = self.mktemp()
        os.mkdir(directory)
        self.root = Authority()
        certificate, key = self.root.issueServer().write(directory, "server")
        replaceFile(f"{directory}/ca.pem", self.root.certificatePem())
        files = CredentialFiles(certificate, key, f"{directory}/ca.pem")
        self.credentials = ReloadingCredentials(files, self.clock, defer.maybeDeferred)
        self.limit()

    def limit(self, links: int = 0, handshakes: int = 0, addressRate: float = 0) -> None:
        """
        Make the door.
        """
        self.counts = DoorCounts()
        self.door = Door(self.clock, DoorLimits(links, handshakes, addressRate), self.counts)

    def factory(self, tls: bool = False, proxied: bool = False, links: IProtocolFactory | None = None) -> Any:
        """
        That of a listener behind the door.
        """
        plain: Any = None
        credentials = self.credentials if tls else None
        endpoint = ServerEndpoint(self.clock, plain, credentials, proxied, 10.0, 30.0, self.door)
        return endpoint.wrap(self.links if links is None else links)

    def accept(self, factory: Any, host: str = "203.0.113.7") -> Link | None:
        """
        One connection, as a port of Twisted's does it.

        @return: L{None}: it was closed at once
        """
        protocol = factory.buildProtocol(IPv4Address("TCP", host, 40000))
        if protocol is None:
            return None
        transport: Any = LinkTransport()
        transport.server = self.port
        link = Link.__new__(Link)
        link.factory, link.transport, link.protocol = factory, transport, protocol
        transport.protocol = protocol
        protocol.makeConnection(transport)
        return link

    def accepted(self, factory: Any, host: str = "203.0.113.7") -> Link:
        """
        One connection that was not refused.
        """
        link = self.accept(factory, host)
        assert link is not None
        return link

    def peer(self, link: Link) -> MemoryPeer:
        """
        The box at its other end.
        """
        return MemoryPeer(clientContext(self.root.certificatePem(), self.directory), link)

    def now(self) -> tuple[int, int]:
        """
        Links, and those in their handshake.
        """
        return self.counts.links, self.counts.handshakes


class LinksTests(DoorTestCase):
    """
    How many there are.
    """

    def test_full(self) -> None:
        """
        One too many is refused before anything is made for it, and comes in once another one is gone.
        """
        self.limit(links=2)
        factory = self.factory()
        first, _second = self.accepted(factory), self.accepted(factory)
        self.assertIsNone(self.accept(factory))
        self.assertEqual((len(self.links.made), self.counts.links, self.counts.refusedLinks), (2, 2, 1))
        first.lose()
        self.accepted(factory)
        self.assertIsNone(self.accept(factory))

    def test_shared(self) -> None:
        """
        All listeners of a process have one door.
        """
        self.limit(links=2)
        self.accepted(self.factory())
        self.accepted(self.factory(tls=True))
        self.assertIsNone(self.accept(self.factory(proxied=True)))

    def test_nothingBetween(self) -> None:
        """
        A link has its own transport, and is given what is read without a step between.
        """
        link = self.accepted(self.factory())
        made: Any = self.links.made[0]
        self.assertIs(made.transport, link.transport)
        protocol: Any = link.transport.protocol
        self.assertEqual(protocol.dataReceived, made.dataReceived)
        link.receive(b"up")
        link.lose()
        self.assertEqual((made.received, len(made.lost)), (b"up", 1))

    def test_unlimited(self) -> None:
        """
        0 is no limit.
        """
        factory = self.factory(tls=True)
        for _ in range(1000):
            self.accepted(factory)
        self.assertEqual((self.now(), self.counts.refused, self.port.isReading), ((1000, 1000), 0, True))

    def test_everyEnd(self) -> None:
        """
        A link that ends gives its place back, whichever kind it is and how far it came.
        """
        hello = self.hello()
        stages: list[tuple[bool, bool, list[bytes]]] = [
            (False, False, []),
            (False, False, [b"data"]),
            (False, True, []),
            (False, True, [V2_TLVS[:20]]),
            (False, True, [V2_TLVS, b"data"]),
            (False, True, [b"no header"]),
            (True, False, []),
            (True, False, [hello[:50]]),
            (True, False, [hello]),
            (True, False, [b"no TLS" * 100]),
            (True, True, []),
            (True, True, [V2_TLVS]),
            (True, True, [V2_TLVS, hello]),
            (True, True, [V2_TLVS + b"no TLS" * 100]),
        ]
        for tls, proxied, pieces in stages:
            with self.subTest((tls, proxied, pieces)):
                link = self.accepted(self.factory(tls, proxied))
                self.assertEqual(self.counts.links, 1)
                for piece in pieces:
                    link.receive(piece)
                link.lose()
                self.assertEqual(self.now(), (0, 0))

    def hello(self) -> bytes:
        """
        What a box says first.
        """
        peer = self.peer(self.accepted(self.factory(tls=True)))
        self.assertRaises(ssl.SSLWantReadError, peer.tls.do_handshake)
        data = peer._out.read()
        peer.link.lose()
        return data

    def test_timedOut(self) -> None:
        """
        So does one that is ended for its slowness, and one that nobody wants.
        """
        unwanted: Any = Factory()
        unwanted.buildProtocol = lambda addr: None
        self.assertIsNone(self.accept(self.factory(links=unwanted)))
        link = self.accepted(self.factory(tls=True))
        self.clock.advance(10.1)
        link.settle()
        link = self.accepted(self.factory(tls=True, links=unwanted))
        self.peer(link).handshake()
        link.settle()
        self.assertEqual(self.now(), (0, 0))

    def test_failed(self) -> None:
        """
        A link whose protocol fails as it is made has a place until it ends.
        """

        class Failing(Recording):
            def connectionMade(self) -> None:
                raise ZeroDivisionError

        failing: Any = Factory()
        failing.buildProtocol = Failing
        self.assertRaises(ZeroDivisionError, self.accept, self.factory(links=failing))
        self.assertEqual(self.counts.links, 1)

    def test_factory(self) -> None:
        """
        What is behind the door is started and stopped with its listener.
        """
        factory = self.factory(tls=True, proxied=True)
        factory.doStart()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        factory.doStop()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class AddressTests(DoorTestCase):
    """
    How often an address comes.
    """

    def test_plain(self) -> None:
        """
        An address that comes too often is refused; others are not, and it is not for ever.
        """
        self.limit(addressRate=1)
        factory = self.factory(tls=True)
        self.assertEqual([self.accept(factory) is not None for _ in range(3)], [True, True, False])
        self.accepted(factory, "203.0.113.8")
        self.assertEqual((self.counts.links, self.counts.refusedAddress), (3, 1))
        self.clock.advance(1)
        self.accepted(factory)

    def test_proxied(self) -> None:
        """
        Behind a proxy the announced address counts, once it is; the link is closed without a byte, and makes nothing.
        """
        self.limit(addressRate=1)
        for tls in (False, True):
            factory = self.factory(tls, proxied=True)
            links = [self.accepted(factory) for _ in range(4)]
            for link in links:
                link.receive(V2_IPV4)
            self.assertEqual([link.transport.aborted for link in links], [False, False, True, True])
            self.assertEqual([link.transport.value() for link in links], [b""] * 4)
            for link in links:
                link.lose()
            self.assertEqual(self.now(), (0, 0))
            self.clock.advance(2)
        self.assertEqual((self.counts.refusedAddress, len(self.links.made)), (4, 2))

    def test_unannounced(self) -> None:
        """
        A header without an address, as of health checks, counts for nobody.
        """
        self.limit(addressRate=1)
        factory = self.factory(proxied=True)
        for _ in range(10):
            self.accepted(factory).receive(V2_LOCAL)
        self.assertEqual((len(self.links.made), self.counts.refusedAddress), (10, 0))


class HandshakesTests(DoorTestCase):
    """
    How many are under way.
    """

    def test_counted(self) -> None:
        """
        From accept to the end of the handshake, a header before it included; plain links have none.
        """
        self.accepted(self.factory())
        self.assertEqual(self.now(), (1, 0))
        link = self.accepted(self.factory(tls=True))
        self.assertEqual(self.now(), (2, 1))
        self.peer(link).handshake()
        self.assertEqual(self.now(), (2, 0))
        link = self.accepted(self.factory(proxied=True))
        self.assertEqual(self.now(), (3, 1))
        link.receive(V2_TLVS)
        self.assertEqual(self.now(), (3, 0))
        link = self.accepted(self.factory(tls=True, proxied=True))
        link.receive(V2_TLVS)
        self.assertEqual(self.now(), (4, 1))
        self.peer(link).handshake()
        self.assertEqual((self.now(), len(self.links.made)), ((4, 0), 4))

    def test_paused(self) -> None:
        """
        With too many the listener accepts no more, until one is done or gone; what it has accepted goes on.
        """
        self.limit(handshakes=2)
        factory = self.factory(tls=True)
        first, second, third = (self.accepted(factory) for _ in range(3))
        self.assertEqual((self.port.isReading, self.counts.pauses), (False, 1))
        self.peer(first).handshake()
        self.assertFalse(self.port.isReading)
        second.lose()
        self.assertTrue(self.port.isReading)
        self.peer(third).handshake()
        self.assertEqual((self.now(), self.counts.refused), ((2, 0), 0))
        self.clock.advance(PATIENCE)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_otherLimits(self) -> None:
        """
        Limits may change: who is there stays, who is too many from now on is refused, and a listener that waited for
        handshakes goes on.
        """
        self.limit(handshakes=1)
        factory = self.factory(tls=True)
        links = [self.accepted(factory), self.accepted(factory)]
        self.assertFalse(self.port.isReading)
        self.door.setLimits(DoorLimits(links=2, handshakes=5, addressRate=1))
        self.assertTrue(self.port.isReading)
        self.assertIsNone(self.accept(factory))
        self.assertEqual((self.now(), self.counts.refusedLinks), ((2, 2), 1))
        for link in links:
            link.lose()
        self.accepted(factory).lose()
        self.accepted(factory).lose()
        self.assertIsNone(self.accept(factory))
        self.assertEqual(self.counts.refusedAddress, 1)
        self.door.setLimits(DoorLimits())
        self.accepted(factory)

    def test_closedMeanwhile(self) -> None:
        """
        A listener that has ended is not told to accept again.
        """
        self.limit(handshakes=1)
        link = self.accepted(self.factory(tls=True))
        self.port.disconnecting = True
        link.lose()
        self.assertFalse(self.port.isReading)

    def test_slow(self) -> None:
        """
        While others wait, whoever takes too long is ended, the oldest first; while none do, nobody is.
        """
        self.limit(handshakes=3)
        factory = self.factory(tls=True)
        links = [self.accepted(factory)]
        self.clock.advance(1)
        links.append(self.accepted(factory))
        self.clock.advance(PATIENCE)
        self.assertEqual([link.transport.aborted for link in links], [False, False])
        links.append(self.accepted(factory))
        self.assertEqual([link.transport.aborted for link in links], [True, False, False])
        self.assertEqual((self.port.isReading, self.now()), (True, (3, 2)))
        links[0].settle()
        self.assertEqual((self.now(), self.counts.slowHandshakes), ((2, 2), 1))

    def test_slowLater(self) -> None:
        """
        Those who are not slow yet have their time.
        """
        self.limit(handshakes=2)
        factory = self.factory(tls=True)
        first = self.accepted(factory)
        self.clock.advance(1)
        second = self.accepted(factory)
        self.clock.advance(PATIENCE - 1.01)
        self.assertEqual((first.transport.aborted, self.port.isReading), (False, False))
        self.clock.advance(0.02)
        self.assertEqual((first.transport.aborted, self.port.isReading), (True, True))
        self.clock.advance(5)
        self.assertFalse(second.transport.aborted)

    def test_slowProxied(self) -> None:
        """
        A header does not make a handshake younger.
        """
        self.limit(handshakes=1)
        link = self.accepted(self.factory(tls=True, proxied=True))
        self.clock.advance(PATIENCE - 1)
        link.receive(V2_TLVS)
        self.clock.advance(1.01)
        self.assertTrue(link.transport.aborted)

    def test_everySlow(self) -> None:
        """
        However many were accepted at once, all that are slow make room in time.
        """
        self.limit(handshakes=5)
        factory = self.factory(tls=True)
        links = [self.accepted(factory) for _ in range(50)]
        self.clock.advance(PATIENCE + 0.01)
        self.assertEqual((sum(link.transport.aborted for link in links), self.port.isReading), (46, True))

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from("acchlt"), st.integers(0, 9)), max_size=60))
    def test_anyOrder(self, steps: list[tuple[str, int]]) -> None:
        """
        Whatever comes in whatever order: what is counted is what is there, and the listener accepts if and only if
        there is room.
        """
        self.clock, self.port = Clock(), FakePort()
        self.limit(links=8, handshakes=3)
        factory = self.factory(proxied=True)
        waiting: list[Link] = []
        through: list[Link] = []
        for step, number in steps:
            if step == "a" and self.port.isReading:
                link = self.accept(factory)
                self.assertEqual(link is None, len(waiting) + len(through) == 8)
                if link is not None:
                    waiting.append(link)
            elif step == "c" and waiting:
                through.append(waiting.pop(number % len(waiting)))
                through[-1].receive(V2_TLVS)
            elif step == "h" and waiting:
                waiting.pop(number % len(waiting)).lose()
            elif step == "l" and through:
                through.pop(number % len(through)).lose()
            elif step == "t":
                self.clock.advance(number / 3)
            for link in [one for one in waiting if one.transport.ended]:
                waiting.remove(link)
                link.lose()
            self.assertEqual(self.now(), (len(waiting) + len(through), len(waiting)))
            self.assertEqual(self.port.isReading, len(waiting) < 3)


class UpgradeTests(DoorTestCase):
    """
    TLS on a link that has a place already.
    """

    def setUp(self) -> None:
        super().setUp()
        self.upgrade = TlsUpgrade(self.credentials, self.clock, 10.0, 30.0)

    def upgraded(self, proxied: bool = False) -> tuple[Link, Recording, MemoryPeer]:
        """
        A link that begins a handshake.
        """
        link = self.accepted(self.factory(proxied=proxied))
        if proxied:
            link.receive(V2_TLVS)
        protocol = self.links.made[-1]
        self.upgrade.start(protocol)
        return link, protocol, self.peer(link)

    def test_counted(self) -> None:
        """
        It counts among the handshakes until it is done, keeps its place, and gives it back.
        """
        for proxied in (False, True):
            link, protocol, peer = self.upgraded(proxied)
            self.assertEqual(self.now(), (1, 1))
            peer.handshake()
            self.assertEqual(self.now(), (1, 0))
            transport: Any = protocol.transport
            transport.write(b"down")
            peer.write(b"up")
            self.assertEqual((protocol.received, peer.read()), (b"up", b"down"))
            link.lose()
            self.assertEqual((self.now(), len(protocol.lost)), ((0, 0), 1))

    def test_revoked(self) -> None:
        """
        An upgraded link whose authority is not trusted any more is one that is to be ended.
        """
        link, protocol, _peer = self.upgraded()
        box = self.root.issueClient("862123", "fleet")
        MemoryPeer(clientContext(self.root.certificatePem(), self.directory, box), link).handshake()
        transport: Any = protocol.transport
        self.assertFalse(isRevoked(transport))
        replaceFile(f"{self.directory}/ca.pem", Authority().certificatePem())
        self.upgrade.credentials.reload()
        self.assertTrue(isRevoked(transport))

    def test_goneEarly(self) -> None:
        """
        Also if it never was done.
        """
        link, protocol, _peer = self.upgraded()
        link.lose()
        self.assertEqual((self.now(), len(protocol.lost)), ((0, 0), 1))

    def test_distrusted(self) -> None:
        """
        A certificate that is not trusted any more when the handshake is done ends the link, before anything is taken.
        """
        link, protocol, peer = self.upgraded()
        box = self.root.issueClient("862123", "fleet")
        peer = MemoryPeer(clientContext(self.root.certificatePem(), self.directory, box), link)
        replaceFile(f"{self.directory}/ca.pem", Authority().certificatePem())
        self.credentials.reload()
        peer.handshake()
        self.assertTrue(link.transport.aborted)
        peer.tls.write(b"up")
        link.receive(peer._out.read())
        link.lose()
        self.assertEqual((protocol.received, len(protocol.lost), self.now()), (b"", 1, (0, 0)))


class PlaceTests(DoorTestCase):
    """
    Where a link's place is found.
    """

    def test_placeOf(self) -> None:
        """
        Below all that wraps it; a link that came by no door has none.
        """
        link = self.accepted(self.factory(tls=True, proxied=True))
        link.receive(V2_TLVS)
        self.peer(link).handshake()
        place = placeOf(self.links.made[0].transport)
        self.assertIsInstance(place, Place)
        self.assertIs(place, link.transport.protocol)
        self.assertIsNone(placeOf(Link(RecordingFactory()).transport))
        self.assertIsNone(placeOf(object()))


class LogTests(DoorTestCase):
    """
    What operators read.
    """

    def test_sums(self) -> None:
        """
        One line a second at most, with sums; the first at once; none when nothing more was refused; no timer left.
        """
        self.limit(links=1, addressRate=1)
        factory = self.factory()
        factory.doStart()
        link = self.accepted(factory)
        with capturedLogs() as logs:
            for _ in range(100):
                self.accept(factory)
            self.clock.advance(0)
            self.assertEqual(len(logs), 1)
            for _ in range(10):
                self.accept(factory)
                self.clock.advance(0.05)
            self.assertEqual(len(logs), 1)
            self.clock.advance(0.5)
            self.assertEqual(len(logs), 2)
            self.clock.pump([1] * 5)
            link.lose()
            for _ in range(2):
                self.accepted(factory).lose()
            self.accept(factory)
            self.clock.pump([0, 1, 1])
        self.assertEqual([event["log_level"] for event in logs], [LogLevel.warn] * 3)
        self.assertEqual([(event["links"], event["address"]) for event in logs], [(100, 0), (10, 0), (0, 1)])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_last(self) -> None:
        """
        What was not told yet is when the last listener ends, and nothing is timed after that.
        """
        self.limit(links=1)
        one, two = self.factory(), self.factory()
        one.doStart()
        two.doStart()
        self.accepted(one)
        self.accept(one)
        with capturedLogs() as logs:
            one.doStop()
            self.assertEqual(logs, [])
            two.doStop()
        self.assertEqual([event["links"] for event in logs], [1])
        self.assertEqual(self.clock.getDelayedCalls(), [])
