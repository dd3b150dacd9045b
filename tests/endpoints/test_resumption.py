"""
Tests for the resumption of TLS sessions, and for what is shown for which name: L{binaryserver.endpoints.tlscontext},
L{binaryserver.endpoints.trust} and L{binaryserver.endpoints.credentials} together, with Python's own C{ssl} as the box.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.endpoints import credentials
from binaryserver.endpoints.credentials import CredentialFiles, ReloadingCredentials
from binaryserver.endpoints.identity import isRevoked
from binaryserver.endpoints.tlscontext import TICKET_LIFETIME
from binaryserver.endpoints.tlslink import TlsFactory
from tests.certificates import Authority, Issued, replaceFile
from tests.endpoints.links import Link, MemoryPeer, RecordingFactory, clientContext

HOUR = timedelta(hours=1)
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


class SessionsTestCase(SynchronousTestCase):
    """
    A listener with client certificates and revocation lists, and boxes that keep their sessions.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.links = RecordingFactory()
        self.directory = self.mktemp()
        os.makedirs(f"{self.directory}/names")
        self.root = Authority()
        certificate, key = self.root.issueServer().write(self.directory, "server")
        self.put("ca.pem", self.root.certificatePem())
        self.revoke()
        self.files = CredentialFiles(certificate, key, f"{self.directory}/ca.pem", f"{self.directory}/crl.pem")
        self.box = self.root.issueClient("862123", "fleet")
        self.use(self.files)

    def use(self, files: CredentialFiles) -> None:
        """
        Listen with these.
        """
        self.credentials = ReloadingCredentials(files, self.clock, maybeDeferred)
        self.factory = TlsFactory(self.credentials, self.links, self.clock, 10.0, 30.0)
        self.factory.doStart()

    def put(self, name: str, content: bytes) -> None:
        """
        Write a file.
        """
        replaceFile(f"{self.directory}/{name}", content)

    def revoke(self, *revoked: Issued, lifetime: timedelta = timedelta(days=1)) -> None:
        """
        Write the root's list.
        """
        self.put("crl.pem", self.root.revoke(revoked, lifetime))

    def client(self, issued: Issued | None = None, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """
        What one box has over all its links.
        """
        context = clientContext(self.root.certificatePem(), self.directory, issued)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        return context

    def connected(
        self, context: ssl.SSLContext, earlier: MemoryPeer | None = None, name: str | None = "localhost"
    ) -> MemoryPeer:
        """
        A box whose handshake is done, and which has its tickets.

        @param earlier: whose session it asks to resume
        """
        peer = MemoryPeer(context, Link(self.factory), name, None if earlier is None else earlier.tls.session)
        peer.handshake()
        peer.read()
        return peer


class ResumptionTests(SessionsTestCase):
    """
    Who comes back soon.
    """

    def test_resumed(self) -> None:
        """
        A box resumes its session, with either version, again and again, with a certificate or without one, and is who
        it was.
        """
        for version in VERSIONS:
            for issued, identity in ((None, None), (self.box, ("862123", "fleet"))):
                context = self.client(issued, version)
                peer = self.connected(context)
                self.assertFalse(peer.tls.session_reused)
                for _ in range(3):
                    peer = self.connected(context, peer)
                    self.assertTrue(peer.tls.session_reused)
                    self.assertEqual(self.links.made[-1].identity, identity)
                    made: Any = self.links.made[-1]
                    made.transport.write(b"down")
                    peer.write(b"up")
                    self.assertEqual((made.received, peer.read()), (b"up", b"down"))

    def test_intermediate(self) -> None:
        """
        A box below an authority that only it shows resumes too, though it shows nothing then.
        """
        below = Authority("Below", self.root)
        self.put("crl.pem", self.root.revoke() + below.revoke())
        self.credentials.reload()
        context = self.client(below.issueClient("862123", "fleet"))
        peer = self.connected(context, self.connected(context))
        self.assertTrue(peer.tls.session_reused)
        self.assertEqual(self.links.made[-1].identity, ("862123", "fleet"))

    def test_notAnothers(self) -> None:
        """
        A listener resumes no session of another one, which may trust others.
        """
        context = self.client(self.box)
        earlier = self.connected(context)
        self.use(replace(self.files, revocations=None))
        self.assertFalse(self.connected(context, earlier).tls.session_reused)

    def test_rotated(self) -> None:
        """
        After the keys of tickets were replaced a session is not resumed, and the box comes in by a whole handshake.
        """
        for version in VERSIONS:
            context = self.client(self.box, version)
            earlier = self.connected(context)
            self.clock.advance(TICKET_LIFETIME + 1)
            peer = self.connected(context, earlier)
            self.assertFalse(peer.tls.session_reused)
            self.assertEqual(self.links.made[-1].identity, ("862123", "fleet"))
            self.assertTrue(self.connected(context, peer).tls.session_reused)

    def test_openKept(self) -> None:
        """
        A link that is open stays so while certificates and keys are replaced.
        """
        peer = self.connected(self.client())
        made: Any = self.links.made[-1]
        self.clock.advance(TICKET_LIFETIME + 1)
        self.root.issueServer().write(self.directory, "server")
        self.clock.advance(1.01)
        made.transport.write(b"down")
        peer.write(b"up")
        self.assertEqual((made.received, peer.read()), (b"up", b"down"))

    def refused(self, peer: MemoryPeer) -> None:
        """
        It is kept out, whenever it learns of that.
        """
        before = len(self.links.made)
        with capturedLogs() as logs:
            # With TLS 1.3 a box may believe itself in for a moment.
            with contextlib.suppress(ssl.SSLError):
                peer.handshake()
                peer.read()
            self.assertTrue(peer.link.transport.ended)
            peer.link.settle()
        self.assertEqual(len(self.links.made), before)
        self.assertIn("TLS handshake failed: ", logs[0]["error"])

    def resuming(self, context: ssl.SSLContext, earlier: MemoryPeer) -> MemoryPeer:
        """
        A box about to.
        """
        return MemoryPeer(context, Link(self.factory), "localhost", earlier.tls.session)

    def test_revoked(self) -> None:
        """
        Whose certificate was revoked comes in no more by a session from before; others do.
        """
        for version in VERSIONS:
            context, other = self.client(self.box, version), self.client(None, version)
            earlier, others = self.connected(context), self.connected(other)
            self.revoke(self.box)
            self.clock.advance(1.01)
            self.refused(self.resuming(context, earlier))
            self.connected(other, others)
            self.revoke()
            self.clock.advance(1.01)

    def test_revokedAuthority(self) -> None:
        """
        Nor if it was the authority above it that was.
        """
        below = Authority("Below", self.root)
        self.put("crl.pem", self.root.revoke() + below.revoke())
        self.clock.advance(1.01)
        context = self.client(below.issueClient("862123", "fleet"))
        earlier = self.connected(context)
        self.put("crl.pem", self.root.revoke([Issued(below.certificate, below.key)]) + below.revoke())
        self.clock.advance(1.01)
        self.refused(self.resuming(context, earlier))

    def test_distrusted(self) -> None:
        """
        Nor if its authority is not trusted any more.
        """
        context = self.client(self.box)
        earlier = self.connected(context)
        self.root = Authority()
        self.put("ca.pem", self.root.certificatePem())
        self.revoke()
        self.clock.advance(1.01)
        self.refused(self.resuming(context, earlier))

    def test_meanwhile(self) -> None:
        """
        Nor by a connection that was accepted before the revocation, and waited with its handshake: neither with a
        session nor with a whole handshake.
        """
        for version in VERSIONS:
            context = self.client(self.box, version)
            waiting = [self.resuming(context, self.connected(context)), MemoryPeer(context, Link(self.factory))]
            self.revoke(self.box)
            self.clock.advance(1.01)
            for peer in waiting:
                self.refused(peer)
            self.revoke()
            self.clock.advance(1.01)

    def test_expired(self) -> None:
        """
        A session outlives neither the box's certificate nor the revocation list: a whole handshake would not let it in
        either. Open links stay.
        """
        for lifetime in (HOUR, 3 * HOUR):
            context = self.client(self.root.issueClient("862123", "fleet", lifetime))
            self.revoke(lifetime=4 * HOUR - lifetime)
            self.credentials.reload()
            earlier = self.connected(context)
            self.patch(credentials, "datetime", _InTwoHours)
            self.refused(self.resuming(context, earlier))
            self.assertFalse(isRevoked(self.links.made[-1].transport))  # type: ignore[arg-type]
            self.patch(credentials, "datetime", datetime)


class _InTwoHours(datetime):
    """
    The wall clock, then.
    """

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> _InTwoHours:
        """
        See L{datetime.now}.
        """
        return super().now(tz) + 2 * HOUR


class LiveTests(SessionsTestCase):
    """
    Links that are open.
    """

    def revokedLinks(self) -> Sequence[bool]:
        """
        Of all links, what is said of them now.
        """
        return [isRevoked(made.transport) for made in self.links.made]  # type: ignore[arg-type]

    def test_revoked(self) -> None:
        """
        Whoever asked is told within a second, and told apart which links are to end, resumed ones among them.
        """
        seen: list[Sequence[bool]] = []
        self.credentials.onReload(lambda: seen.append(self.revokedLinks()))
        context = self.client(self.box)
        self.connected(context, self.connected(context))
        self.connected(self.client(self.root.issueClient("862124", "fleet")))
        self.connected(self.client())
        self.assertEqual(self.revokedLinks(), [False] * 4)
        self.revoke(self.box)
        self.clock.advance(1.01)
        self.assertEqual(seen, [[True, True, False, False]])

    def test_gone(self) -> None:
        """
        Of a link that is gone nothing is said.
        """
        peer = self.connected(self.client(self.box))
        self.revoke(self.box)
        self.clock.advance(1.01)
        peer.link.lose()
        self.assertEqual(self.revokedLinks(), [False])


class NamesTests(SessionsTestCase):
    """
    Which certificate is shown.
    """

    def setUp(self) -> None:
        super().setUp()
        for name in ("one.example", "*.two.example", "*.tld"):
            self.putNamed(name)
        self.use(replace(self.files, names=f"{self.directory}/names"))

    def putNamed(self, name: str) -> Issued:
        """
        A certificate for a name.
        """
        issued = self.root.issueServer(name)
        self.put(f"names/{name.replace('*', '_')}.pem", issued.certificatePem() + issued.keyPem())
        return issued

    def shown(self, name: str | None) -> str:
        """
        The common name of the certificate that is shown to who asks for a name.
        """
        context = self.client()
        context.check_hostname = False
        peer = self.connected(context, name=name)
        certificate: Any = peer.tls.getpeercert()
        return str(certificate["subject"][0][0][1])

    def test_shown(self) -> None:
        """
        The certificate with the name, in any case of letters, a wildcard for one whole label; else that of C{cert=}.
        """
        cases = {
            "one.example": "one.example",
            "ONE.example": "one.example",
            "a.two.example": "*.two.example",
            "a.b.two.example": "localhost",
            "two.example": "localhost",
            "localhost": "localhost",
            "three.example": "localhost",
            "tld": "localhost",
            "a.tld": "*.tld",
            None: "localhost",
        }
        for name, expected in cases.items():
            self.assertEqual((name, self.shown(name)), (name, expected))

    def test_chain(self) -> None:
        """
        With the chain in its file: the box verifies it whole.
        """
        below = Authority("Below", self.root).issueServer("below.example")
        self.put("names/below.pem", below.certificatePem() + below.keyPem())
        self.clock.advance(1.01)
        self.connected(self.client(), name="below.example")

    def test_reloaded(self) -> None:
        """
        Files that come, change or go are noticed like the others.
        """
        self.putNamed("three.example")
        self.clock.advance(1.01)
        self.assertEqual(self.shown("three.example"), "three.example")
        os.remove(f"{self.directory}/names/one.example.pem")
        self.clock.advance(1.01)
        self.assertEqual(self.shown("one.example"), "localhost")

    def test_sameTerms(self) -> None:
        """
        Whatever name is asked for, client certificates and their revocation count alike, and sessions are resumed.
        """
        for version in VERSIONS:
            context = self.client(self.box, version)
            peer = self.connected(context, name="one.example")
            self.assertEqual(self.links.made[-1].identity, ("862123", "fleet"))
            peer = self.connected(context, peer, name="one.example")
            self.assertTrue(peer.tls.session_reused)
            self.assertEqual(self.links.made[-1].identity, ("862123", "fleet"))
        stranger = MemoryPeer(self.client(Authority().issueClient("1", "2")), Link(self.factory), "one.example")
        stranger.handshake()
        self.assertRaises(ssl.SSLError, stranger.read)
        self.revoke(self.box)
        self.clock.advance(1.01)
        revoked = MemoryPeer(context, Link(self.factory), "one.example", peer.tls.session)
        before = len(self.links.made)
        with contextlib.suppress(ssl.SSLError):
            revoked.handshake()
            revoked.read()
        self.assertTrue(revoked.link.transport.ended)
        self.assertEqual(len(self.links.made), before)

    def test_oldVersion(self) -> None:
        """
        Nor is a lower version to be had by a name.
        """
        context = self.client()
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
        peer = MemoryPeer(context, Link(self.factory), "one.example")
        self.assertRaises(ssl.SSLError, peer.handshake)
