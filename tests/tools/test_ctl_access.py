"""
Tests for L{binaryserver.tools.ctl_http}: what C{binaryserver-ctl} shows a gateway and asks of its certificate, over
real TLS, as a process of its own.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from twisted.internet import reactor as globalReactor
from twisted.internet.protocol import Factory, Protocol

from binaryserver.bus.memorybus import MemoryBus
from binaryserver.bus.topics import Topics
from binaryserver.endpoints.listening import serverFromString
from binaryserver.ops.access import accessTo
from binaryserver.ops.http import makeSite
from binaryserver.plugins import BackEndContext
from binaryserver.session.memorystore import MemorySessionStore
from tests.certificates import DAY, Authority, replaceFile
from tests.ops.test_tokens import FIRST, SECOND
from tests.tools.test_ctl import CtlCase, Program

TOPICS = Topics.named()
TAIL = ("tail", "--no-follow")
reactor: Any = globalReactor


class AccessCase(CtlCase):
    """
    A gateway's HTTP side with TLS and rules.
    """

    async def setUp(self) -> None:  # type: ignore[override]
        """
        Certificates, and a file of tokens.
        """
        self.folder = str(Path(self.mktemp()).absolute())
        os.mkdir(self.folder)
        self.authority, self.clients = Authority(), Authority("Operators")
        self.server = self.authority.issueServer().write(self.folder, "server")
        self.operator = self.clients.issueClient("operator", "acme").write(self.folder, "operator")
        self.ca = self.put("ca.pem", self.authority.certificatePem())
        self.clientCa = self.put("clientca.pem", self.clients.certificatePem())
        self.tokens = self.put("tokens", b"# ours\n" + FIRST + b"\n")
        self.bus = MemoryBus("memory:", BackEndContext(reactor, "--bus", topics=TOPICS.all))
        await self.bus.start()

    def put(self, name: str, content: bytes) -> str:
        """
        A file.
        """
        path = f"{self.folder}/{name}"
        replaceFile(path, content)
        return path

    async def listen(self, description: str, tokenFile: str = "") -> int:
        """
        Serve, and give the port.
        """
        store = MemorySessionStore("memory:", BackEndContext(reactor, "--sessions"))
        endpoint = serverFromString(reactor, description)
        access, _ = accessTo(endpoint, description, tokenFile, False, reactor)
        port: Any = await endpoint.listen(makeSite(self.bus, store, TOPICS, reactor, access=access))
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    async def listenTls(self, *parts: str, server: tuple[str, str] | None = None, tokenFile: str = "") -> str:
        """
        The same with TLS; gives the URL.
        """
        certificate, key = server or self.server
        description = ":".join(("tls:0:interface=127.0.0.1", f"cert={certificate}", f"key={key}", *parts))
        return f"https://localhost:{await self.listen(description, tokenFile)}"

    async def works(self, *arguments: str, **environment: str) -> None:
        """
        It is let in.
        """
        program = Program(*TAIL, *arguments, environment=environment)
        self.assertEqual((await program.ended, program.errors), (0, b""), arguments)


class TokenTests(AccessCase):
    """
    Bearer tokens.
    """

    async def test_token(self) -> None:
        """
        The file is named by option or in the environment; its first token counts.
        """
        url = await self.listenTls(tokenFile=self.tokens)
        own = self.put("own", b"\n# mine\n" + FIRST + b"\n" + SECOND)
        await self.works("--http", url, "--ca", self.ca, "--token-file", own)
        await self.works("--http", url, "--ca", self.ca, BINARYSERVER_CTL_TOKEN_FILE=own)

    async def test_loopback(self) -> None:
        """
        On loopback a token goes by plain HTTP, too.
        """
        port = await self.listen("tcp:0:interface=127.0.0.1", self.tokens)
        await self.works("--http", f"http://127.0.0.1:{port}", "--token-file", self.tokens)
        await self.works("--http", f"http://localhost:{port}", "--token-file", self.tokens)

    async def test_refused(self) -> None:
        """
        No token, and a wrong one, are told in the gateway's words, which name the option; no token is quoted.
        """
        url = await self.listenTls(tokenFile=self.tokens)
        text = await self.failing(*TAIL, "--http", url, "--ca", self.ca)
        self.assertIn("401 Unauthorized: a bearer token is needed (--token-file)", text)
        wrong = self.put("wrong", SECOND)
        for command in (TAIL, ("directory", "changed"), ("erase", "b", "--yes"), ("send", "b", "c", "x")):
            text = await self.failing(*command, "--http", url, "--ca", self.ca, "--token-file", wrong)
            self.assertIn(f"{url}: 401 Unauthorized: this is no token of this gateway's", text)
            self.assertNotIn(SECOND.decode(), text)

    async def test_badFile(self) -> None:
        """
        A file that cannot be read, or has no token, is told by its name; nothing is sent.
        """
        url = await self.listenTls(tokenFile=self.tokens)
        for path, words in (
            (f"{self.folder}/none", "No such file"),
            (self.put("empty", b"#\n"), "holds no token"),
            (self.put("bad", b"short-but-secret"), "line 1 is no token"),
        ):
            text = await self.failing(*TAIL, "--http", url, "--ca", self.ca, "--token-file", path)
            self.assertIn(f"--token-file: {path}: ", text)
            self.assertIn(words, text)
            self.assertNotIn("short-but-secret", text)

    async def test_plain(self) -> None:
        """
        A token never goes by plain HTTP to another host.
        """
        for url in ("http://192.0.2.1:8080", "http://gateway.example"):
            text = await self.failing(*TAIL, "--http", url, "--token-file", self.tokens)
            self.assertIn("a token is sent over https:// only, or to loopback", text)


class CertificateTests(AccessCase):
    """
    The gateway's certificate, and our own.
    """

    async def test_mutual(self) -> None:
        """
        A certificate of ours lets us in where those are asked for; without one there is a line that says so.
        """
        url = await self.listenTls(f"clientca={self.clientCa}")
        certificate, key = self.operator
        await self.works("--http", url, "--ca", self.ca, "--cert", certificate, "--key", key)
        text = await self.failing(*TAIL, "--http", url, "--ca", self.ca)
        self.assertIn("403 Forbidden: a client certificate is needed", text)

    async def test_stranger(self) -> None:
        """
        A certificate of somebody else's is of no use.
        """
        url = await self.listenTls(f"clientca={self.clientCa}")
        certificate, key = self.authority.issueClient("operator", "acme").write(self.folder, "stranger")
        await self.failing(*TAIL, "--http", url, "--ca", self.ca, "--cert", certificate, "--key", key)

    async def test_untrusted(self) -> None:
        """
        A gateway whose certificate is of an authority that we do not know, or has expired, is not asked.
        """
        expired = self.authority.issueServer(lifetime=-DAY).write(self.folder, "expired")
        for server, options, words in (
            (self.server, (), "unable to get local issuer certificate"),
            (self.server, ("--ca", self.clientCa), "unable to get local issuer certificate"),
            (expired, ("--ca", self.ca), "certificate has expired"),
        ):
            url = await self.listenTls(server=server, tokenFile=self.tokens)
            text = await self.failing(*TAIL, "--http", url, *options, "--token-file", self.tokens)
            self.assertIn(f"{url}: its certificate cannot be trusted: ", text)
            self.assertIn(words, text)

    async def test_otherHost(self) -> None:
        """
        A certificate for another host is not taken; one for the address that is asked is.
        """
        other = self.authority.issueServer("gateway.example", timedelta(days=1)).write(self.folder, "other")
        url = await self.listenTls(server=other, tokenFile=self.tokens)
        options = ("--ca", self.ca, "--token-file", self.tokens)
        text = await self.failing(*TAIL, "--http", url, *options)
        self.assertIn(f"{url}: its certificate is not for localhost", text)
        await self.works("--http", url.replace("localhost", "127.0.0.1"), *options)

    async def test_badFiles(self) -> None:
        """
        Files that cannot be used are one line that names the option.
        """
        certificate, key = self.operator
        encrypted = self.put("encrypted.key", self.clients.issueClient("operator", "acme").keyPem(b"geheim"))
        junk = self.put("junk.pem", b"no certificate")
        for options, words in (
            (("--ca", "/none/such"), "--ca: /none/such: No such file"),
            (("--ca", junk), f"--ca: {junk}: is not PEM"),
            (("--cert", certificate), "--key: is needed with --cert"),
            (("--key", key), "--cert: is needed with --key"),
            (
                ("--cert", certificate, "--key", self.server[1]),
                "--cert: ",
            ),
            (("--cert", certificate, "--key", encrypted), f"--cert: {certificate} with {encrypted}: is not PEM, or"),
            (("--cert", "/none/such", "--key", key), "No such file"),
        ):
            self.assertIn(words, await self.failing(*TAIL, "--http", "https://localhost:1", *options), options)
        for option in ("--ca", "--cert", "--key"):
            text = await self.failing(*TAIL, "--http", "http://127.0.0.1:1", option, certificate)
            self.assertIn(f"{option}: is of no use with http://127.0.0.1:1", text)

    async def test_noTls(self) -> None:
        """
        A server without TLS is no gateway to be asked by it.
        """

        class Plain(Protocol):
            def dataReceived(self, data: bytes) -> None:
                transport: Any = self.transport
                transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                transport.loseConnection()

        url = self.serve(Factory.forProtocol(Plain)).replace("http:", "https:")
        await self.failing(*TAIL, "--http", url, "--ca", self.ca)
