"""
Tests for L{binaryserver.endpoints.listening}.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.internet import endpoints
from twisted.internet.interfaces import IStreamServerEndpoint, IStreamServerEndpointStringParser
from twisted.internet.testing import MemoryReactorClock
from twisted.plugin import getPlugins
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from binaryserver.endpoints.door import Door, DoorCounts, DoorFactory, DoorLimits
from binaryserver.endpoints.errors import EndpointError
from binaryserver.endpoints.listening import PLUGIN_PREFIX, ServerEndpoint, TlsServerParser, serverFromString
from binaryserver.endpoints.proxylink import ProxyFactory
from binaryserver.endpoints.tlslink import TlsFactory
from tests.certificates import Authority, replaceFile
from tests.endpoints.links import Link, RecordingFactory
from tests.endpoints.test_proxyheader import SOURCE4, V2_IPV4


class ListeningTests(SynchronousTestCase):
    """
    What endpoint strings mean.
    """

    def setUp(self) -> None:
        self.reactor: Any = MemoryReactorClock()
        self.directory = self.mktemp()
        os.mkdir(self.directory)
        root = Authority()
        self.certificate, self.key = root.issueServer().write(self.directory, "server")
        replaceFile(f"{self.directory}/ca.pem", root.certificatePem())
        replaceFile(f"{self.directory}/crl.pem", root.revoke())
        self.files = f"cert={self.certificate}:key={self.key}"

    def test_plugin(self) -> None:
        """
        Twisted finds the parser, under a name that no other has.
        """
        found = [each for each in getPlugins(IStreamServerEndpointStringParser) if each.prefix == PLUGIN_PREFIX]
        self.assertEqual([type(each) for each in found], [TlsServerParser])
        self.assertTrue(verifyObject(IStreamServerEndpointStringParser, found[0]))

    def test_twisted(self) -> None:
        """
        Any Twisted program can use the parser by that name.
        """
        endpoint = endpoints.serverFromString(self.reactor, f"{PLUGIN_PREFIX}:8883:{self.files}:proxy=yes")
        self.assertTrue(verifyObject(IStreamServerEndpoint, endpoint))
        endpoint.listen(RecordingFactory())
        self.assertIsInstance(self.reactor.tcpServers[0][1], ProxyFactory)

    def test_clientPrefix(self) -> None:
        """
        Twisted's own C{tls:} for clients still works.
        """
        endpoints.clientFromString(self.reactor, "tls:localhost:8883")

    def test_tls(self) -> None:
        """
        C{tls:} listens on its port and interface, and puts TLS with the caller's limits on what it accepts.
        """
        endpoint = serverFromString(self.reactor, f"tls:8883:interface=127.0.0.1:{self.files}", 3.0, 7.0)
        endpoint.listen(RecordingFactory())
        port, factory, backlog, interface = self.reactor.tcpServers[0]
        self.assertEqual((port, backlog, interface), (8883, 1024, "127.0.0.1"))
        self.assertIsInstance(factory, TlsFactory)
        self.assertEqual((factory.handshakeTimeout, factory.closeTimeout), (3.0, 7.0))

    def test_defaults(self) -> None:
        """
        On every address, 10 s for a handshake, 30 s for a close.
        """
        endpoint = serverFromString(self.reactor, f"TLS:8883:{self.files}:backlog=500")
        endpoint.listen(RecordingFactory())
        _port, factory, backlog, interface = self.reactor.tcpServers[0]
        self.assertEqual((backlog, interface), (500, ""))
        self.assertEqual((factory.handshakeTimeout, factory.closeTimeout), (10.0, 30.0))

    def test_ipv6(self) -> None:
        """
        Colons in an address are escaped as in every endpoint string.
        """
        serverFromString(self.reactor, rf"tls:8883:interface=\:\:1:{self.files}").listen(RecordingFactory())
        self.assertEqual(self.reactor.tcpServers[0][3], "::1")

    def test_clientCertificates(self) -> None:
        """
        Authorities and revocation lists are taken from the string.
        """
        description = f"tls:8883:{self.files}:clientca={self.directory}/ca.pem:crl={self.directory}/crl.pem"
        endpoint = serverFromString(self.reactor, description)
        assert endpoint.credentials is not None
        self.assertEqual(len(endpoint.credentials.files.paths()), 4)
        endpoint.credentials.reload()

    def test_tcp(self) -> None:
        """
        Twisted's own strings are Twisted's: nothing comes between.
        """
        factory = RecordingFactory()
        endpoint = serverFromString(self.reactor, "tcp:1883:interface=127.0.0.1")
        endpoint.listen(factory)
        self.assertEqual(self.reactor.tcpServers[0][:2], (1883, factory))

    def test_haproxy(self) -> None:
        """
        C{haproxy:tcp:} is ours: a header in pieces, which Twisted's own would refuse, is read.
        """
        factory = RecordingFactory()
        serverFromString(self.reactor, "haproxy:tcp:1883", handshakeTimeout=4.0).listen(factory)
        proxied = self.reactor.tcpServers[0][1]
        self.assertEqual((type(proxied), proxied.headerTimeout), (ProxyFactory, 4.0))
        link = Link(proxied)
        link.receive(V2_IPV4[:3])
        link.receive(V2_IPV4[3:])
        self.assertEqual(factory.made[0].address, SOURCE4)

    def test_twistedHaproxy(self) -> None:
        """
        Twisted's C{haproxy:tcp:} is left as it is for Twisted's own C{serverFromString}.
        """
        endpoints.serverFromString(self.reactor, "haproxy:tcp:1883").listen(RecordingFactory())
        self.assertEqual(type(self.reactor.tcpServers[0][1]).__module__, "twisted.protocols.haproxy._wrapper")

    def test_wrap(self) -> None:
        """
        A socket that somebody else bound gets the same factory.
        """
        endpoint = serverFromString(self.reactor, f"tls:0:{self.files}:proxy=yes")
        outer: Any = endpoint.wrap(RecordingFactory())
        self.assertEqual((type(outer), type(outer.wrappedFactory)), (ProxyFactory, TlsFactory))

    def test_door(self) -> None:
        """
        The door is before all else, of every kind of listener, and knows whose address is announced.
        """
        door = Door(self.reactor, DoorLimits(), DoorCounts())
        for description in (
            "tcp:1883",
            "haproxy:tcp:1883",
            f"tls:8883:{self.files}",
            f"tls:8883:{self.files}:proxy=yes",
        ):
            endpoint = serverFromString(self.reactor, description, door=door)
            outer: Any = endpoint.wrap(RecordingFactory())
            self.assertIsInstance(outer, DoorFactory)
            self.assertEqual(outer._isProxied, "proxy" in description)

    def test_names(self) -> None:
        """
        A folder of certificates for other names.
        """
        os.mkdir(f"{self.directory}/names")
        error = self.assertRaises(
            EndpointError, serverFromString, self.reactor, f"tls:8883:{self.files}:sni={self.directory}/names"
        )
        self.assertIn(f"tls: sni={self.directory}/names: holds no file *.pem", str(error))

    def test_onReload(self) -> None:
        """
        Whoever asks an endpoint is told of its files; one without files has nothing to tell.
        """
        told: list[int] = []
        for description in ("tcp:1883", f"tls:8883:{self.files}"):
            endpoint = serverFromString(self.reactor, description)
            endpoint.onReload(lambda: told.append(1))
        assert endpoint.credentials is not None
        endpoint.credentials.reload()
        self.assertEqual(told, [1])

    def test_bad(self) -> None:
        """
        What cannot be understood is an L{EndpointError} of one line that says what is wrong.
        """
        cases = [
            ("", "Unknown endpoint type"),
            ("8883", "Unknown endpoint type"),
            ("udp:1883", "Unknown endpoint type: 'udp'"),
            ("tcp:mqtt", "'tcp:mqtt' is no endpoint string"),
            ("tcp:1883:colour=red", "unexpected keyword argument 'colour'"),
            ("tcp", "is no endpoint string"),
            ("tls", "the form is tls:PORT"),
            ("tls:", "the form is tls:PORT"),
            ("tls:8883", "cert=PATH is missing"),
            (f"tls:{self.files}", "the form is tls:PORT"),
            (f"tls:8883:8884:{self.files}", "the form is tls:PORT"),
            (f"tls:mqtts:{self.files}", "the port is a number up to 65535, not 'mqtts'"),
            (f"tls:65536:{self.files}", "the port is a number up to 65535, not '65536'"),
            (f"tls:8883:{self.files}:backlog=-1", "backlog is a number up to 65535"),
            (f"tls:8883:key={self.key}", "cert=PATH is missing"),
            (f"tls:8883:cert={self.certificate}", "key=PATH is missing"),
            (f"tls:8883:{self.files}:proxy=true", "proxy= is yes or no"),
            (f"tls:8883:{self.files}:cacert=x", "cacert= is unknown; known: backlog, cert"),
            (f"tls:8883:{self.files}:clientca=nowhere.pem", "clientca=nowhere.pem: No such file or directory"),
            (f"tls:8883:cert={self.certificate}:key={self.certificate}", "holds no PEM private key"),
            ("ssl:8883:privateKey=nowhere.pem", "No such file"),
            (f"haproxy:tls:8883:{self.files}", "for TLS write tls:...:proxy=yes"),
            ("haproxy:haproxy:tcp:1883", "haproxy: goes before tcp: only"),
            ("haproxy:", "Unknown endpoint type"),
        ]
        for description, expected in cases:
            with self.subTest(description):
                error = self.assertRaises(EndpointError, serverFromString, self.reactor, description)
                self.assertIn(expected, str(error))
                self.assertNotIn("\n", str(error))

    def test_type(self) -> None:
        """
        Every string gives the same type.
        """
        for description in ("tcp:1883", "unix:sock", "haproxy:tcp:1883", f"tls:8883:{self.files}"):
            endpoint = serverFromString(self.reactor, description)
            self.assertIsInstance(endpoint, ServerEndpoint)
            self.assertTrue(verifyObject(IStreamServerEndpoint, endpoint))
