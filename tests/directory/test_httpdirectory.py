"""
Tests for L{binaryserver.directory.httpdirectory}, against a real HTTP server.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from binaryserver.directory import httpdirectory
from binaryserver.directory.httpdirectory import HttpDirectory
from binaryserver.directory.records import Account
from binaryserver.errors import ConfigError, DirectoryUnavailable
from binaryserver.interfaces import IDirectoryPlugin, IDirectorySource
from binaryserver.plugins import BackEndContext, createBackEnd
from tests.certificates import replaceFile
from tests.directory.contract import SourceContractMixin, reactor
from tests.directory.samples import LogKeeper, fullAccount, toml
from tests.directory.service import BASE, Service, makeSite
from tests.harness import HandReactor


class ServiceTestCase(TestCase):
    """
    A service in this process.
    """

    def setUp(self) -> None:
        """
        A service without accounts.
        """
        self.path = self.mktemp()
        self.write([])
        self.service = Service(self.path, "", reactor)
        self.port = reactor.listenTCP(0, makeSite(self.service), interface="127.0.0.1")
        self.addCleanup(self.port.stopListening)
        self.query = "?timeout=5"

    def makeSource(self) -> IDirectorySource:
        """
        See L{SourceContractMixin}.
        """
        spec = f"http://127.0.0.1:{self.port.getHost().port}/{BASE}{self.query}"
        source: IDirectorySource = createBackEnd(IDirectoryPlugin, spec, BackEndContext(reactor, "--directory"))
        return source

    def write(self, accounts: list[dict[str, Any]]) -> None:
        """
        See L{SourceContractMixin}.
        """
        replaceFile(self.path, toml(accounts).encode())


class HttpDirectoryTests(ServiceTestCase, SourceContractMixin):
    """
    C{http:}.
    """

    def noticed(self) -> Deferred[None]:
        """
        See L{SourceContractMixin}. It is asked anew each time.
        """
        return succeed(None)

    async def test_paths(self) -> None:
        """
        What is asked for, and no more.
        """
        source = await self.startedWith(fullAccount())
        await source.account("acme")
        await source.box("acme", "350000000000001")
        await source.account("..")
        await source.box("acme", ".")
        base = f"/{BASE}/accounts/acme"
        self.assertEqual(
            self.service.requests,
            [base, f"{base}/fields?page_size=500", f"{base}/channels?page_size=500", f"{base}/boxes/350000000000001"],
        )

    async def test_unchanged(self) -> None:
        """
        What has not changed is not sent again, and is the same; what has, is.
        """
        source = await self.startedWith(fullAccount())
        first = await source.account("acme"), await source.box("acme", "350000000000001")
        self.assertEqual(self.service.notModified, 0)
        again = await source.account("acme"), await source.box("acme", "350000000000001")
        self.assertEqual(first, again)
        self.assertEqual(self.service.notModified, 4)
        self.write([fullAccount(active=True)])
        self.assertTrue((await self.accountOf(source, "acme")).isActive)
        self.assertEqual(self.service.notModified, 6)

    async def test_pages(self) -> None:
        """
        A service may have smaller pages than it is asked for, but not any number of them.
        """
        fields = [{"id": 1 + number, "name": f"F{number}", "type": "int"} for number in range(100)]
        source = await self.startedWith({"name": "acme", "fields": fields})
        self.service.pageSize = 3
        account = await self.accountOf(source, "acme")
        self.assertEqual(list(account.fields or ()), list(range(1, 101)))
        self.assertEqual(self.service.requests[-1], f"/{BASE}/accounts/acme/channels?page_size=500")
        self.assertEqual(self.service.requests[2].rpartition("/")[2], "fields?page_size=500&page_token=from%203")
        self.service.pageSize = 2
        self.assertIn("has more than 40 pages", str(await self.failureOf(source.account("acme"))))

    async def test_longList(self) -> None:
        """
        A list of too many entries, or too many bytes, is not read to its end.
        """
        fields = [{"id": 1 + number, "name": f"F{number}", "type": "int", "unit": "x" * 1000} for number in range(3000)]
        source = await self.startedWith({"name": "acme", "fields": fields})
        self.assertEqual(len((await self.accountOf(source, "acme")).fields or ()), 3000)
        for name, most in (("MAX_FIELDS", 1200), ("MAX_LIST", 1_200_000)):
            self.patch(httpdirectory, name, most)
            self.service.requests.clear()
            self.assertIn("the list is too long", str(await self.failureOf(source.account("acme"))))
            self.assertEqual(len(self.service.requests), 4)

    async def test_newerService(self) -> None:
        """
        Keys that it does not know, it passes over.
        """
        source = await self.startedWith(
            {
                "name": "acme",
                "colour": "red",
                "limits": {"links": 3, "planets": 9},
                "box": [{"asset": "b", "wheels": 4}],
            }
        )
        self.assertEqual((await self.accountOf(source, "acme")).limits.links, 3)
        self.assertEqual((await self.boxOf(source, "acme", "b")).asset, "b")

    async def test_stopWhileAsking(self) -> None:
        """
        What was asked fails when it stops: what is under way, what waits for its turn, what waits for another try.
        """
        self.query = "?concurrency=2"
        source = await self.startedWith(fullAccount())
        self.service.mode = "hang"
        asked: list[Deferred[Any]] = [source.account("acme"), source.box("acme", "1"), source.box("acme", "2")]
        while len(self.service.requests) < 2:
            await deferLater(reactor, 0.01)
        await source.stop()
        for each in asked:
            self.assertIn("is not open", str(await self.failureOf(each)))
        while self.service.gone < 2:
            await deferLater(reactor, 0.01)
        self.assertEqual(len(self.service.requests), 2)

    async def test_badDays(self) -> None:
        """
        Each of a service's bad days is told apart, ends in the one error with URL and reason, and is over when it is
        over.
        """
        self.query = "?timeout=0.5&retries=1"
        source = await self.startedWith(fullAccount())
        self.assertIsInstance(source, HttpDirectory)
        for mode, reason in {
            "500": "it answers 500",
            "503": "it answers 503",
            "429": "it answers 429",
            "hang": "no answer within 0.5 s",
            "half": "no answer within 0.5 s",
            "slow": "no answer within 0.5 s",
            "garbage": "its answer is not JSON",
            "list": "its answer is not a JSON object",
            "oversize": "its answer has more than 1048576 bytes",
            "endless": "its answer has more than 1048576 bytes",
            "gzip": "its answer is compressed",
            "redirect": "it answers 302: it is not followed",
        }.items():
            self.service.mode, self.service.delay = mode, 0.8
            error = str(await self.failureOf(source.account("acme")))
            self.assertIn(reason, error)
            self.assertIn(f"/{BASE}/accounts/acme: ", error)
            self.service.mode = "well"
            self.assertEqual((await self.accountOf(source, "acme")).name, "acme")

    async def test_badOnce(self) -> None:
        """
        One that fails once, or is slow within limits, is noticed by nobody.
        """
        source = await self.startedWith(fullAccount())
        for mode in ("500", "503", "429", "slow"):
            self.service.mode, self.service.times, self.service.retryAfter = mode, 2, "0"
            self.assertEqual((await self.accountOf(source, "acme")).name, "acme")
            self.assertEqual(self.service.times, 0)

    async def test_token(self) -> None:
        """
        Without the right token nothing is answered; neither errors nor logs show it.
        """
        logged = LogKeeper(self).events
        tokenFile = self.mktemp()
        replaceFile(tokenFile, b"wrong-token")
        self.query = f"?token-file={tokenFile}"
        self.service.token = "right-token"
        source = await self.startedWith(fullAccount())
        error = await self.failureOf(source.account("acme"))
        self.assertIn("it answers 401: it does not accept our token", str(error))
        replaceFile(tokenFile, b"right-token\n")
        await deferLater(reactor, 1.05)
        self.assertEqual((await self.accountOf(source, "acme")).name, "acme")
        for each in ("wrong-token", "right-token"):
            self.assertNotIn(each, repr(logged) + repr(error))

    async def test_keepsConnections(self) -> None:
        """
        One lookup after another goes over one connection.
        """
        connections: list[Any] = []
        factory = self.port.factory
        build = factory.buildProtocol

        def buildProtocol(address: Any) -> Any:
            connections.append(address)
            return build(address)

        self.patch(factory, "buildProtocol", buildProtocol)
        source = await self.startedWith(fullAccount())
        for _ in range(5):
            await source.account("acme")
        self.assertEqual(len(connections), 1)


class StartTests(SynchronousTestCase):
    """
    What the start says.
    """

    def setUp(self) -> None:
        """
        A reactor, and what is logged.
        """
        self.reactor = HandReactor()
        self.logged = LogKeeper(self).events

    def start(self, spec: str) -> Deferred[None]:
        """
        Start one.
        """
        source = HttpDirectory(spec, BackEndContext(self.reactor, "--directory"))
        started = source.start(lambda change: None)
        self.reactor.pump([0, 0, 0])
        return started

    def test_away(self) -> None:
        """
        A service that is not there does not fail the start: it is not asked.
        """
        self.successResultOf(self.start("https://nowhere.example/v1"))
        self.assertEqual(self.reactor.tcpClients, [])
        self.assertEqual(self.logged, [])

    def test_exposed(self) -> None:
        """
        Without TLS over a network, it warns.
        """
        self.successResultOf(self.start("http://127.0.0.1/v1"))
        self.assertEqual(self.logged, [])
        self.successResultOf(self.start("http://directory.example/v1?timeout=1"))
        self.assertEqual([event["base"] for event in self.logged], ["http://directory.example/v1"])

    def test_token(self) -> None:
        """
        A token that cannot be read ends it.
        """
        error = self.failureResultOf(self.start("http://127.0.0.1/v1?token-file=/nowhere/token"), ConfigError).value
        self.assertEqual(str(error), "--directory: token-file: cannot read '/nowhere/token': No such file or directory")

    def test_notStarted(self) -> None:
        """
        One that has not started fails what it is asked.
        """
        source = HttpDirectory("http://127.0.0.1/v1", BackEndContext(self.reactor, "--directory"))
        self.failureResultOf(source.account("acme"), DirectoryUnavailable)
        self.failureResultOf(source.box("acme", "b"), DirectoryUnavailable)


class AnswerTests(SynchronousTestCase):
    """
    What a service answers, without one.
    """

    def source(self, *bodies: bytes | None) -> HttpDirectory:
        """
        A directory whose requests are answered by these, in this order, the last of them for ever.
        """
        source = HttpDirectory("http://127.0.0.1/v1", BackEndContext(HandReactor(), "--directory"))
        self.successResultOf(source.start(lambda change: None))
        left = list(bodies)

        async def get(path: str, query: str = "") -> bytes | None:
            return left.pop(0) if len(left) > 1 else left[0]

        self.patch(source.fetcher, "get", get)
        return source

    def faultOf(self, *bodies: bytes | None) -> str:
        """
        What is wrong with the answers to a lookup of the account C{acme}.
        """
        failure = self.failureResultOf(self.source(*bodies).account("acme"), DirectoryUnavailable)
        return str(failure.value)

    def test_noLists(self) -> None:
        """
        An account whose lists are not there has none of its own.
        """
        self.assertEqual(self.successResultOf(self.source(b'{"name": "acme"}', None).account("acme")), Account("acme"))
        self.assertIsNone(self.successResultOf(self.source(None).account("acme")))

    def test_another(self) -> None:
        """
        An answer about something else is refused.
        """
        self.assertIn("it answers with account other", self.faultOf(b'{"name": "other"}', None))
        asked = self.source(b'{"asset": "other"}').box("acme", "b")
        self.assertIn("it answers with box other", str(self.failureResultOf(asked, DirectoryUnavailable).value))

    def test_pages(self) -> None:
        """
        Pages that lead nowhere.
        """
        account = b'{"name": "acme"}'
        long = b'{"next_page_token": "%s"}' % (b"x" * 1025)
        self.assertIn("its next_page_token has more than 1024 characters", self.faultOf(account, long))
        self.assertIn("next_page_token: is to be a text", self.faultOf(account, b'{"next_page_token": 1}'))
        self.assertIn("more than 40 pages", self.faultOf(account, b'{"next_page_token": "again"}'))
        self.assertIn("a page that it named is not there", self.faultOf(account, b'{"next_page_token": "a"}', None))
        self.assertIn("fields: is to be a list", self.faultOf(account, b'{"fields": {}}'))
        self.assertIn("is to be a list", self.faultOf(account, None, b'{"channels": 1}'))

    def test_lists(self) -> None:
        """
        What a list says must be right as a whole.
        """
        page = b'{"fields": [{"id": 8, "name": "A", "type": "int"}], "next_page_token": "2"}'
        self.assertIn("twice", self.faultOf(b'{"name": "acme"}', page, page.replace(b'"2"', b'""'), None))

    @given(
        st.lists(
            st.binary(max_size=200)
            | st.none()
            | st.recursive(
                st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(
                        st.sampled_from(["name", "fields", "channels", "next_page_token", "asset", "metadata"]), inner
                    )
                ),
            ).map(lambda value: json.dumps(value).encode()),
            min_size=1,
            max_size=5,
        )
    )
    def test_anything(self, bodies: list[bytes | None]) -> None:
        """
        Whatever comes, it is a value or the one error, whose line can be printed.
        """
        for ask in (lambda source: source.account("acme"), lambda source: source.box("acme", "b")):
            results: list[Any] = []
            ask(self.source(*bodies)).addErrback(
                lambda failure: failure.trap(DirectoryUnavailable) and failure.value
            ).addCallback(results.append)
            self.assertEqual(len(results), 1)
            if isinstance(results[0], DirectoryUnavailable):
                str(results[0]).encode()
                self.assertNotIn("\n", str(results[0]))

    def test_deep(self) -> None:
        """
        JSON as deep as its bytes allow, and numbers as long.
        """
        self.assertIn("not JSON", self.faultOf(b"[" * 500_000))
        self.assertIn("not JSON", self.faultOf(b'{"a":' * 100_000))
        self.assertIn("not JSON", self.faultOf(b"1" * 100_000))
