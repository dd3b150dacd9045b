"""
Tests for L{binaryserver.ops.access}: who may ask the HTTP side for what, and where it may listen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet import reactor as globalReactor
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase, TestCase

from binaryserver.bus.memorybus import MemoryBus
from binaryserver.bus.topics import Topics
from binaryserver.endpoints.listening import serverFromString
from binaryserver.errors import ConfigError
from binaryserver.ops import access as access_
from binaryserver.ops.access import Access, accessTo
from binaryserver.ops.http import makeSite
from binaryserver.ops.tokens import TokenFile
from binaryserver.plugins import BackEndContext
from binaryserver.service import ListeningService
from binaryserver.session.memorystore import MemorySessionStore
from tests.certificates import Authority, replaceFile
from tests.ops.test_http import Client
from tests.ops.test_tokens import FIRST, SECOND

TOPICS = Topics.named()
PATHS = (
    "/api/tail?follow=0",
    "/api/messages",
    "/api/boxes/b",
    "/api/directory/changes",
    "/api",
    "/api/",
    "/api/nothing",
)
reactor: Any = globalReactor


def bearer(token: bytes) -> str:
    """
    The line of a head that has it.
    """
    return f"Authorization: Bearer {token.decode('latin-1')}"


class AccessCase(SynchronousTestCase):
    """
    A site with rules, asked by hand-written requests.
    """

    def setUp(self) -> None:
        self.clock: Any = MemoryReactorClock()
        self.bus = MemoryBus("memory:", BackEndContext(self.clock, "--bus", topics=TOPICS.all))
        self.bus.start()
        self.store = MemorySessionStore("memory:", BackEndContext(self.clock, "--sessions"))

    def serve(self, access: Access) -> None:
        """
        With these rules.
        """
        self.access = access
        self.site: Any = makeSite(self.bus, self.store, TOPICS, self.clock, access=access)

    def tokenFile(self, *tokens: bytes) -> TokenFile:
        """
        One with these.
        """
        self.path = str(Path(self.mktemp()).absolute())
        replaceFile(self.path, b"\n".join(tokens))
        return TokenFile(self.path, "--http-token-file", self.clock)

    def ask(self, target: str, *lines: str, method: str = "GET", content: bytes | None = None) -> Client:
        """
        The answer to one request.
        """
        client = Client(self.site)
        self.addCleanup(client.lose)
        return client.send(target, method, *lines, content=content)


class LoopbackTests(AccessCase):
    """
    Without tokens and certificates.
    """

    def setUp(self) -> None:
        super().setUp()
        self.serve(Access(self.clock))

    def test_names(self) -> None:
        """
        Under each of loopback's names, with a port or without, everybody may ask.
        """
        for host in ("localhost", "localhost:8080", "LocalHost:1", "127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:80"):
            self.assertEqual(self.ask(PATHS[0], f"Host: {host}").status, 200, host)

    def test_rebinding(self) -> None:
        """
        Under any other name nobody may: it is a web page's, which was made to mean this host. Health is for everybody.
        """
        for host in (
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example:80",
            "evil.example@localhost:",
            "192.0.2.1",
            "[::2]",
            "::1",
            "localhost:80:80",
            "localhost, evil.example",
            "",
        ):
            for path in PATHS:
                answer = self.ask(path, f"Host: {host}")
                self.assertEqual(answer.status, 403, host)
                self.assertIn("localhost", answer.problem()["detail"])
            self.assertEqual(self.ask("/livez", f"Host: {host}").status, 200)

    def test_hosts(self) -> None:
        """
        A request that names two hosts, or none, is refused.
        """
        self.assertEqual(self.ask(PATHS[0], "Host: localhost", "Host: evil.example").status, 403)
        client = Client(self.site)
        client.channel.dataReceived(f"GET {PATHS[0]} HTTP/1.0\r\n\r\n".encode())
        self.assertEqual(client.read().status, 403)

    def test_pages(self) -> None:
        """
        Nothing that changes something is taken from a web page, wherever it is from and wherever it is sent to.
        """
        for path in ("/api/messages", "/api/directory/changes", "/api/boxes/b", "/api/tail"):
            for method in ("POST", "DELETE", "PUT", "OPTIONS"):
                answer = self.ask(path, "Origin: http://localhost", method=method, content=b"{}")
                self.assertEqual(answer.status, 403, path)
                self.assertIn("web pages", answer.problem()["detail"])

    def test_pagesMayRead(self) -> None:
        """
        What only reads is as good with an origin as without: the browser keeps the answer from other origins' pages.
        """
        self.assertEqual(self.ask(PATHS[0], "Origin: http://localhost:8080").status, 200)

    def test_authorization(self) -> None:
        """
        Whoever shows a token where none is wanted is let in as everybody is.
        """
        self.assertEqual(self.ask(PATHS[0], bearer(FIRST)).status, 200)


class TokenTests(AccessCase):
    """
    With bearer tokens.
    """

    def setUp(self) -> None:
        super().setUp()
        self.serve(Access(self.clock, self.tokenFile(FIRST, SECOND)))

    def test_none(self) -> None:
        """
        Without a token there is no answer but 401, which says what is wanted, whatever there is at that path; nothing
        of the body is kept.
        """
        for path in PATHS:
            for method in ("GET", "HEAD", "POST", "DELETE"):
                client = Client(self.site)
                head = f"{method} {path} HTTP/1.1\r\nHost: gateway.example\r\nContent-Type: application/json\r\n"
                client.channel.dataReceived(f"{head}Content-Length: 5\r\n\r\nnull".encode())
                self.assertEqual(self.site.bodies.size, 0)
                client.channel.dataReceived(b" ")
                answer = client.read()
                self.assertEqual((answer.status, answer.headers["www-authenticate"][:6]), (401, "Bearer"), path)
                if method != "HEAD":
                    self.assertEqual(answer.problem()["title"], "Unauthorized")
                client.lose()
        self.assertEqual(self.access.guesses, 0)

    def test_health(self) -> None:
        """
        Health is for everybody, under any name, and also with a token that is none.
        """
        self.assertEqual(self.ask("/livez", "Host: gateway.example").status, 200)
        self.assertEqual(self.ask("/livez", bearer(b"wrong")).status, 200)
        self.assertEqual(self.access.guesses, 0)

    def test_right(self) -> None:
        """
        Each token is let in at once, under any name; the scheme's case does not matter.
        """
        for line in (bearer(FIRST), bearer(SECOND), bearer(FIRST).replace("Bearer ", "bEARER  ")):
            self.assertEqual(self.ask(PATHS[0], line, "Host: gateway.example").status, 200, line)

    def test_post(self) -> None:
        """
        What is POSTed with a token arrives whole.
        """
        content = b'{"account": "acme", "asset": "b", "channel": "c", "text": "x"}'
        answer = self.ask("/api/messages", bearer(FIRST), method="POST", content=content)
        self.clock.advance(0)
        self.assertEqual(answer.read().status, 202)

    def test_pages(self) -> None:
        """
        A token does not let web pages change anything.
        """
        answer = self.ask(
            "/api/messages", bearer(FIRST), "Origin: https://gateway.example", method="POST", content=b"{}"
        )
        self.assertEqual(answer.status, 403)

    def test_wrong(self) -> None:
        """
        Anything else is refused, a second later.
        """
        wrong = (FIRST[:-1], FIRST + b"a", FIRST.upper(), b"x" * 40, b"\xff" * 40)
        for number, token in enumerate(wrong, 1):
            answer = self.ask(PATHS[0], bearer(token))
            self.clock.advance(0.99)
            self.assertEqual((answer.read().status, self.access.guesses), (0, number))
            self.clock.advance(0.02)
            answer.read()
            self.assertEqual((answer.status, answer.problem()["title"]), (401, "Unauthorized"))
            self.assertEqual(answer.headers["www-authenticate"], 'Bearer realm="binaryserver", error="invalid_token"')

    def test_otherSchemes(self) -> None:
        """
        What is no bearer token, or is one of two, is as good as none.
        """
        basic = f"Authorization: Basic {FIRST.decode()}"
        for lines in (
            [basic],
            [bearer(FIRST), bearer(FIRST)],
            [f"Authorization: {FIRST.decode()}"],
            ["Authorization:"],
        ):
            self.assertEqual(self.ask(PATHS[0], *lines).status, 401, lines)
        self.assertEqual(self.ask(f"{PATHS[0]}&access_token={FIRST.decode()}").status, 401)

    def test_removed(self) -> None:
        """
        A token that is taken out of the file is of no use any more.
        """
        replaceFile(self.path, SECOND)
        self.clock.advance(1)
        self.assertEqual(self.ask(PATHS[0], bearer(SECOND)).status, 200)
        answer = self.ask(PATHS[0], bearer(FIRST))
        self.clock.advance(1)
        self.assertEqual(answer.read().status, 401)

    def test_flood(self) -> None:
        """
        Guesses that wait for their answers are bounded, and cost whoever has a token nothing; one that goes away makes
        room.
        """
        most = access_._MAX_DELAYED
        waiting = [self.ask(PATHS[0], bearer(b"x" * 40)) for _ in range(most)]
        self.assertEqual({one.status for one in waiting}, {0})
        more = self.ask(PATHS[0], bearer(b"x" * 40))
        self.assertEqual((more.status, more.headers["retry-after"]), (503, "5"))
        self.assertEqual(self.ask(PATHS[0], bearer(FIRST)).status, 200)
        waiting[0].lose()
        self.assertEqual(self.ask(PATHS[0], bearer(b"x" * 40)).status, 0)
        self.clock.advance(1)
        self.assertEqual({one.read().status for one in waiting[1:]}, {401})
        self.assertEqual(self.ask(PATHS[0], bearer(b"x" * 40)).status, 0)
        self.assertEqual(self.access.guesses, most + 3)

    def test_log(self) -> None:
        """
        The log tells of guesses at most once a minute, with their number and a peer's address, and no token at all.
        """
        seen: list[dict[str, Any]] = []
        observer: Any = seen.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        for _ in range(5):
            self.ask(PATHS[0], bearer(b"guessed" * 6))
            self.ask(PATHS[0], bearer(FIRST))
        self.clock.advance(60)
        self.ask(PATHS[0], bearer(b"guessed" * 6))
        told = [event for event in seen if "wrong token" in str(event.get("log_format"))]
        self.assertEqual([(event["count"], event["peer"]) for event in told], [(1, "192.168.1.1"), (5, "192.168.1.1")])
        for secret in ("guessed", FIRST.decode()):
            self.assertNotIn(secret, repr(seen))


class CertificateTests(AccessCase):
    """
    With client certificates, as TLS tells of them.
    """

    def asked(self, certificate: object, *lines: str) -> Client:
        """
        The answer to one request over a link with that certificate.
        """
        client = Client(self.site)
        self.addCleanup(client.lose)
        client.transport.getPeerCertificate = lambda: certificate
        client.send(PATHS[0], "GET", "Host: gateway.example", *lines)
        return client

    def test_alone(self) -> None:
        """
        Whoever has one is let in, and nobody else.
        """
        self.serve(Access(self.clock, acceptsCertificates=True))
        self.assertEqual(self.asked(object()).status, 200)
        answer = self.asked(None)
        self.assertEqual((answer.status, answer.problem()["detail"]), (403, "a client certificate is needed"))
        self.assertEqual(self.ask(PATHS[0]).status, 403)

    def test_orToken(self) -> None:
        """
        With tokens, either is enough.
        """
        self.serve(Access(self.clock, self.tokenFile(FIRST), True))
        self.assertEqual(self.asked(object()).status, 200)
        self.assertEqual(self.asked(None, bearer(FIRST)).status, 200)
        self.assertEqual(self.asked(None).status, 401)

    def test_notAsked(self) -> None:
        """
        Where certificates are not verified none counts.
        """
        self.serve(Access(self.clock, self.tokenFile(FIRST)))
        self.assertEqual(self.asked(object()).status, 401)


class AccessToTests(TestCase):
    """
    Where an HTTP side may listen with which rules, each tried on a real port.
    """

    def setUp(self) -> None:
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        authority = Authority()
        certificate, key = authority.issueServer().write(str(folder), "server")
        replaceFile(f"{folder}/ca.pem", authority.certificatePem())
        replaceFile(f"{folder}/tokens", FIRST)
        self.tls = f"cert={certificate}:key={key}"
        self.mutual = f"{self.tls}:clientca={folder}/ca.pem"
        self.tokens = f"{folder}/tokens"

    async def listens(self, description: str, tokenFile: str = "", isBehindTls: bool = False) -> str:
        """
        Why it may not; empty: it may.
        """
        try:
            endpoint = serverFromString(reactor, description)
            access, mustBeLoopback = accessTo(endpoint, description, tokenFile, isBehindTls, reactor)
            listener = ListeningService("--http", description, endpoint, mustBeLoopback)
            bus = MemoryBus("memory:", BackEndContext(reactor, "--bus", topics=TOPICS.all))
            store = MemorySessionStore("memory:", BackEndContext(reactor, "--sessions"))
            listener.factory = lambda: makeSite(bus, store, TOPICS, reactor, access=access)
            await listener.begin()
            await listener.end()
        except ConfigError as error:
            return str(error)
        return ""

    async def test_may(self) -> None:
        """
        On loopback with anything; elsewhere with TLS and a token, with a proxy's TLS and a token, or with certificates.
        """
        for description, tokenFile, isBehindTls in (
            ("tcp:0:interface=127.0.0.1", "", False),
            ("tcp:0:interface=127.0.0.1", self.tokens, False),
            (r"tcp:0:interface=\:\:1", "", False),
            (f"tls:0:interface=127.0.0.1:{self.tls}", "", False),
            (f"tls:0:{self.tls}", self.tokens, False),
            (f"tls:0:{self.mutual}", "", False),
            (f"tls:0:{self.mutual}", self.tokens, False),
            (f"tls:0:{self.mutual}:proxy=yes", "", False),
            (f"tls:0:{self.tls}:proxy=yes", self.tokens, False),
            ("tcp:0", self.tokens, True),
            ("haproxy:tcp:0", self.tokens, True),
            (f"unix:{self.mktemp()}", "", False),
        ):
            self.assertEqual(await self.listens(description, tokenFile, isBehindTls), "", description)

    async def test_mayNot(self) -> None:
        """
        Anything else is refused with one line that names the option and says what is missing.
        """
        for description, tokenFile, isBehindTls, words in (
            (
                "tcp:0",
                "",
                False,
                "--http: tcp:0: without --http-token-file, or tls: with clientca=, it must be",
            ),
            ("tcp:0:interface=0.0.0.0", "", False, "must be on a loopback address"),
            (r"tcp:0:interface=\:\:", "", False, "must be on a loopback address"),
            (f"tls:0:{self.tls}", "", False, "must be on a loopback address"),
            ("tcp:0", self.tokens, False, "--http: tcp:0: a token can be read on its way"),
            (
                "haproxy:tcp:0:interface=127.0.0.1",
                "",
                False,
                "--http: haproxy:tcp:0:interface=127.0.0.1: without ",
            ),
            ("haproxy:tcp:0:interface=127.0.0.1", self.tokens, False, "a token can be read on its way"),
            ("tcp:0:interface=127.0.0.1", "", True, "--http-behind-tls: is of no use without --http-token-file"),
            ("tcp:0:interface=127.0.0.1", "/none/such", False, "--http-token-file: /none/such: No such file"),
        ):
            refusal = await self.listens(description, tokenFile, isBehindTls)
            self.assertIn(words, refusal, description)
            self.assertNotIn("\n", refusal)
