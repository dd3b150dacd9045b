"""
Tests for L{binaryserver.endpoints.proxylink}.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.endpoints.identity import peerIdentity
from binaryserver.endpoints.proxylink import ProxyFactory
from tests.endpoints.links import PROXY_ADDRESS, Link, RecordingFactory
from tests.endpoints.test_proxyheader import SOURCE4, V1_IPV4, V2_IPV4, V2_LOCAL


class ProxyLinkTests(SynchronousTestCase):
    """
    A plain link behind a proxy.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.links = RecordingFactory()
        self.factory = ProxyFactory(self.links, self.clock, 10.0)

    def test_client(self) -> None:
        """
        The link's protocol is made for the client's address, sees it as its peer, and gets what follows the header.
        """
        for header in (V1_IPV4, V2_IPV4):
            link = Link(self.factory)
            link.receive(header + b"first")
            link.receive(b" second")
            made: Any = self.links.made[-1]
            self.assertEqual((made.address, made.transport.getPeer()), (SOURCE4, SOURCE4))
            self.assertEqual(made.received, b"first second")
            self.assertEqual(made.transport.getHost().port, 8883)
            self.assertIsNone(peerIdentity(made.transport))

    def test_byteByByte(self) -> None:
        """
        A header in pieces is no other, and the link is not made before it is complete.
        """
        link = Link(self.factory)
        for byte in V2_IPV4[:-1]:
            link.receive(bytes([byte]))
        self.assertEqual(self.links.made, [])
        link.receive(V2_IPV4[-1:] + b"x")
        self.assertEqual(self.links.made[0].received, b"x")

    def test_local(self) -> None:
        """
        A proxy that speaks for itself is the peer.
        """
        Link(self.factory).receive(V2_LOCAL)
        self.assertEqual(self.links.made[0].address, PROXY_ADDRESS)

    def test_bad(self) -> None:
        """
        A link without a header ends with a logged reason; nothing of it is seen, also not what comes later.
        """
        link = Link(self.factory)
        with capturedLogs() as logs:
            link.receive(b"\x10\x0c\x00\x04MQTT")
            link.receive(V1_IPV4)
            link.settle()
        self.assertTrue(link.transport.aborted)
        self.assertEqual(self.links.made, [])
        self.assertEqual([event["error"] for event in logs], ["the link does not begin with a PROXY protocol header"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_silent(self) -> None:
        """
        A header that does not come in time, or drips, ends the link.
        """
        for drip in (False, True):
            link = Link(self.factory)
            with capturedLogs() as logs:
                for byte in V1_IPV4[:10]:
                    self.clock.advance(0.999)
                    if drip:
                        link.receive(bytes([byte]))
                self.assertFalse(link.transport.aborted)
                self.clock.advance(0.02)
            self.assertTrue(link.transport.aborted)
            self.assertEqual([event["error"] for event in logs], ["no whole PROXY protocol header within 10 s"])
            link.settle()

    def test_inTime(self) -> None:
        """
        The limit is the header's, not the link's.
        """
        link = Link(self.factory)
        link.receive(V1_IPV4)
        self.clock.advance(3600)
        self.assertFalse(link.transport.ended)

    def test_closedEarly(self) -> None:
        """
        A connection that goes before its header is nobody's link, and nothing to log above debug.
        """
        link = Link(self.factory)
        with capturedLogs() as logs:
            link.lose()
        self.assertEqual([event["log_level"] for event in logs], [LogLevel.debug])
        self.assertEqual((self.links.made, self.clock.getDelayedCalls()), ([], []))

    def test_lost(self) -> None:
        """
        The end of the connection is the end of the link, once.
        """
        link = Link(self.factory)
        link.receive(V1_IPV4)
        link.lose()
        self.assertEqual(len(self.links.made[0].lost), 1)
        self.assertEqual(self.factory.protocols, {})

    def test_unwanted(self) -> None:
        """
        A factory that wants no more links ends the connection.
        """
        full: Any = Factory()
        full.buildProtocol = lambda addr: None
        link = Link(ProxyFactory(full, self.clock, 10.0))
        link.receive(V1_IPV4 + b"rest")
        link.settle()
        self.assertTrue(link.transport.aborted)

    @given(st.lists(st.binary(max_size=40), max_size=8))
    def test_anyBytes(self, pieces: list[bytes]) -> None:
        """
        Any bytes end in a link, a close, or a wait that is bounded.
        """
        clock, links = Clock(), RecordingFactory()
        link = Link(ProxyFactory(links, clock, 10.0))
        for piece in pieces:
            link.receive(piece)
        clock.advance(10.0)
        self.assertTrue(link.transport.aborted or links.made)
