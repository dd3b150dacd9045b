"""
Tests for TLS on the box's request: L{binaryserver.endpoints.upgrade} under L{binaryserver.md21.protocol}, by a client
that is OpenSSL's own, in memory.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.endpoints.credentials import CredentialFiles, ReloadingCredentials
from binaryserver.endpoints.upgrade import TlsUpgrade
from binaryserver.md21 import values
from binaryserver.md21.codec import decode, encode
from binaryserver.md21.framing import Framing, frame
from binaryserver.md21.settings import Md21Settings
from binaryserver.md21.values import HeaderStatus
from tests.certificates import Authority
from tests.md21.world import Md21Box, Md21World, makeBlock, makeHeader


class TlsBox(Md21Box):
    """
    A box that puts TLS on its end of the link.
    """

    def secure(self, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> None:
        """
        Begin, and finish the handshake.
        """
        self.transport.protocol = self.link.transport
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = context.maximum_version = version
        self.tls = context.wrap_bio(self._incoming, self._outgoing)
        self._inside = Framing(values.MAX_PDU)
        for _ in range(4):
            with contextlib.suppress(ssl.SSLWantReadError):
                self.tls.do_handshake()
            self._exchange()

    def _exchange(self) -> None:
        data = self._outgoing.read()
        if data:
            self.link.transport.dataReceived(data)
        self.world.turn()
        self._incoming.write(self.transport.value())
        self.transport.clear()

    def sendInside(self, *pdus: values.Pdu) -> list[values.Pdu]:
        """
        PDUs through TLS.

        @return: what came back
        """
        self.tls.write(b"".join(frame(encode(pdu)) for pdu in pdus))
        self._exchange()
        with contextlib.suppress(ssl.SSLWantReadError):
            return [decode(pdu) for pdu in self._inside.feed(self.tls.read(65536))]
        return []


class UpgradeTests(SynchronousTestCase):
    """
    One gateway with a certificate.
    """

    def setUp(self) -> None:
        self.world = Md21World()
        folder = self.mktemp()
        os.makedirs(folder)
        certificate, key = Authority().issueServer().write(folder, "server")
        clock: Any = self.world.clock
        credentials = ReloadingCredentials(CredentialFiles(certificate, key), clock)
        self.world.gateway.md21 = Md21Settings(TlsUpgrade(credentials, clock, 5.0, 30.0), True)

    def asked(self) -> TlsBox:
        """
        A box that asked for TLS, and may have it.
        """
        box = TlsBox(self.world)
        box.send(makeHeader(tls=True, secret=None))
        self.assertEqual(box.received(), [values.HeaderAck(HeaderStatus.TLS_ACCEPTED)])
        return box

    def test_upgraded(self) -> None:
        """
        TLS 1.2 and 1.3: a new header comes inside, which may ask for TLS again, and all goes on as ever.
        """
        for number, version in enumerate((ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)):
            box = self.asked()
            box.secure(version)
            header = makeHeader(f"box-{number}", tls=bool(number))
            ack, base = box.sendInside(header)
            self.assertEqual(ack, values.HeaderAck(HeaderStatus.OK))
            assert isinstance(base, values.BaseValues)
            self.assertEqual(box.sendInside(values.BaseValueAck(1), makeBlock(1, 3)), [values.TrackingAck()])
            self.assertTrue(box.link.isSecure)
        self.assertEqual(len(self.world.bus.events("tracks")), 6)

    def test_oldVersion(self) -> None:
        """
        Older than TLS 1.2 is refused.
        """
        box = self.asked()
        self.assertRaises(ssl.SSLError, box.secure, ssl.TLSVersion.TLSv1)
        self.assertEqual(self.world.bus.events("presences"), [])

    def test_injected(self) -> None:
        """
        An attacker on the way puts a header of his own, or a single byte, behind the box's: no TLS, no link, and
        nothing of it is ever taken (CVE-2011-0411).
        """
        for injected in (frame(encode(makeHeader("victim"))) + frame(encode(makeBlock(1))), b"\0"):
            box = TlsBox(self.world)
            box.write(frame(encode(makeHeader(tls=True))) + injected)
            self.assertEqual(box.received(), [])
            self.assertTrue(box.isClosed)
            box.write(frame(encode(makeHeader())))
        self.assertEqual(self.world.bus.committed, [])
        self.assertEqual(self.world.gateway.counters.violations, 2)

    def test_injectedLater(self) -> None:
        """
        One that waits for the answer first only breaks the handshake.
        """
        box = self.asked()
        self.assertIsNot(box.link.transport, box.transport)
        box.link.transport.dataReceived(frame(encode(makeHeader("victim"))))
        self.world.turn()
        self.assertTrue(box.isClosed)
        box.link.transport.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.world.bus.committed, [])
        self.assertEqual(self.world.gateway.counters.refusals, 1)

    def test_injectedWhilePaused(self) -> None:
        """
        So it is when the link could not answer at once, and the bytes came meanwhile.
        """
        box = TlsBox(self.world)
        box.link.pauseForBus()
        box.write(frame(encode(makeHeader(tls=True))))
        box.write(frame(encode(makeHeader("victim"))))
        self.assertEqual(box.received(), [])
        box.link.resumeForBus()
        self.world.turn()
        self.assertEqual(box.received(), [])
        self.assertTrue(box.isClosed)

    def test_required(self) -> None:
        """
        A box without TLS is told to have it.
        """
        box = Md21Box(self.world)
        box.send(makeHeader())
        self.assertEqual(box.received(), [values.HeaderAck(HeaderStatus.TLS_REQUIRED)])
        self.assertTrue(box.isClosed)

    def test_slowHandshake(self) -> None:
        """
        A box that goes silent in the handshake loses its link.
        """
        box = self.asked()
        self.world.wait(7)
        self.assertTrue(box.isClosed)

    def test_headerInside(self) -> None:
        """
        So does one that sends none inside: with TLS's own close, and without it if that is not answered.
        """
        box = self.asked()
        box.secure()
        self.world.wait(9)
        self.assertFalse(box.link.transport.disconnecting)
        self.world.wait(3)
        self.assertTrue(box.link.transport.disconnecting)
        self.assertFalse(box.isClosed)
        self.world.wait(32)
        self.assertTrue(box.transport.isAborted)

    def test_paused(self) -> None:
        """
        A link that is not read for now is not, through TLS, either; and what it has sent is taken in the end.
        """
        box = self.asked()
        box.secure()
        box.sendInside(makeHeader())
        box.link.pauseForBus()
        self.assertFalse(box.transport.isReading)
        self.assertEqual(box.sendInside(values.BaseValueAck(1), makeBlock(1)), [])
        box.link.resumeForBus()
        self.world.turn()
        self.assertEqual(box.sendInside(values.Ping(1))[0], values.TrackingAck())
        self.assertTrue(box.transport.isReading)
