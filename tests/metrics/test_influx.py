"""
Tests for L{binaryserver.metrics.influx} and L{binaryserver.metrics.influxlines}.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from math import inf
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from twisted.internet import reactor as globalReactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from binaryserver.errors import ConfigError
from binaryserver.metrics.families import counter, gauge, gauges, histogram
from binaryserver.metrics.histogram import Histogram
from binaryserver.metrics.influx import HttpPusher, Pusher, UdpPusher, pusherTo
from binaryserver.metrics.influxlines import DATAGRAM, asLines, datagrams
from tests.services.influx import DATABASE, InfluxProcess

reactor: Any = globalReactor


def families() -> list[Metric]:
    """
    One of each kind.
    """
    observed = Histogram((0.5, 1.0))
    observed.observe(0.25, 3)
    observed.observe(7.0)
    return [
        counter("tracks", "Tracks.", 7),
        gauges("links", "Links.", "account", {"a": 1, "": 2, "we ird,=\\": 3}),
        gauge("most", "Infinite.", inf),
        histogram("ack_seconds", "Acks.", observed),
    ]


class LinesTests(SynchronousTestCase):
    """
    The line protocol.
    """

    def test_lines(self) -> None:
        """
        As Telegraf writes them: a line a series, a histogram's buckets as fields. What is not finite is left out.
        """
        self.assertEqual(
            b"\n".join(asLines(families(), {"instance": "gw 1"}, 1_790_000_000_000_000_000)).decode(),
            "binaryserver_tracks_total,instance=gw\\ 1 counter=7.0 1790000000000000000\n"
            "binaryserver_links,account=a,instance=gw\\ 1 gauge=1.0 1790000000000000000\n"
            "binaryserver_links,instance=gw\\ 1 gauge=2.0 1790000000000000000\n"
            "binaryserver_links,account=we\\ ird\\,\\=,instance=gw\\ 1 gauge=3.0 1790000000000000000\n"
            "binaryserver_ack_seconds,instance=gw\\ 1 0.5=3.0,1=3.0,+Inf=4.0,count=4.0,sum=7.75 1790000000000000000",
        )

    @given(st.lists(st.binary(min_size=1, max_size=DATAGRAM + 100).filter(lambda line: b"\n" not in line)))
    def test_datagrams(self, lines: list[bytes]) -> None:
        """
        Every line goes, whole and in its order, in datagrams that are no larger than they may be.
        """
        found = list(datagrams(lines))
        self.assertEqual(b"\n".join(found).split(b"\n") if found else [], lines)
        self.assertTrue(all(len(one) <= DATAGRAM or b"\n" not in one for one in found))


class SpecTests(SynchronousTestCase):
    """
    C{--influx}.
    """

    def test_good(self) -> None:
        """
        Off, HTTP and UDP.
        """
        kinds = {"off": None, "http://127.0.0.1:8086/fleet": HttpPusher, "udp://influx.example:8089": UdpPusher}
        for spec, kind in kinds.items():
            pusher = pusherTo(spec, 10.0, "gw", families, reactor)
            self.assertEqual(None if pusher is None else type(pusher), kind, spec)

    def test_bad(self) -> None:
        """
        Everything else ends the start, with the forms that there are.
        """
        for spec in (
            "http://127.0.0.1:8086",
            "http://127.0.0.1/fleet",
            "http://127.0.0.1:8086/fleet/more",
            "http://127.0.0.1:8086/fleet?u=a",
            "http://user:secret@127.0.0.1:8086/fleet",
            "http://127.0.0.1:99999/fleet",
            "https://127.0.0.1:8086/fleet",
            "udp://127.0.0.1:8089/fleet",
            "udp://127.0.0.1",
            "127.0.0.1:8086",
            "http://[::1/fleet",
        ):
            error = self.assertRaises(ConfigError, pusherTo, spec, 10.0, "gw", families, reactor)
            self.assertEqual(str(error), "--influx: is http://HOST:PORT/DB or udp://HOST:PORT", spec)


class HandPusher(Pusher):
    """
    What it sends the test takes.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__(10.0, "gw", families, clock)
        self.sent: list[Deferred[None]] = []

    def send(self, lines: list[bytes]) -> Deferred[None]:
        """
        See L{Pusher.send}.
        """
        self.sent.append(Deferred())
        return self.sent[-1]


class PusherTests(SynchronousTestCase):
    """
    When is pushed.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.pusher = HandPusher(self.clock)
        self.pusher.start()

    def test_interval(self) -> None:
        """
        Every interval, but never two at a time.
        """
        self.clock.advance(9.9)
        self.assertEqual(len(self.pusher.sent), 0)
        self.clock.advance(0.2)
        self.assertEqual(len(self.pusher.sent), 1)
        self.clock.advance(9.9)
        self.assertEqual(len(self.pusher.sent), 1)
        self.pusher.sent[0].callback(None)
        self.clock.advance(10)
        self.assertEqual((len(self.pusher.sent), self.pusher.pushed), (2, 1))

    def test_silent(self) -> None:
        """
        One that is not answered is given up, and the next goes.
        """
        self.clock.advance(10)
        with capturedLogs() as logs:
            self.clock.pump([5, 5, 5, 5])
        self.assertEqual([event["why"] for event in logs], ["no answer in time"])
        self.assertEqual((len(self.pusher.sent), self.pusher.failed), (2, 1))

    def test_log(self) -> None:
        """
        Failures are logged once a minute, with their number.
        """
        with capturedLogs() as logs:
            for _ in range(13):
                self.clock.advance(10)
                self.pusher.sent[-1].errback(OSError("nobody is there"))
        self.assertEqual([event["count"] for event in logs], [1, 6, 6])
        self.assertEqual((self.pusher.failed, logs[0]["why"]), (13, "nobody is there"))

    def test_stop(self) -> None:
        """
        What is under way is given up without a word, and no timer is left.
        """
        self.clock.advance(10)
        with capturedLogs() as logs:
            self.pusher.stop()
        self.assertEqual((logs, self.clock.getDelayedCalls()), ([], []))


class _Answer(Resource):
    """
    Answers each push in one way.
    """

    isLeaf = True

    def __init__(self, status: int, text: bytes) -> None:
        super().__init__()
        self._status = status
        self._text = text

    def render_POST(self, request: Request) -> bytes:
        """
        Answer.
        """
        request.setResponseCode(self._status)
        return self._text


class _QuietSite(Site):
    """
    What is logged is the gateway's.
    """

    noisy = False

    def log(self, request: Any) -> None:
        """
        Nothing.
        """


class HttpPusherTests(TestCase):
    """
    Servers that are not as they should be.
    """

    async def failing(self, port: int) -> str:
        """
        What is logged of a push to there.
        """
        pusher = pusherTo(f"http://127.0.0.1:{port}/fleet", 0.02, "gw", families, reactor)
        assert pusher is not None
        with capturedLogs() as logs:
            pusher.start()
            while not pusher.failed:
                await deferLater(reactor, 0.02)
            pusher.stop()
        self.assertEqual(pusher.pushed, 0)
        await deferLater(reactor, 0.05)
        # One line, however it was tried.
        (line,) = logs
        return str(line["why"])

    async def listen(self, answer: _Answer) -> int:
        """
        A server.

        @return: its port
        """
        port: Any = reactor.listenTCP(0, _QuietSite(answer), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    async def test_refused(self) -> None:
        """
        Why it did not take them is logged, as far as a line goes.
        """
        why = await self.failing(await self.listen(_Answer(404, b'{"error":"database not found: \\"fleet\\""}')))
        self.assertEqual(why, '404 {"error":"database not found: \\"fleet\\""}')
        why = await self.failing(await self.listen(_Answer(500, b"x" * 60_000)))
        self.assertLess(len(why), 300)

    async def test_flood(self) -> None:
        """
        An answer without end is not read to its end.
        """
        self.assertTrue(await self.failing(await self.listen(_Answer(200, b"x" * 1_000_000))))

    async def test_nobody(self) -> None:
        """
        Where nobody listens.
        """
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            self.assertIn("refused", await self.failing(unused.getsockname()[1]))


class InfluxTests(TestCase):
    """
    A real InfluxDB.
    """

    def setUp(self) -> None:
        self.influx = InfluxProcess()
        self.addCleanup(self.influx.close)
        self.influx.start()

    async def pushed(self, spec: str) -> None:
        """
        Push to there until it is in the database; then see it whole.
        """
        pusher = pusherTo(spec, 0.05, "gw 1", families, reactor)
        assert pusher is not None
        pusher.start()
        self.addCleanup(pusher.stop)
        await self.until(lambda: bool(self.influx.query("SELECT * FROM binaryserver_ack_seconds LIMIT 1")))
        pusher.stop()
        self.assertEqual(pusher.failed, 0)
        await deferLater(reactor, 0.1)
        (series,) = self.influx.query("SELECT last(*) FROM binaryserver_ack_seconds GROUP BY *")
        found = dict(zip(series["columns"], series["values"][0], strict=True))
        self.assertEqual(series["tags"], {"instance": "gw 1"})
        self.assertEqual(
            {name: value for name, value in found.items() if name != "time"},
            {"last_+Inf": 4, "last_0.5": 3, "last_1": 3, "last_count": 4, "last_sum": 7.75},
        )
        links = self.influx.query("SELECT last(gauge) FROM binaryserver_links GROUP BY *")
        self.assertEqual({one["tags"]["account"]: one["values"][0][1] for one in links}, {"a": 1, "": 2, "we ird,=": 3})
        (tracks,) = self.influx.query("SELECT last(counter) FROM binaryserver_tracks_total")
        self.assertEqual(tracks["values"][0][1], 7)

    async def until(self, isSo: Callable[[], bool]) -> None:
        """
        Wait for something.
        """
        for _ in range(300):
            if isSo():
                return
            await deferLater(reactor, 0.05)
        raise AssertionError("nothing arrives")

    async def test_http(self) -> None:
        """
        By HTTP.
        """
        await self.pushed(f"http://127.0.0.1:{self.influx.port}/{DATABASE}")

    async def test_udp(self) -> None:
        """
        By UDP.
        """
        await self.pushed(f"udp://localhost:{self.influx.udpPort}")

    async def test_noDatabase(self) -> None:
        """
        A database that is not there is told of.
        """
        pusher = pusherTo(f"http://127.0.0.1:{self.influx.port}/nowhere", 0.05, "gw", families, reactor)
        assert pusher is not None
        with capturedLogs() as logs:
            pusher.start()
            await self.until(lambda: bool(pusher.failed))
            pusher.stop()
        self.assertIn("database not found", logs[0]["why"])
        await deferLater(reactor, 0.1)
