"""
Tests for L{binaryserver.endpoints.tlslink} and L{binaryserver.endpoints.identity}.
"""

from __future__ import annotations

import os
import ssl
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL.SSL import Error
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.endpoints.credentials import CredentialFiles, HandshakeCounts, ReloadingCredentials
from binaryserver.endpoints.proxylink import ProxyFactory
from binaryserver.endpoints.tlslink import PIECE, TlsFactory
from tests.certificates import Authority, Issued, replaceFile
from tests.endpoints.links import Link, MemoryPeer, RecordingFactory, clientContext
from tests.endpoints.test_proxyheader import SOURCE4, V2_TLVS

MQTT_CONNECT = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"
PLAIN_BYTES = [MQTT_CONNECT, b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 600, b"\x16\x03\x01\xff\xff" + b"\xff" * 600]


class TlsLinkTestCase(SynchronousTestCase):
    """
    A listener's factory with certificates of its own.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.links = RecordingFactory()
        self.directory = self.mktemp()
        self.root = Authority()
        os.mkdir(self.directory)
        certificate, key = self.root.issueServer().write(self.directory, "server")
        authorities = f"{self.directory}/ca.pem"
        replaceFile(authorities, self.root.certificatePem())
        self.credentials = ReloadingCredentials(CredentialFiles(certificate, key, authorities), self.clock)
        self.factory = TlsFactory(self.credentials, self.links, self.clock, 10.0, 30.0)

    def peer(self, link: Link, issued: Issued | None = None) -> MemoryPeer:
        """
        The box at the other end of a link.
        """
        return MemoryPeer(clientContext(self.root.certificatePem(), self.directory, issued), link)

    def opened(self, issued: Issued | None = None) -> tuple[Link, MemoryPeer]:
        """
        A link whose handshake is done.
        """
        link = Link(self.factory)
        peer = self.peer(link, issued)
        peer.handshake()
        return link, peer


class HandshakeTests(TlsLinkTestCase):
    """
    From accept to the link.
    """

    def test_open(self) -> None:
        """
        The link's protocol is made when the handshake is done, not before, and no timer is left.
        """
        link = Link(self.factory)
        self.assertEqual(self.links.made, [])
        peer = self.peer(link)
        peer.handshake()
        self.assertEqual(len(self.links.made), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        peer.write(b"up")
        made: Any = self.links.made[0]
        made.transport.write(b"down")
        self.assertEqual((made.received, peer.read()), (b"up", b"down"))
        self.assertEqual(self.factory.credentials.handshakes, HandshakeCounts(1, 0))

    def test_plainBytes(self) -> None:
        """
        Whoever does not speak TLS is refused at once, with a logged reason, and seen by nobody.
        """
        for data in PLAIN_BYTES:
            link = Link(self.factory)
            with capturedLogs() as logs:
                link.receive(data)
                link.settle()
            self.assertTrue(link.transport.ended)
            self.assertIn("TLS handshake failed: ", logs[0]["error"])
            self.assertEqual((self.links.made, self.clock.getDelayedCalls()), ([], []))
        self.assertEqual(self.factory.credentials.handshakes, HandshakeCounts(0, len(PLAIN_BYTES)))

    def test_silent(self) -> None:
        """
        A connection that never speaks ends at the limit.
        """
        link = Link(self.factory)
        self.clock.advance(9.99)
        self.assertFalse(link.transport.ended)
        with capturedLogs() as logs:
            self.clock.advance(0.02)
            link.settle()
        self.assertTrue(link.transport.aborted)
        self.assertEqual([event["error"] for event in logs], ["no whole TLS handshake within 10 s"])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.factory.credentials.handshakes, HandshakeCounts(0, 1))

    def test_drip(self) -> None:
        """
        A handshake a byte a second ends at the same limit.
        """
        recorded = Link(self.factory)
        peer = self.peer(recorded)
        peer.link = drip = Link(self.factory)
        try:
            peer.tls.do_handshake()
        except ssl.SSLWantReadError:
            hello = peer._out.read()
        for byte in hello[:10]:
            self.assertFalse(drip.transport.ended)
            drip.receive(bytes([byte]))
            self.clock.advance(1.001)
        self.assertTrue(drip.transport.aborted)

    def test_goneEarly(self) -> None:
        """
        A connection that goes before its handshake leaves nothing behind.
        """
        link = Link(self.factory)
        with capturedLogs() as logs:
            link.lose()
        self.assertEqual([event["log_level"] for event in logs], [LogLevel.debug])
        self.assertEqual((self.links.made, self.clock.getDelayedCalls(), self.factory.protocols), ([], [], {}))

    def test_unwanted(self) -> None:
        """
        A factory that wants no more links ends the connection.
        """
        full: Any = Factory()
        full.buildProtocol = lambda addr: None
        link = Link(TlsFactory(self.credentials, full, self.clock, 10.0, 30.0))
        self.peer(link).handshake()
        self.assertTrue(link.transport.aborted)
        link.settle()

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.binary(min_size=1, max_size=200), max_size=6),
        st.sampled_from([b"", b"\x16\x03\x01", b"\x16\x03\x01\x00\x40\x01\x00\x00\x3c\x03\x03", b"\x80\x40\x01"]),
    )
    def test_anyBytes(self, pieces: list[bytes], start: bytes) -> None:
        """
        Any bytes end in a close, or in a wait that is bounded; none of them is seen by anybody.
        """
        link = Link(self.factory)
        for piece in [start, *pieces]:
            if piece and not link.transport.ended:
                link.receive(piece)
        self.clock.advance(10.0)
        self.assertTrue(link.transport.ended)
        link.settle()
        self.assertEqual((self.links.made, self.clock.getDelayedCalls()), ([], []))


class ProxiedTests(TlsLinkTestCase):
    """
    TLS behind a proxy.
    """

    def setUp(self) -> None:
        super().setUp()
        self.factory = ProxyFactory(self.factory, self.clock, 10.0)  # type: ignore[assignment]

    def test_client(self) -> None:
        """
        The header comes first, then TLS; the link's peer is the client, by address and by certificate.
        """
        link = Link(self.factory)
        link.receive(V2_TLVS)
        self.peer(link, self.root.issueClient("862123", "fleet")).handshake()
        made: Any = self.links.made[0]
        self.assertEqual((made.address, made.transport.getPeer()), (SOURCE4, SOURCE4))
        self.assertEqual(made.identity, ("862123", "fleet"))

    def test_splitHeader(self) -> None:
        """
        The header may be cut anywhere, and the handshake may follow it in the same read.
        """
        for cut in range(1, len(V2_TLVS)):
            link = Link(self.factory)
            link.receive(V2_TLVS[:cut])
            peer = self.peer(link)
            with self.assertRaises(ssl.SSLWantReadError):
                peer.tls.do_handshake()
            link.receive(V2_TLVS[cut:] + peer._out.read())
            peer.handshake()
            self.assertEqual(len(self.links.made), cut)

    def test_oneLimit(self) -> None:
        """
        Header and handshake share one limit, counted from accept.
        """
        link = Link(self.factory)
        self.clock.advance(6)
        link.receive(V2_TLVS)
        self.clock.advance(3.9)
        self.assertFalse(link.transport.ended)
        self.clock.advance(0.2)
        self.assertTrue(link.transport.aborted)
        link.settle()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class IdentityTests(TlsLinkTestCase):
    """
    Who the peer is.
    """

    def identityOf(self, issued: Issued | None) -> object:
        """
        As the link's protocol sees it when it is made.
        """
        self.opened(issued)
        return self.links.made[-1].identity

    def test_certificate(self) -> None:
        """
        A verified certificate gives its CN and its O, in any script.
        """
        self.assertEqual(self.identityOf(self.root.issueClient("862123", "fleet")), ("862123", "fleet"))
        self.assertEqual(self.identityOf(self.root.issueClient("Ж-1", "Flotte Süd")), ("Ж-1", "Flotte Süd"))

    def test_none(self) -> None:
        """
        Without a certificate, or with one that names no account, nobody is proved; the link is open all the same.
        """
        self.assertIsNone(self.identityOf(None))
        self.assertIsNone(self.identityOf(self.root.issueClient("862123", None)))

    def test_refused(self) -> None:
        """
        A certificate of a stranger, one for servers, or one that has expired fails the handshake.
        """
        bad = {
            "stranger": Authority().issueClient("862123", "fleet"),
            "for servers": self.root.issueServer(),
            "expired": self.root.issueClient("862123", "fleet", timedelta(hours=-1)),
        }
        for name, issued in bad.items():
            with self.subTest(name):
                link = Link(self.factory)
                peer = self.peer(link, issued)
                with capturedLogs() as logs:
                    # TLS 1.3: the client is done before the server has judged its certificate.
                    peer.handshake()
                    self.assertRaises(ssl.SSLError, peer.read)
                    link.settle()
                self.assertTrue(link.transport.ended)
                self.assertIn("certificate verify failed", logs[0]["error"])
                self.assertEqual(self.links.made, [])


class CloseTests(TlsLinkTestCase):
    """
    Every end of a link is the end of its protocol, within a bounded time.
    """

    def test_ours(self) -> None:
        """
        We close and the peer answers: what was written arrives first, and no timer is left.
        """
        link, peer = self.opened()
        made: Any = self.links.made[0]
        made.transport.write(b"last words")
        made.transport.loseConnection()
        made.transport.write(b"too late")
        self.assertFalse(link.transport.ended)
        self.assertEqual(peer.read(), b"last words")
        peer.closeNotify()
        self.assertTrue(link.transport.disconnecting)
        link.settle()
        self.assertIsInstance(made.lost[0].value, ConnectionDone)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_unanswered(self) -> None:
        """
        We close and the peer does not answer.
        """
        link, _peer = self.opened()
        made: Any = self.links.made[0]
        made.transport.loseConnection()
        self.clock.advance(29.9)
        self.assertFalse(link.transport.ended)
        self.clock.advance(0.2)
        self.assertTrue(link.transport.aborted)
        link.settle()
        self.assertEqual(len(made.lost), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_theirs(self) -> None:
        """
        The peer closes: so do we.
        """
        link, peer = self.opened()
        peer.closeNotify()
        self.assertTrue(link.transport.disconnecting)
        link.settle()
        self.assertIsInstance(self.links.made[0].lost[0].value, ConnectionDone)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_theirsWhileStuck(self) -> None:
        """
        The peer closes but does not read what is still to be sent to it.
        """
        link, peer = self.opened()
        link.transport.stuck = True
        peer.closeNotify()
        link.settle()
        self.assertEqual(self.links.made[0].lost, [])
        self.clock.advance(30.1)
        link.settle()
        self.assertTrue(link.transport.aborted)
        self.assertEqual(len(self.links.made[0].lost), 1)

    def test_abrupt(self) -> None:
        """
        The connection below goes without a close alert: the protocol learns that it was lost.
        """
        link, _peer = self.opened()
        link.lose()
        self.assertIsInstance(self.links.made[0].lost[0].value, ConnectionLost)

    def test_broken(self) -> None:
        """
        Bytes that are no TLS, in an open link, end it; nothing of them or after them is delivered.
        """
        link, peer = self.opened()
        link.receive(MQTT_CONNECT * 10)
        self.assertTrue(link.transport.disconnecting)
        peer.tls.write(b"after")
        link.settle()
        made = self.links.made[0]
        self.assertEqual(made.received, b"")
        self.assertIsInstance(made.lost[0].value, Error)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_aborted(self) -> None:
        """
        An abort needs nobody's answer, and nothing is delivered after it.
        """
        link, peer = self.opened()
        made: Any = self.links.made[0]
        made.transport.abortConnection()
        self.assertTrue(link.transport.aborted)
        peer.tls.write(b"after")
        link.receive(peer._out.read())
        link.settle()
        self.assertEqual((made.received, len(made.lost)), (b"", 1))


class PiecesTests(TlsLinkTestCase):
    """
    Large reads and writes.
    """

    def test_large(self) -> None:
        """
        They arrive whole, whichever sizes they have.
        """
        _link, peer = self.opened()
        made: Any = self.links.made[0]
        for size in (PIECE - 1, PIECE, PIECE + 1, 5 * PIECE + 7, 100_000):
            data = bytes(range(256)) * (size // 256 + 1)
            made.received = b""
            peer.write(data[:size])
            self.assertEqual(made.received, data[:size])
            made.transport.write(data[:size])
            self.assertEqual(peer.read(), data[:size])

    def test_closedWithin(self) -> None:
        """
        A protocol that aborts on the first of many records gets no more of them.
        """
        link, peer = self.opened()
        made: Any = self.links.made[0]

        def abortOnData(data: bytes) -> None:
            made.received += data
            made.transport.abortConnection()

        made.dataReceived = abortOnData
        for _ in range(20):
            peer.tls.write(b"x" * 1000)
        link.receive(peer._out.read())
        self.assertEqual(len(made.received), 1000)
        link.settle()
