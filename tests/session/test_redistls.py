"""
Tests for TLS to Redis: L{binaryserver.session.redissettings} and L{binaryserver.session.redislink}.
"""

from __future__ import annotations

import os

from binaryserver.errors import ConfigError, StoreUnavailable
from binaryserver.model import MarkUpdate, StreamMark
from tests.certificates import Authority, Issued
from tests.session.contract_base import BOX
from tests.session.redisrig import RedisServer, RedisTestCase
from tests.session.test_redispeers import Inbox


class RedisTlsTests(RedisTestCase):
    """
    Servers with certificates.
    """

    def setUp(self) -> None:
        """
        An authority.
        """
        self.directory = self.mktemp()
        os.mkdir(self.directory)
        self.directory = os.path.abspath(self.directory)
        self.authority = Authority()
        self.ca = self.write("ca.pem", self.authority)

    def write(self, name: str, authority: Authority) -> str:
        """
        The path of an authority's certificate.
        """
        path = os.path.join(self.directory, name)
        with open(path, "wb") as file:
            file.write(authority.certificatePem())
        return path

    def tlsServer(self, issued: Issued, clients: str = "no") -> RedisServer:
        """
        One with that certificate.
        """
        certificate, key = issued.write(self.directory, "server")
        options = ("--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", self.ca)
        return self.startServer(*options, "--tls-auth-clients", clients, tls=True)

    async def startError(self, spec: str, *kinds: type[Exception]) -> str:
        """
        What a start fails with.
        """
        store = self.storeFor(spec, 1.5)
        text = str(await self.errorOf(store.start(), *(kinds or (ConfigError,))))
        await store.stop()
        self.assertNotIn("\n", text)
        self.assertTrue(text.startswith("--sessions: rediss://"), text)
        return text

    async def test_good(self) -> None:
        """
        By name and by address; peers hear over it too.
        """
        server = self.tlsServer(self.authority.issueServer("localhost"))
        for host in ("localhost", "127.0.0.1"):
            store = await self.startedStore(f"rediss://{host}:{server.port}/0?ca={self.ca}")
            await store.commitMarks([MarkUpdate(BOX, 1, 2, 3)])
            self.assertEqual(await store.marks(BOX), (StreamMark(1, 2, 3),))
        peers, inbox = store.peers("a@1"), Inbox()
        self.addCleanup(peers.stop)
        await peers.start(inbox)
        peers.wake("a@1", [BOX])
        for _ in range(100):
            if inbox.woken:
                break
            await self.sleep(0.01)
        self.assertEqual(inbox.woken, [BOX])

    async def test_untrusted(self) -> None:
        """
        Signed by another authority than the given one, or than the system's; and one that has expired.
        """
        server = self.tlsServer(self.authority.issueServer("localhost"))
        other = self.write("other.pem", Authority("Other Root"))
        for query in (f"?ca={other}", ""):
            text = await self.startError(f"rediss://localhost:{server.port}/0{query}")
            self.assertIn("its certificate is not to be trusted", text)

    async def test_wrongHost(self) -> None:
        """
        Signed by the right authority for another host.
        """
        server = self.tlsServer(self.authority.issueServer("redis.example"))
        text = await self.startError(f"rediss://localhost:{server.port}/0?ca={self.ca}")
        self.assertIn("its certificate is not for localhost", text)

    async def test_clientCertificate(self) -> None:
        """
        Where the server wants one: without, with.
        """
        server = self.tlsServer(self.authority.issueServer("localhost"), clients="yes")
        spec = f"rediss://localhost:{server.port}/0?ca={self.ca}"
        await self.startError(spec, ConfigError, StoreUnavailable)
        certificate, key = self.authority.issueClient("gateway", None).write(self.directory, "client")
        store = await self.startedStore(f"{spec}&cert={certificate}&key={key}")
        self.assertEqual(await store.marks(BOX), ())

    async def test_plainAndTls(self) -> None:
        """
        TLS to a server without, and none to a server with.
        """
        plain = self.startServer()
        text = await self.startError(f"rediss://127.0.0.1:{plain.port}/0", ConfigError, StoreUnavailable)
        self.assertIn("TLS", text)
        server = self.tlsServer(self.authority.issueServer("localhost"))
        store = self.storeFor(f"redis://127.0.0.1:{server.port}/0", 1.5)
        error = await self.errorOf(store.start(), ConfigError, StoreUnavailable)
        self.assertTrue(str(error).startswith("--sessions: redis://127.0.0.1"), error)
        await store.stop()

    async def test_files(self) -> None:
        """
        Files that are not there, or not what they should be, are named at once.
        """
        empty = os.path.join(self.directory, "empty.pem")
        with open(empty, "wb"):
            pass
        _, key = self.authority.issueClient("gateway", None).write(self.directory, "client")
        _, otherKey = self.authority.issueClient("other", None).write(self.directory, "other")
        certificate = os.path.join(self.directory, "client.pem")
        for query, words in (
            (f"ca={empty}.not", f"cannot read {empty}.not: No such file"),
            (f"ca={empty}", f"{empty} has no certificate in it"),
            (f"ca={key}", f"{key} has no certificate in it"),
            (f"cert={certificate}", "cert and key need each other"),
            (f"cert={empty}&key={key}", f"cannot use {empty} with {key}"),
            (f"cert={certificate}&key={otherKey}", f"cannot use {certificate} with {otherKey}"),
        ):
            error = self.assertRaises(ConfigError, self.storeFor, f"rediss://localhost:6379/0?{query}")
            self.assertIn(words, str(error))
