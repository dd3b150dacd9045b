"""
Tests for simulated boxes that speak MD21, on sockets: TLS that a box asks for, UDP, and the options.
"""

from __future__ import annotations

import json
import os
from datetime import timedelta
from io import StringIO
from typing import Any

from twisted.internet import reactor as globalReactor
from twisted.internet.defer import Deferred
from twisted.internet.ssl import CertificateOptions, KeyPair, PrivateCertificate
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, Logger, formatEvent
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from binaryserver.md21 import codec
from binaryserver.md21.framing import frame
from binaryserver.md21.values import Capabilities, Header, HeaderAck, HeaderStatus, Reason, WantAck
from binaryserver.tools.box import run
from binaryserver.tools.box_fleet import Fleet
from binaryserver.tools.box_md21 import VERSION
from binaryserver.tools.box_options import MAX_UDP_INFLIGHT, fleetFrom, parser, planFrom
from binaryserver.tools.box_plan import BoxPlan, Md21Plan, Resend
from binaryserver.tools.box_sums import Sums
from tests.certificates import Authority, Issued
from tests.tools.box_gateway import MemoryReactor
from tests.tools.fakemd21 import FakeDatagrams, FakeFactory, FakeLink, FakeMd21, Md21Reactor

reactor: Any = globalReactor


def credentials(issued: Issued) -> CertificateOptions:
    """
    What a server starts TLS with.
    """
    pair = KeyPair.load(issued.keyPem(), 1)
    own = PrivateCertificate.loadPEM(issued.certificatePem() + issued.keyPem())
    return CertificateOptions(privateKey=pair.original, certificate=own.original)


@implementer(ILogObserver)
class Observer:
    """
    Keeps what is said.
    """

    def __init__(self, said: list[str]) -> None:
        self.said = said

    def __call__(self, event: LogEvent) -> None:
        """
        See L{ILogObserver}.
        """
        self.said.append(formatEvent(event))


class SocketCase(TestCase):
    """
    A server on loopback.
    """

    timeout = 30

    def setUp(self) -> None:
        """
        It listens.
        """
        self.server = FakeMd21(reactor)
        self.port = reactor.listenTCP(0, FakeFactory(self.server), interface="127.0.0.1")
        self.addCleanup(self.port.stopListening)
        self.said: list[str] = []
        self.folder = self.mktemp()
        os.makedirs(self.folder)

    def fleet(self, text: str, host: str = "127.0.0.1") -> Fleet:
        """
        The fleet of a command line.
        """

        self.patch(Fleet, "log", Logger(observer=Observer(self.said)))
        connect = f"--protocol md21 --connect tcp:{host}:{self.port.getHost().port} --reconnect-delay 0.1 "
        return fleetFrom(reactor, parser().parse_args((connect + text).split()), lambda asset, heard: None)

    def ca(self, authority: Authority) -> str:
        """
        The path of an authority's certificate.
        """
        path = os.path.join(self.folder, "ca.pem")
        with open(path, "wb") as file:
            file.write(authority.certificatePem())
        return path

    async def ended(self, fleet: Fleet, seconds: float = 0.0) -> Sums:
        """
        Run a fleet; not longer than so many seconds, if there are any.
        """
        done: Deferred[Sums] = fleet.start()
        if seconds:
            await deferLater(reactor, seconds, fleet.stop)
        sums = await done
        for _ in range(50):
            if not self.server.links:
                break
            await deferLater(reactor, 0.01, lambda: None)
        await deferLater(reactor, 0.02, lambda: None)
        return sums


class Downgrading(FakeLink):
    """
    A server that does not hear the wish for TLS.
    """

    def header(self, header: Header) -> None:
        """
        See L{FakeLink.header}.
        """
        FakeLink.header(self, header._replace(tls=False))


class TlsTests(SocketCase):
    """
    TLS that a box asks for.
    """

    async def test_good(self) -> None:
        """
        The secret goes inside TLS only, and then all is as without.
        """
        authority = Authority()
        self.server.tls = credentials(authority.issueServer())
        ca = self.ca(authority)
        sums = await self.ended(self.fleet(f"--tls --ca {ca} --account acme --password secret --tracks 50 --batch 20"))
        asset, able = "350000000000001", Capabilities(False, True, False)
        self.assertEqual(
            self.server.headers,
            [
                (Header(VERSION, asset, "acme", None, True, Reason.COLD_BOOT, able), False),
                (Header(VERSION, asset, "acme", "secret", False, Reason.COLD_BOOT, able), True),
            ],
        )
        self.assertEqual((sums.acked, sums.connects, sums.lostLinks), (50, 1, 0))
        self.assertEqual(len(self.server.tracks), 50)
        self.assertEqual(self.server.reasons, [Reason.IDLE_OUT])

    async def test_bad(self) -> None:
        """
        A certificate of another authority, for another host, or of another time: nothing is said to such a server, and
        the reason is told.
        """
        authority = Authority()
        ca = self.ca(authority)
        for issued, reason in (
            (Authority("Another").issueServer(), "verify failed"),
            (authority.issueServer(lifetime=timedelta(days=-1)), "verify failed"),
            (authority.issueServer("elsewhere"), "VerificationError|does not match|mismatch"),
        ):
            self.said.clear()
            self.server.headers.clear()
            self.server.tls = credentials(issued)
            sums = await self.ended(self.fleet(f"--tls --ca {ca} --account acme --password secret", "localhost"), 0.5)
            self.assertTrue(self.server.headers)
            self.assertEqual({(header.secret, secure) for header, secure in self.server.headers}, {(None, False)})
            self.assertEqual((sums.acked, sums.connects, len(self.server.tracks)), (0, 0, 0))
            self.assertGreater(sums.lostLinks, 0)
            self.assertRegex(self.said[0], reason)

    async def test_unavailable(self) -> None:
        """
        Without TLS there is no link.
        """
        sums = await self.ended(self.fleet("--tls --account acme --password secret"))
        self.assertEqual((sums.refused, sums.connects), (1, 0))
        self.assertEqual(self.said, ["350000000000001: refused: TLS_UNAVAILABLE"])

    async def test_downgraded(self) -> None:
        """
        A server that would go on without TLS gets no secret.
        """
        self.patch(self.server, "link", lambda: Downgrading(self.server))
        sums = await self.ended(self.fleet("--tls --account acme --password secret"))
        self.assertEqual((sums.refused, sums.connects), (1, 0))
        self.assertEqual([header.secret for header, _ in self.server.headers], [None])

    async def test_injected(self) -> None:
        """
        Bytes behind the answer to the wish for TLS end the link before TLS begins: they would be taken for protected.
        """
        authority = Authority()
        self.server.tls = credentials(authority.issueServer())
        self.server.behindTls = frame(codec.encode(HeaderAck(HeaderStatus.OK)))
        sums = await self.ended(self.fleet(f"--tls --ca {self.ca(authority)} --password secret"), 0.3)
        self.assertEqual((sums.connects, sums.acked), (0, 0))
        self.assertGreater(sums.peerErrors, 0)
        self.assertEqual({header.secret for header, _ in self.server.headers}, {None})


class UdpTests(SocketCase):
    """
    Tracks by UDP.
    """

    async def test_all(self) -> None:
        """
        To an address, and to a name that has to be looked up first.
        """
        udp = reactor.listenUDP(0, FakeDatagrams(self.server), interface="127.0.0.1")
        self.addCleanup(udp.stopListening)
        self.server.udp = udp.getHost().port
        for host in ("127.0.0.1", "localhost"):
            self.server.host = host
            self.server.tracks.clear()
            sums = await self.ended(self.fleet("--udp --boxes 3 --tracks 100 --batch 20 --ramp 0"))
            self.assertEqual((sums.acked, sums.udpLinks, sums.resent, sums.complete), (300, 3, 0, True))
            self.assertEqual((len(self.server.tracks), self.server.duplicates()), (300, 0))
        self.assertTrue(all(byDatagram for _, _, byDatagram in self.server.blocks))

    async def test_unknownHost(self) -> None:
        """
        Where the name leads nowhere, tracks go by TCP.
        """
        self.server.udp = 1
        self.server.host = "nowhere.invalid"
        sums = await self.ended(self.fleet("--udp"))
        self.assertEqual((sums.acked, sums.udpLinks), (10, 0))
        self.assertIn("no way for datagrams", self.said[0])


class CommandLineTests(SynchronousTestCase):
    """
    The options.
    """

    def plan(self, text: str) -> BoxPlan:
        """
        The plan of a command line.
        """
        return planFrom(parser().parse_args(f"--protocol md21 {text}".split()))

    def test_default(self) -> None:
        """
        Blocks go anew at other boundaries, and after half a minute.
        """
        self.assertEqual(self.plan(""), BoxPlan(resend=Resend.NEW, md21=Md21Plan()))

    def test_all(self) -> None:
        """
        Every option arrives.
        """
        plan = self.plan(
            "--want-ack all0 --tls --udp --lose-datagrams 0.2 --lose-acks 1/3 --resend same --password x --batch 256"
        )
        self.assertEqual(plan.md21, Md21Plan(WantAck.ALL_0, True, True, 0.2))
        self.assertEqual(
            (plan.loseAcks, plan.loseEvery, plan.resend, plan.password, plan.batch, plan.ackTimeout),
            (0.0, 3, Resend.SAME, b"x", 256, 5.0),
        )

    def test_together(self) -> None:
        """
        What is the other protocol's, or cannot be, is told in one line that names the option.
        """
        most = MAX_UDP_INFLIGHT
        for text, named in (
            ("--protocol md21 --qos 2", "--qos: needs --protocol md30"),
            ("--protocol md21 --stream 4", "--stream: needs --protocol md30"),
            ("--protocol md21 --no-index", "--no-index: needs --protocol md30"),
            ("--protocol md21 --json-topic", "--json-topic: needs --protocol md30"),
            ("--want-ack all10", "--want-ack: needs --protocol md21"),
            ("--udp", "--udp: needs --protocol md21"),
            ("--tls", "--tls: needs --protocol md21"),
            ("--protocol md21 --batch 257", "--batch: a block of MD21 has 256 tracks at most"),
            ("--protocol md21 --account a/b", "--account"),
            (f"--protocol md21 --password {'x' * 256}", "--password"),
            ("--protocol md21 --want-ack none --lose-acks 1/2", "--lose-acks: does not go together with --want-ack"),
            ("--protocol md21 --want-ack none --ack-timeout 3", "--ack-timeout: does not go together"),
            ("--protocol md21 --lose-datagrams 0.1", "--lose-datagrams: needs --udp"),
            (f"--protocol md21 --udp --inflight {most + 1}", f"--inflight: with --udp there is room for {most} blocks"),
            ("--protocol md21 --tls --connect tls:localhost:1", "--connect: 'tls:localhost:1' is not tcp:HOST:PORT"),
            ("--protocol md21 --ca x", "--connect"),
            ("--protocol md21 --tls --ca /none/such", "--ca: /none/such: No such file"),
            ("--lose-acks 1/1", "--lose-acks: 1 is not between 2 and"),
            ("--lose-acks 2/3", "--lose-acks: '2/3' is not a number"),
        ):
            error = StringIO()
            ended = self.assertRaises(SystemExit, run, MemoryReactor(), text.split(), StringIO(), error)
            self.assertEqual(ended.code, 1, text)
            self.assertTrue(error.getvalue().startswith(f"binaryserver-box: {named}"), error.getvalue())
            self.assertEqual(error.getvalue().count("\n"), 1)

    def test_run(self) -> None:
        """
        The same program prints the same sums, and connects to the port of MD21 unless it is told another.
        """
        memory, out = Md21Reactor(), StringIO()
        done = run(
            memory,
            ["--protocol", "md21", "--boxes", "3", "--tracks", "20", "--batch", "8", "--json", "--ramp", "0"],
            out,
            StringIO(),
        )
        memory.run(0.2)
        self.assertIs(self.successResultOf(done), None)
        sums = json.loads(out.getvalue())
        self.assertEqual((sums["tracks"], sums["sent"], sums["acked"], sums["resent"]), (60, 60, 60, 0))
        self.assertEqual((sums["unasked"], sums["udp_links"], sums["connects"]), (0, 0, 3))
        self.assertEqual(memory.ports, [2100] * 3)
        self.assertEqual(len(memory.gateway.tracks), 60)

    def test_help(self) -> None:
        """
        Every option of MD21's says that it is, and what the protocols have in common says what it means on both.
        """
        text = " ".join(parser().format_help().split())
        for words in (
            "--protocol {md30,md21} what the boxes speak (default: md30; md21 is the legacy)",
            "or tcp:127.0.0.1:2100 for md21",
            "tracks a PUBLISH, or a block of MD21, which has 256 at most (default: 1)",
            "--tls MD21: ask for TLS in a header without the password",
            "--want-ack {none,all0,all10,all30,all60,all100,all200,all300} MD21: what blocks ask for",
            "--udp MD21: bring tracks by UDP",
            "--lose-datagrams P MD21: share of datagrams that get lost",
            "0.5 is half of them by chance, 1/2 each second one of a box",
            "default: same for md30, new for md21",
        ):
            self.assertIn(words, text)
