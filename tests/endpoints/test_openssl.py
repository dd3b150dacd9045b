"""
The TLS endpoint on real sockets, with a client that nobody here wrote: C{openssl s_client}.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
from datetime import timedelta
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.error import ProcessDone
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread
from twisted.protocols.portforward import ProxyFactory, ProxyServer
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from binaryserver.endpoints import door
from binaryserver.endpoints.door import Door, DoorCounts, DoorLimits
from binaryserver.endpoints.identity import peerIdentity
from binaryserver.endpoints.listening import serverFromString
from tests.certificates import Authority, Issued, replaceFile
from tests.endpoints.test_proxyheader import V1_IPV4, V2_TLVS

OPENSSL = shutil.which("openssl")
MQTT_CONNECT = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"
WAIT = 15.0
"""s, for each process and each socket."""


class Greeting(Protocol):
    """
    Says who the peer is, then echoes.
    """

    def connectionMade(self) -> None:
        transport: Any = self.transport
        identity = peerIdentity(transport)
        name = "nobody" if identity is None else "/".join(identity)
        transport.write(f"hello {name} at {transport.getPeer().host}\n".encode())

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        factory: Any = self.factory
        factory.lost += 1


class GreetingFactory(Factory):
    """
    Counts the links that come and go.
    """

    noisy = False
    made = 0
    lost = 0

    def buildProtocol(self, addr: IAddress | None) -> Greeting:
        self.made += 1
        greeting = Greeting()
        greeting.factory = self
        return greeting


class Client(ProcessProtocol):
    """
    One C{openssl s_client}.
    """

    def __init__(self) -> None:
        self.output = b""
        self.ended: Deferred[bool] = Deferred()
        self._awaited: list[tuple[bytes, Deferred[None]]] = []

    def outReceived(self, data: bytes) -> None:
        self.output += data
        for text, deferred in list(self._awaited):
            if text in self.output:
                self._awaited.remove((text, deferred))
                deferred.callback(None)

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        awaited, self._awaited = self._awaited, []
        for text, deferred in awaited:
            deferred.errback(AssertionError(f"{text!r} not in {self.output!r}"))
        self.ended.callback(reason.check(ProcessDone) is not None)

    def type(self, line: bytes) -> None:
        """
        A line on its standard input.
        """
        assert self.transport is not None
        self.transport.write(line)

    def kill(self) -> None:
        """
        End it without a word to its peer.
        """
        assert self.transport is not None
        self.transport.signalProcess("KILL")

    def leave(self) -> None:
        """
        Let it end as it should.
        """
        assert self.transport is not None
        self.transport.closeStdin()

    def awaitText(self, text: bytes) -> Deferred[None]:
        """
        Fires once the text stands in the output; fails when the process ends without it, or takes too long.
        """
        deferred: Deferred[None] = Deferred()
        if text in self.output:
            deferred.callback(None)
        else:
            self._awaited.append((text, deferred))
        return deferred.addTimeout(WAIT, reactor)

    def awaitEnd(self) -> Deferred[bool]:
        """
        Fires with whether it ended with status 0.
        """
        return self.ended.addTimeout(WAIT, reactor)


class OpensslTests(TestCase):
    """
    A listener with client certificates and revocation lists.
    """

    if OPENSSL is None:
        if os.environ.get("BINARYSERVER_REQUIRE_SERVICES") == "1":
            raise RuntimeError("the openssl command is not installed")
        skip = "the openssl command is not installed"

    def setUp(self) -> None:
        self.directory = self.mktemp()
        os.mkdir(self.directory)
        self.root = Authority()
        self.box = self.root.issueClient("862123", "fleet")
        self.root.issueServer().write(self.directory, "server")
        self.put("ca.pem", self.root.certificatePem())
        self.put("crl.pem", self.root.revoke())
        self.links = GreetingFactory()

    def put(self, name: str, content: bytes) -> str:
        """
        Write a file, give its path.
        """
        path = f"{self.directory}/{name}"
        replaceFile(path, content)
        return path

    @inlineCallbacks
    def listen(self, extra: str = "", **limits: Any) -> Any:
        """
        Start the listener.
        """
        directory = self.directory
        description = (
            f"tls:0:interface=127.0.0.1:cert={directory}/server.pem:key={directory}/server.key"
            f":clientca={directory}/ca.pem:crl={directory}/crl.pem{extra}"
        )
        self.endpoint = serverFromString(reactor, description, **limits)
        listening = yield self.endpoint.listen(self.links)
        self.addCleanup(listening.stopListening)
        self.port = listening.getHost().port

    def start(self, *arguments: str, issued: Issued | None = None) -> Client:
        """
        Start a client. It sees its end of the link close when its standard input does.
        """
        client = Client()
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{self.port}", "-CAfile", f"{self.directory}/ca.pem"]
        command += ["-verify_return_error", "-no_ign_eof", *arguments]
        if issued is not None:
            certificate, key = issued.write(self.directory, f"{issued.certificate.serial_number:x}")
            command += ["-cert", certificate, "-key", key]
        process: Any = reactor
        process.spawnProcess(client, OPENSSL, command, env=dict(os.environ))

        def end() -> Any:
            if not client.ended.called:
                client.kill()
                return client.awaitEnd()
            return None

        self.addCleanup(end)
        return client

    @inlineCallbacks
    def greeted(self, expected: bytes, *arguments: str, issued: Issued | None = None) -> Any:
        """
        A client gets in, is known as expected, and leaves.
        """
        client = self.start(*arguments, issued=issued)
        yield client.awaitText(b"hello " + expected)
        client.type(b"echo\n")
        yield client.awaitText(b"\necho\n")
        client.leave()
        ended = yield client.awaitEnd()
        self.assertTrue(ended, client.output)
        return client.output

    @inlineCallbacks
    def refused(self, *arguments: str, issued: Issued | None = None) -> Any:
        """
        A client does not get in.
        """
        before = self.links.made
        client = self.start(*arguments, issued=issued)
        yield client.awaitEnd()
        self.assertNotIn(b"hello", client.output)
        self.assertEqual(self.links.made, before)
        return client.output

    def exchange(self, *pieces: bytes) -> Deferred[bytes]:
        """
        Send bytes on a bare socket; fires with all that comes until the other side closes.
        """

        def talk() -> bytes:
            got = b""
            with socket.create_connection(("127.0.0.1", self.port), WAIT) as bare:
                try:
                    for piece in pieces:
                        bare.sendall(piece)
                    while piece := bare.recv(4096):
                        got += piece
                except ConnectionError:
                    pass
            return got

        return deferToThread(talk)

    @inlineCallbacks
    def test_versions(self) -> Any:
        """
        TLS 1.2 and 1.3 get in, with forward secrecy and an authenticated cipher; nothing older does.
        """
        yield self.listen()
        for version, cipher in (("-tls1_2", b"Cipher is ECDHE-ECDSA-AES"), ("-tls1_3", b"Cipher is TLS_AES_256_GCM_")):
            output = yield self.greeted(b"nobody at 127.0.0.1", version)
            self.assertIn(cipher, output)
            self.assertIn(b"Verify return code: 0 (ok)", output)
            self.assertIn(b"Compression: NONE", output)
            # The file's chain and no more: each byte is paid for on a mobile link.
            self.assertNotIn(b"\n 1 s:", output)

    @inlineCallbacks
    def test_oldVersions(self) -> Any:
        """
        TLS 1.1 and 1.0 are refused by us (the client is told to allow them).
        """
        yield self.listen()
        for version in ("-tls1_1", "-tls1"):
            output = yield self.refused(version, "-cipher", "ALL:@SECLEVEL=0")
            self.assertIn(b"alert protocol version", output)

    @inlineCallbacks
    def test_oldCiphers(self) -> Any:
        """
        No key exchange without forward secrecy, no CBC.
        """
        yield self.listen()
        for ciphers in ("AES128-GCM-SHA256:AES256-SHA", "ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES256-SHA"):
            output = yield self.refused("-tls1_2", "-cipher", ciphers)
            self.assertIn(b"handshake failure", output)

    @inlineCallbacks
    def test_renegotiation(self) -> Any:
        """
        A client that asks to renegotiate is told no.
        """
        yield self.listen()
        client = self.start("-tls1_2")
        yield client.awaitText(b"hello")
        client.type(b"R\n")
        yield client.awaitText(b"no renegotiation")

    @inlineCallbacks
    def test_resumption(self) -> Any:
        """
        A session is resumed with either version, and the box is who its certificate says, which it does not show again.
        Once that is revoked, the session from before does not let it in.
        """
        yield self.listen()
        for version in ("-tls1_2", "-tls1_3"):
            session = f"{self.directory}/session{version}"
            output = yield self.greeted(b"862123/fleet", version, "-sess_out", session, issued=self.box)
            self.assertIn(b"\nNew, ", output)
            output = yield self.greeted(b"862123/fleet", version, "-sess_in", session, issued=self.box)
            self.assertIn(b"\nReused, ", output)
        yield self.revoke(self.box)
        for version in ("-tls1_2", "-tls1_3"):
            output = yield self.refused(version, "-sess_in", f"{self.directory}/session{version}", issued=self.box)
            self.assertIn(b"alert certificate revoked", output)
            # Nor without the certificate, by the session alone: it is not resumed.
            output = yield self.greeted(b"nobody", version, "-sess_in", f"{self.directory}/session{version}")
            self.assertNotIn(b"\nReused, ", output)

    def revoke(self, *revoked: Issued) -> Deferred[None]:
        """
        Fires once the listener says that it knows.
        """
        told: Deferred[None] = Deferred()
        self.endpoint.onReload(lambda: None if told.called else told.callback(None))
        self.put("crl.pem", self.root.revoke(revoked))
        return told.addTimeout(WAIT, reactor)

    @inlineCallbacks
    def test_names(self) -> Any:
        """
        The certificate of the name that is asked for, wildcards and others, to either version.
        """
        os.mkdir(f"{self.directory}/names")
        for name in ("one.example", "*.two.example"):
            issued = self.root.issueServer(name)
            self.put(f"names/{name[2:]}.pem", issued.certificatePem() + issued.keyPem())
        yield self.listen(f":sni={self.directory}/names")
        for version in ("-tls1_2", "-tls1_3"):
            for asked, shown in (
                ("one.example", b"one.example"),
                ("a.two.example", b"*.two.example"),
                ("x", b"localhost"),
            ):
                output = yield self.greeted(b"862123/fleet", version, "-servername", asked, issued=self.box)
                self.assertIn(b"subject=CN = " + shown + b"\n", output)

    @inlineCallbacks
    def test_door(self) -> Any:
        """
        One connection too many is closed without a byte, and its place is free once another one has gone, whether by a
        close or by a reset.
        """
        counts = DoorCounts()
        yield self.listen(door=Door(Clock(), DoorLimits(links=1), counts))
        client = self.start()
        yield client.awaitText(b"hello")
        got = yield self.exchange(MQTT_CONNECT)
        self.assertEqual((got, counts.refusedLinks), (b"", 1))
        client.kill()
        yield client.awaitEnd()
        for _ in range(200):
            if not counts.links:
                break
            yield deferLater(reactor, 0.05, lambda: None)
        yield self.greeted(b"nobody")

    @inlineCallbacks
    def test_resets(self) -> Any:
        """
        However many connections are reset, and wherever in their handshake, each gives its place back.
        """
        counts = DoorCounts()
        yield self.listen(":proxy=yes", door=Door(Clock(), DoorLimits(), counts))
        hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"

        def flood() -> None:
            for number in range(200):
                with socket.create_connection(("127.0.0.1", self.port), WAIT) as bare:
                    bare.sendall((b"", V2_TLVS[:20], V2_TLVS, V2_TLVS + hello, MQTT_CONNECT)[number % 5])
                    bare.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        yield deferToThread(flood)
        for _ in range(200):
            if not counts.links:
                break
            yield deferLater(reactor, 0.05, lambda: None)
        self.assertEqual((counts.links, counts.handshakes, self.links.made), (0, 0, 0))

    @inlineCallbacks
    def test_slowHandshakes(self) -> Any:
        """
        While some are silent others wait, and get in once those are ended.
        """
        # Long enough for a good one on a machine that is busy.
        self.patch(door, "PATIENCE", 1.0)
        counts = DoorCounts()
        clock: Any = reactor
        yield self.listen(door=Door(clock, DoorLimits(handshakes=3), counts))
        silent = [socket.create_connection(("127.0.0.1", self.port), WAIT) for _ in range(20)]
        for one in silent:
            self.addCleanup(one.close)
        yield self.greeted(b"862123/fleet", issued=self.box)
        self.assertGreater(counts.slowHandshakes, 0)
        self.assertGreater(counts.pauses, 0)

    @inlineCallbacks
    def test_clientCertificates(self) -> Any:
        """
        A good certificate tells who the box is, with either version; a bad one keeps it out.
        """
        yield self.listen()
        for version in ("-tls1_2", "-tls1_3"):
            yield self.greeted(b"862123/fleet at 127.0.0.1", version, issued=self.box)
        output = yield self.refused(issued=Authority("Stranger").issueClient("862123", "fleet"))
        self.assertRegex(output, rb"alert unknown ca")

    @inlineCallbacks
    def test_revoked(self) -> Any:
        """
        A revoked certificate keeps its box out from when the list is read again, without a restart; others get in.
        """
        yield self.listen()
        yield self.greeted(b"862123/fleet", issued=self.box)
        yield self.revoke(self.box)
        output = yield self.refused(issued=self.box)
        self.assertIn(b"alert certificate revoked", output)
        yield self.greeted(b"862124/fleet", issued=self.root.issueClient("862124", "fleet"))

    @inlineCallbacks
    def test_expiredList(self) -> Any:
        """
        With a revocation list that has expired no certificate is trusted; boxes without one get in.
        """
        self.put("crl.pem", self.root.revoke(lifetime=timedelta(hours=-1)))
        yield self.listen()
        yield self.refused(issued=self.box)
        yield self.greeted(b"nobody")

    @inlineCallbacks
    def test_intermediate(self) -> Any:
        """
        Certificates below an intermediate authority work both ways, with the chain from whoever shows it.
        """
        below = Authority("Below", self.root)
        below.issueServer().write(self.directory, "server")
        self.put("crl.pem", self.root.revoke() + below.revoke())
        yield self.listen()
        box = below.issueClient("862125", "fleet")
        chain = self.put("chain.pem", below.certificatePem())
        output = yield self.greeted(b"862125/fleet", "-cert_chain", chain, issued=box)
        self.assertIn(b"Verify return code: 0 (ok)", output)

    @inlineCallbacks
    def test_reload(self) -> Any:
        """
        A new certificate is shown to new links within seconds, while those that are open live on.
        """
        yield self.listen()
        old = self.start()
        yield old.awaitText(b"hello")
        renewed = Authority("New Root")
        renewed.issueServer("renewed.example").write(self.directory, "server")
        yield deferLater(reactor, 2.1, lambda: None)
        new = self.start("-CAfile", self.put("new-ca.pem", renewed.certificatePem()))
        yield new.awaitText(b"hello")
        self.assertIn(b"renewed.example", new.output)
        old.type(b"still here\n")
        yield old.awaitText(b"\nstill here\n")

    @inlineCallbacks
    def test_noTls(self) -> Any:
        """
        Plaintext and garbage are answered with an alert and a close, and reach nobody.
        """
        yield self.listen()
        for data in (MQTT_CONNECT, b"\x00" * 100, b"\x16\x03\x01\xff\xff" + b"\xff" * 100, b"\x80" * 2000):
            got = yield self.exchange(data)
            self.assertIn(got[:1], (b"", b"\x15"))
        self.assertEqual(self.links.made, 0)

    @inlineCallbacks
    def test_silent(self) -> Any:
        """
        Whoever does not speak, or stops within its handshake, is closed at the limit.
        """
        yield self.listen(handshakeTimeout=0.3)
        for pieces in ((), (b"\x16\x03\x01\x02\x00\x01\x00",)):
            got = yield self.exchange(*pieces)
            self.assertEqual(got, b"")

    @inlineCallbacks
    def test_proxied(self) -> Any:
        """
        The PROXY protocol's header comes before the handshake, and gives the client's address.
        """
        yield self.listen(":proxy=yes")
        for header in (V1_IPV4, V2_TLVS):
            port = yield self.relay(header)
            yield self.greeted(b"862123/fleet at 203.0.113.7", "-connect", f"127.0.0.1:{port}", issued=self.box)
        yield self.refused()
        got = yield self.exchange(MQTT_CONNECT)
        self.assertEqual(got, b"")

    @inlineCallbacks
    def test_proxySilent(self) -> Any:
        """
        A header that never comes, or is followed by nothing, is waited for within the handshake's limit.
        """
        yield self.listen(":proxy=yes", handshakeTimeout=0.3)
        for pieces in ((), (V2_TLVS[:20],), (V2_TLVS,)):
            got = yield self.exchange(*pieces)
            self.assertEqual(got, b"")

    @inlineCallbacks
    def test_reset(self) -> Any:
        """
        A peer that resets its link ends it for the protocol as well.
        """
        yield self.listen()
        client = self.start()
        yield client.awaitText(b"hello")
        client.kill()
        yield client.awaitEnd()
        for _ in range(100):
            if self.links.lost:
                break
            yield deferLater(reactor, 0.05, lambda: None)
        self.assertEqual(self.links.lost, 1)

    @inlineCallbacks
    def relay(self, header: bytes) -> Any:
        """
        A proxy that puts a header before one connection, a byte a write.

        @return: fires with its port
        """
        target = self.port

        class HeaderProxy(ProxyServer):
            def setPeer(self, peer: Any) -> None:
                peer.transport.setTcpNoDelay(True)
                for byte in header:
                    peer.transport.write(bytes([byte]))
                super().setPeer(peer)

        factory = ProxyFactory("127.0.0.1", target)
        factory.noisy = False
        factory.protocol = HeaderProxy
        listener: Any = reactor
        listening = yield listener.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(listening.stopListening)
        return listening.getHost().port
