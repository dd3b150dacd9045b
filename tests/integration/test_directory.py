"""
A directory service in a process of its own, with all that may go wrong between it and the gateway.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

from treq.client import HTTPClient
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool

from binaryserver.directory.httpdirectory import HttpDirectory
from binaryserver.directory.httpsettings import parseSpec
from binaryserver.errors import DirectoryUnavailable
from binaryserver.plugins import BackEndContext
from tests.certificates import DAY, Authority, Issued, replaceFile
from tests.directory.contract import reactor
from tests.directory.samples import fullAccount, toml
from tests.directory.service import BASE
from tests.gatewayprocess import ROOT
from tests.services import freePort

TOKEN = "a-token-of-the-tests"


class ServiceProcess:
    """
    The example service.
    """

    def __init__(self, folder: str, authority: Authority | None = None, issued: Issued | None = None) -> None:
        """
        @param issued: its certificate; without one it speaks no TLS
        @param authority: who is trusted to have signed it
        """
        os.makedirs(folder, exist_ok=True)
        self.folder = os.path.abspath(folder)
        self.port = freePort()
        self.scheme = "http" if issued is None else "https"
        self.file = os.path.join(self.folder, "accounts.toml")
        self.tokenFile = os.path.join(self.folder, "token")
        self.ca = os.path.join(self.folder, "ca.pem")
        replaceFile(self.file, toml([fullAccount()]).encode())
        replaceFile(self.tokenFile, TOKEN.encode())
        command = [sys.executable, "-m", "tests.directory.service", f"--port={self.port}", f"--file={self.file}"]
        command.append(f"--token-file={self.tokenFile}")
        if issued is not None:
            certificate, key = issued.write(self.folder, "server")
            command += [f"--cert={certificate}", f"--key={key}"]
        if authority is not None:
            replaceFile(self.ca, authority.certificatePem())
        self._command = command
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """
        Start it, and wait until it listens.
        """
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with open(os.path.join(self.folder, "log"), "ab") as log:
            self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=log, env=environment)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line != b"ready\n":
            with open(os.path.join(self.folder, "log")) as log:
                raise AssertionError(f"the service does not start: {log.read()[-2000:]}")

    def signal(self, number: int) -> None:
        """
        Send it a signal.
        """
        assert self.process is not None
        self.process.send_signal(number)

    def close(self) -> None:
        """
        End it.
        """
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()

    def url(self, host: str = "localhost", **options: Any) -> str:
        """
        The value of C{--directory}.
        """
        options = {"timeout": 5, "retries": 1, "token_file": self.tokenFile, **options}
        if os.path.exists(self.ca):
            options.setdefault("ca", self.ca)
        query = "&".join(f"{name.replace('_', '-')}={value}" for name, value in options.items() if value != "")
        return f"{self.scheme}://{host}:{self.port}/{BASE}?{query}"


class DirectoryServiceTests(TestCase):
    """
    The gateway's side of it, against that process.
    """

    timeout = 60

    def serve(self, authority: Authority | None = None, issued: Issued | None = None) -> ServiceProcess:
        """
        A service that runs.
        """
        service = ServiceProcess(self.mktemp(), authority, issued)
        self.addCleanup(service.close)
        service.start()
        return service

    async def open(self, url: str) -> HttpDirectory:
        """
        A directory that asks it.
        """
        source = HttpDirectory(url, BackEndContext(reactor, "--directory"))
        await source.start(lambda change: None)
        self.addCleanup(source.stop)
        return source

    async def fails(self, source: HttpDirectory, reason: str) -> float:
        """
        A lookup fails so; gives the s that it took.
        """
        before = time.monotonic()
        try:
            await source.account("acme")
        except DirectoryUnavailable as error:
            self.assertIn(reason, str(error))
            self.assertNotIn(TOKEN, str(error))
            self.assertNotIn("?", str(error))
            return time.monotonic() - before
        raise self.failureException("it did not fail")

    async def control(self, service: ServiceProcess, **told: Any) -> Any:
        """
        Tell the service what to do, or, without anything to do, have it say what it was asked.
        """
        pool = HTTPConnectionPool(reactor, persistent=False)
        policy = BrowserLikePolicyForHTTPS()
        if os.path.exists(service.ca):
            policy = parseSpec(f"https://localhost?ca={service.ca}", "--directory").policy
        client = HTTPClient(Agent(reactor, policy, pool=pool))
        url = f"{service.scheme}://localhost:{service.port}/control"
        if told:
            response = await client.put(url, data=json.dumps(told).encode(), reactor=reactor)
        else:
            response = await client.get(url, reactor=reactor)
        return json.loads(await response.content())

    async def test_lookups(self) -> None:
        """
        Accounts and boxes, over TLS, by name and by address; what has not changed comes as 304.
        """
        authority = Authority()
        service = self.serve(authority, authority.issueServer("localhost"))
        for host in ("localhost", "127.0.0.1"):
            source = await self.open(service.url(host))
            for _ in range(3):
                account, box = await source.account("acme"), await source.box("acme", "350000000000001")
                self.assertEqual((account and account.limits.links, box and box.isRevoked), (10, True))
                self.assertIsNone(await source.account("other"))
                self.assertIsNone(await source.box("acme", "other"))
        self.assertEqual((await self.control(service))["not_modified"], 16)

    async def test_certificates(self) -> None:
        """
        A certificate of a stranger, for another host, or that has expired, is refused at once, without another try.
        """
        authority, stranger = Authority(), Authority("Other Root")
        for issued, trusted, reason in (
            (authority.issueServer("localhost"), stranger, "its certificate is not to be trusted"),
            (authority.issueServer("localhost"), None, "its certificate is not to be trusted"),
            (authority.issueServer("directory.example"), authority, "its certificate is not for this host"),
            (authority.issueServer("localhost", -DAY), authority, "its certificate is not to be trusted"),
        ):
            service = self.serve(trusted, issued)
            self.assertLess(await self.fails(await self.open(service.url()), reason), 3)

    async def test_plainAndTls(self) -> None:
        """
        TLS to a service without, and none to a service with.
        """
        plain = self.serve()
        source = await self.open(plain.url(timeout=0.5).replace("http:", "https:"))
        await self.fails(source, "no answer within 0.5 s")
        authority = Authority()
        secure = self.serve(authority, authority.issueServer("localhost"))
        url = secure.url(ca="").replace("https:", "http:")
        await self.fails(await self.open(url), "it closed the connection before its answer was whole")

    async def test_token(self) -> None:
        """
        Without its token the service does not answer.
        """
        service = self.serve()
        source = await self.open(service.url(token_file=""))
        await self.fails(source, "it answers 401")

    async def test_away(self) -> None:
        """
        A service that is not there, is there, is gone, and is there again.
        """
        service = ServiceProcess(self.mktemp())
        self.addCleanup(service.close)
        source = await self.open(service.url())
        for _ in range(2):
            await self.fails(source, "refused")
            service.start()
            self.assertIsNotNone(await source.account("acme"))
            service.close()

    async def test_restarted(self) -> None:
        """
        A service that restarts between two lookups is not noticed, though its connections are gone.
        """
        service = self.serve()
        source = await self.open(service.url())
        for _ in range(3):
            self.assertIsNotNone(await source.account("acme"))
            service.close()
            service.start()

    async def test_frozen(self) -> None:
        """
        A service that stands still, with TLS too, costs its timeouts and holds up no stop; when it moves, it is asked.
        """
        authority = Authority()
        for service in (self.serve(), self.serve(authority, authority.issueServer("localhost"))):
            source = await self.open(service.url(timeout=0.5))
            self.assertIsNotNone(await source.account("acme"))
            service.signal(signal.SIGSTOP)
            self.assertLess(await self.fails(source, "no answer within 0.5 s"), 3)
            service.signal(signal.SIGCONT)
            self.assertIsNotNone(await source.account("acme"))
            service.signal(signal.SIGSTOP)
            before = time.monotonic()
            await source.stop()
            self.assertLess(time.monotonic() - before, 3)
            service.close()
            await deferLater(reactor, 0.1)

    async def test_half(self) -> None:
        """
        An answer that stops within its body ends with its connection, with TLS too: none is left open.
        """
        authority = Authority()
        for service in (self.serve(), self.serve(authority, authority.issueServer("localhost"))):
            source = await self.open(service.url(timeout=0.3))
            await self.control(service, mode="half")
            await self.fails(source, "no answer within 0.3 s")
            for _ in range(100):
                if (await self.control(service))["gone"] == 2:
                    break
                await deferLater(reactor, 0.05)
            self.assertEqual((await self.control(service))["gone"], 2)

    async def test_frozenWithinBody(self) -> None:
        """
        An answer whose service stands still within its body leaves no connection, though nobody answers TLS's goodbye.
        """
        authority = Authority()
        service = self.serve(authority, authority.issueServer("localhost"))
        source = await self.open(service.url(timeout=1, retries=0))
        await self.control(service, mode="half")
        asked = source.account("acme")
        await deferLater(reactor, 0.5)
        service.signal(signal.SIGSTOP)
        self.assertEqual(self.connections(service), 1)
        self.assertIn("no answer within 1 s", str(await self.assertFailure(asked, DirectoryUnavailable)))
        await deferLater(reactor, 0.1)
        self.assertEqual(self.connections(service), 0)

    def connections(self, service: ServiceProcess) -> int:
        """
        How many this process has with the service.
        """
        peers = [each.getPeer() for each in reactor.getReaders() if hasattr(each, "getPeer")]
        return sum(peer.port == service.port for peer in peers)

    async def test_badDays(self) -> None:
        """
        Errors that pass are tried again, others not; each says what it is.
        """
        service = self.serve()
        source = await self.open(service.url())
        asked = 0
        for mode, reason, tries in (
            ("500", "it answers 500", 2),
            ("503", "it answers 503", 2),
            ("429", "it answers 429", 2),
            ("garbage", "its answer is not JSON", 1),
            ("oversize", "its answer has more than 1048576 bytes", 1),
            ("endless", "its answer has more than 1048576 bytes", 1),
            ("redirect", "it answers 302", 1),
        ):
            await self.control(service, mode=mode)
            await self.fails(source, reason)
            asked += tries
            self.assertEqual(len((await self.control(service))["requests"]), asked, mode)
        await self.control(service, mode="slow", delay=0.3)
        self.assertIsNotNone(await source.account("acme"))

    async def test_retryAfter(self) -> None:
        """
        A service that asks to be left alone for a second is.
        """
        service = self.serve()
        source = await self.open(service.url())
        await self.control(service, mode="429", times=1, retryAfter="1")
        before = time.monotonic()
        self.assertIsNotNone(await source.account("acme"))
        self.assertGreaterEqual(time.monotonic() - before, 0.95)
        self.assertEqual(len((await self.control(service))["requests"]), 4)
