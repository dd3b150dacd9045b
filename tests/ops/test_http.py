"""
Tests for L{binaryserver.ops.http} and L{binaryserver.ops.tail}.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.internet import reactor as globalReactor
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import ClientCreator, Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from binaryserver.bus.memorybus import MemoryBus
from binaryserver.bus.topics import Topics
from binaryserver.errors import BusError
from binaryserver.model import BoxKey, Record
from binaryserver.ops.http import makeSite
from binaryserver.ops.tail import TailQuery
from binaryserver.plugins import BackEndContext
from binaryserver.proto.cloudnext_pb2 import Reject
from binaryserver.proto.md30_pb2 import Message
from binaryserver.session.memorystore import MemorySessionStore
from tests.harness import ASSET, HandBus, World

TOPICS = Topics.named()
STALLED = 30.0
reactor: Any = globalReactor


class Client:
    """
    One connection to the site, and what came over it.
    """

    def __init__(self, site: Any) -> None:
        self.transport: Any = StringTransport()
        self.channel = site.buildProtocol(self.transport.getPeer())
        self.channel.makeConnection(self.transport)
        self.body = b""
        self.isWhole = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self._rest = b""

    def send(self, target: str, method: str = "GET", *lines: str, content: bytes | None = None) -> Client:
        """
        Ask, and read what is answered at once.

        @param lines: of the head, beside the host's unless that is among them
        @param content: a body of JSON
        """
        if content is not None:
            lines = (*lines, "Content-Type: application/json", f"Content-Length: {len(content)}")
        if not any(line.lower().startswith("host:") for line in lines):
            lines = ("Host: localhost", *lines)
        head = "".join(f"{line}\r\n" for line in lines)
        self.channel.dataReceived(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + (content or b""))
        return self.read()

    def read(self) -> Client:
        """
        Read what came since last asked.
        """
        self._rest += self.transport.value()
        self.transport.clear()
        if not self.status and b"\r\n\r\n" in self._rest:
            head, _, self._rest = self._rest.partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            self.status = int(first.split(" ")[1])
            self.headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        if self.headers.get("transfer-encoding") == "chunked":
            self._readChunks()
        else:
            self.body, self._rest = self.body + self._rest, b""
            self.isWhole = len(self.body) == int(self.headers.get("content-length", -1))
        return self

    def _readChunks(self) -> None:
        while b"\r\n" in self._rest:
            length, _, rest = self._rest.partition(b"\r\n")
            size = int(length, 16)
            if len(rest) < size + 2:
                return
            self.body, self._rest = self.body + rest[:size], rest[size + 2 :]
            self.isWhole = self.isWhole or not size

    def events(self) -> list[dict[str, Any]]:
        """
        The lines of the body.
        """
        return [json.loads(line) for line in self.read().body.splitlines()]

    def problem(self) -> dict[str, Any]:
        """
        The body of an error.
        """
        assert self.headers["content-type"] == "application/problem+json", self.headers
        read: dict[str, Any] = json.loads(self.body)
        assert read["status"] == self.status and read["type"] == "about:blank" and read["title"], read
        return read

    def lose(self) -> None:
        """
        The connection is gone; said once.
        """
        channel, self.channel = self.channel, None
        if channel is not None:
            channel.connectionLost(Failure(ConnectionDone()))


def published() -> HandBus:
    """
    What a gateway publishes of two boxes of two accounts: presences, tracks, a message, and a reject.
    """
    world = World()
    box = world.box()
    box.tracks(1, count=2)
    box.publish("m", Message(channel="c1", payload=b"hello", stream=9, index=3).SerializeToString(), packetId=2)
    box.publish("t", b"\xff\xff", packetId=3)
    other = world.box("other-box")
    other.tracks(7, packetId=1, stream=1 << 63)
    return world.bus


class SiteTests(SynchronousTestCase):
    """
    The site over an in-memory bus, by hand-written requests.
    """

    def setUp(self) -> None:
        self.clock: Any = MemoryReactorClock()
        self.bus = MemoryBus("memory:", BackEndContext(self.clock, "--bus", topics=TOPICS.all))
        self.bus.start()
        self.store = MemorySessionStore("memory:", BackEndContext(self.clock, "--sessions"))
        self.site = makeSite(self.bus, self.store, TOPICS, self.clock)

    def fill(self, source: HandBus | None = None) -> HandBus:
        """
        Put on the bus what a gateway published.
        """
        source = source or published()
        for topic, record in source.committed:
            self.bus.publish(topic, self.bus.partitionFor(topic, record.key), [record])
            self.clock.advance(0)
        return source

    def get(self, target: str, method: str = "GET") -> Client:
        """
        The answer to one request.
        """
        client = Client(self.site)
        # A tail that is only forgotten would be resumed by the collection of its garbage.
        self.addCleanup(client.lose)
        return client.send(target, method)

    def test_livez(self) -> None:
        """
        C{/livez} says that the process lives.
        """
        answer = self.get("/livez")
        self.assertEqual((answer.status, answer.headers["content-type"]), (200, "application/json"))
        self.assertEqual(json.loads(answer.body), {"status": "ok"})

    def test_head(self) -> None:
        """
        HEAD has the headers of GET and no body; that of a tail ends at once.
        """
        for path, kind in (("/livez", "application/json"), ("/api/tail", "application/x-ndjson")):
            answer = self.get(path, "HEAD")
            self.assertEqual((answer.status, answer.headers["content-type"], answer.body), (200, kind, b""))

    def test_notThere(self) -> None:
        """
        Every other path is a 404 that says so in the one form of errors.
        """
        for path in ("/", "/api", "/api/", "/api/tails", "/livez/more", "/api/tail/x", "/livez//x", "/%00", "/..%2f"):
            answer = self.get(path)
            self.assertEqual(answer.status, 404, path)
            self.assertEqual(answer.problem()["title"], "Not Found")

    def test_methods(self) -> None:
        """
        What is not GET or HEAD is a 405 that says what is allowed.
        """
        for path in ("/livez", "/api/tail?follow=0"):
            for method in ("POST", "PUT", "DELETE", "OPTIONS", "FROB"):
                answer = self.get(path, method)
                self.assertEqual((answer.status, answer.headers["allow"]), (405, "GET, HEAD"))
                self.assertEqual(answer.problem()["title"], "Method Not Allowed")

    def test_tooLong(self) -> None:
        """
        A tail's address of more than 2,048 bytes is a 414, one of 2,048 is none.
        """
        for length, status in ((2048, 200), (2049, 414)):
            answer = self.get("/api/tail?follow=0&asset=".ljust(length, "a"))
            self.assertEqual(answer.status, status)
        self.assertIn("2048", answer.problem()["detail"])

    def test_badArguments(self) -> None:
        """
        What cannot be understood is a 400 that says what is known.
        """
        for query, words in {
            "tpic=tracks": "unknown argument 'tpic'",
            "topic=trakcs": f"unknown topic 'trakcs'; known: {', '.join(TOPICS._fields)}",
            "topic=tracks&topic=_fields": "unknown topic '_fields'",
            "topic=all": "unknown topic 'all'",
            "topic=named": "unknown topic 'named'",
            "from_start=yes": "from_start is 0 or 1, not 'yes'",
            "from_start=1&from_start=2": "from_start is 0 or 1, not '2'",
            "follow=true": "follow is 0 or 1, not 'true'",
            "asset=%ff": "not UTF-8",
        }.items():
            answer = self.get(f"/api/tail?{query}")
            self.assertEqual(answer.status, 400, query)
            self.assertIn(words, answer.problem()["detail"])

    def test_track(self) -> None:
        """
        A track's line has the cloud protobuf's field names, its key of duplicates and its place at the top.
        """
        self.fill()
        answer = self.get("/api/tail?follow=0&from_start=1&topic=tracks")
        self.assertEqual((answer.status, answer.headers["content-type"]), (200, "application/x-ndjson"))
        self.assertEqual(answer.headers["cache-control"], "no-store")
        self.assertTrue(answer.isWhole)
        first, second, other = answer.events()
        self.assertEqual([first["asset"], first["stream"], first["index"]], [ASSET, "9", "1"])
        self.assertEqual([second["asset"], second["stream"], second["index"]], [ASSET, "9", "2"])
        self.assertEqual([other["asset"], other["stream"], other["index"]], ["other-box", str(1 << 63), "7"])
        self.assertEqual([first["topic"], first["account"], first["protocol"]], [TOPICS.tracks, "dev", "PROTOCOL_MD30"])
        self.assertEqual(first["partition"], self.bus.partitionFor(TOPICS.tracks, f"dev/{ASSET}".encode()))
        self.assertLess(first["offset"], second["offset"])
        self.assertEqual(first["track"]["field_values"], [{"int_value": "1"}])
        self.assertEqual(first["field_labels"], [{"name": "GPS_SPEED", "type": "FIELD_TYPE_INT"}])
        self.assertEqual([first["unindexed"], first["missing_before"]], [False, "0"])

    def test_kinds(self) -> None:
        """
        Without a topic all of them come, in the order in which they were published.
        """
        source = self.fill()
        events = self.get("/api/tail?follow=0&from_start=1").events()
        self.assertEqual([event["topic"] for event in events], [topic for topic, _ in source.committed])
        kinds = {next(kind for kind in ("track", "message", "presence", "code") if kind in event) for event in events}
        self.assertEqual(kinds, {"track", "message", "presence", "code"})

    def test_reject(self) -> None:
        """
        A reject is read as what it is, with its bytes in base64.
        """
        self.fill()
        [reject] = self.get("/api/tail?follow=0&from_start=1&topic=rejects").events()
        self.assertEqual([reject["asset"], reject["code"], reject["source"]], [ASSET, "DECODE", "md30:t"])
        self.assertEqual([reject["payload"], reject["payload_size"]], ["//8=", "2"])

    def test_topics(self) -> None:
        """
        Topics are named short or whole, several of them and one twice alike.
        """
        self.fill()
        whole = self.get("/api/tail?follow=0&from_start=1&topic=binaryserver.tracks").events()
        short = self.get("/api/tail?follow=0&from_start=1&topic=tracks&topic=tracks").events()
        self.assertEqual([len(whole), whole], [3, short])
        two = self.get("/api/tail?follow=0&from_start=1&topic=tracks&topic=messages").events()
        self.assertEqual({event["topic"] for event in two}, {TOPICS.tracks, TOPICS.messages})

    def test_filters(self) -> None:
        """
        Asset and account narrow alone and together; what nobody is gives nothing.
        """
        self.fill()
        for query, assets in {
            "asset=other-box": {"other-box"},
            f"asset={ASSET}&account=dev": {ASSET},
            "account=dev": {ASSET, "other-box"},
            "account=de": set(),
            "asset=other": set(),
            "asset=other-box&account=acme": set(),
        }.items():
            answer = self.get(f"/api/tail?follow=0&from_start=1&{query}")
            self.assertEqual({event["asset"] for event in answer.events()}, assets, query)
            self.assertTrue(answer.isWhole)

    def test_pseudonym(self) -> None:
        """
        A box is found by its own name where its events have a pseudonym, and by that too; nobody else's events are.
        """
        source = published()
        for number, (topic, record) in enumerate(source.committed):
            source.committed[number] = (topic, record._replace(key=record.key.replace(b"other-box", b"p-77")))
        names = {BoxKey("dev", "other-box"): BoxKey("dev", "p-77")}
        self.site = makeSite(self.bus, self.store, TOPICS, self.clock, published=lambda box: names.get(box, box))
        self.fill(source)
        for query, count in (("asset=other-box", 1), ("asset=p-77", 1), (f"asset={ASSET}", 2), ("asset=p-78", 0)):
            answer = self.get(f"/api/tail?follow=0&from_start=1&topic=tracks&{query}")
            self.assertEqual(len(answer.events()), count, query)
        answer = self.get("/api/tail?follow=0&from_start=1&topic=tracks&asset=other-box&account=acme")
        self.assertEqual(answer.events(), [])

    def test_unreadable(self) -> None:
        """
        A record of somebody else's is told by its place and size, and the rest still comes.
        """
        source = published()
        topic, record = source.committed[0]
        source.committed[0] = (topic, record._replace(value=b"\xff\xff\xff"))
        self.fill(source)
        first, *rest = self.get("/api/tail?follow=0&from_start=1").events()
        self.assertEqual(
            first,
            {
                "topic": topic,
                "partition": self.bus.partitionFor(topic, record.key),
                "offset": 0,
                "error": "not a message of this topic",
                "size": 3,
            },
        )
        self.assertEqual(len(rest), len(source.committed) - 1)

    def test_fromNow(self) -> None:
        """
        Without C{from_start} what is there already is not told, and with C{follow=0} the answer is whole at once.
        """
        self.fill()
        answer = self.get("/api/tail?follow=0")
        self.assertEqual((answer.status, answer.body, answer.isWhole), (200, b"", True))

    def test_follow(self) -> None:
        """
        The default follows: the header goes out before any event, each event as it comes, with no end.
        """
        answer = self.get("/api/tail?topic=tracks")
        self.assertEqual((answer.status, answer.body, answer.isWhole), (200, b"", False))
        source = self.fill()
        self.assertEqual(len(answer.events()), 3)
        self.clock.advance(3600)
        self.fill(source)
        self.assertEqual(len(answer.events()), 6)
        self.assertFalse(answer.isWhole or answer.transport.disconnecting)

    def test_gone(self) -> None:
        """
        A client that goes away leaves nothing behind: no reader, no timer of its own.
        """
        answer = self.get("/api/tail?follow=1")
        self.assertEqual(len(self.bus._readers), 1)
        answer.transport.producer.pauseProducing()
        answer.lose()
        self.clock.advance(1)
        self.assertEqual(len(self.bus._readers), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_paused(self) -> None:
        """
        While the client takes nothing, nothing is read for it; once it does, everything follows.
        """
        answer = self.get("/api/tail?topic=tracks")
        source = self.fill()
        answer.transport.producer.pauseProducing()
        self.fill(source)
        self.fill(source)
        # What was being read when the pause came may still be written; no more than that.
        before = len(answer.events())
        self.assertLess(before, 9)
        self.clock.advance(STALLED - 1)
        self.assertEqual(len(answer.events()), before)
        answer.transport.producer.resumeProducing()
        self.assertEqual(len(answer.events()), 9)
        self.clock.advance(STALLED + 1)
        self.assertFalse(answer.transport.disconnected)

    def test_stalled(self) -> None:
        """
        A client that takes nothing for 30 s is dropped, and others go on.
        """
        answer, other = self.get("/api/tail?topic=tracks"), self.get("/api/tail?topic=tracks")
        answer.transport.producer.pauseProducing()
        self.clock.advance(STALLED - 0.1)
        self.assertFalse(answer.transport.disconnected)
        self.clock.advance(0.2)
        self.assertTrue(answer.transport.disconnected)
        answer.lose()
        self.fill()
        self.assertEqual(len(other.events()), 3)
        self.assertEqual(len(self.bus._readers), 1)

    def test_busFails(self) -> None:
        """
        When the bus cannot be read at all, that is said as an error.
        """
        site = makeSite(HandBus(), self.store, TOPICS, self.clock)
        answer = Client(site).send("/api/tail?follow=0&from_start=1")
        self.assertEqual(answer.status, 503)
        self.assertEqual(answer.problem()["detail"], "this bus is not read back")

    def test_busFailsLater(self) -> None:
        """
        When the bus fails with lines out already, the answer is cut short, so that nobody takes it for whole.
        """
        self.fill()
        answer = self.get("/api/tail?topic=tracks&from_start=1")
        [reader] = self.bus._readers
        failed: Deferred[list[Any]] = fail(BusError("the partition has no leader"))
        self.patch(reader, "read", lambda limit: failed)
        self.clock.advance(1)
        self.assertEqual(len(answer.events()), 3)
        self.assertTrue(answer.transport.disconnecting)
        self.assertFalse(answer.isWhole)
        self.assertEqual(len(self.bus._readers), 0)

    def test_goneBeforeItBegan(self) -> None:
        """
        A reader of the bus that is ready after its client has gone is closed again.
        """
        ready: Deferred[Any] = Deferred()
        [given] = [self.successResultOf(self.bus.openReader(TOPICS.all, True))]
        self.patch(self.bus, "openReader", lambda topics, fromStart: ready)
        answer = self.get("/api/tail")
        answer.lose()
        ready.callback(given)
        self.assertEqual(len(self.bus._readers), 0)
        self.assertEqual(answer.read().status, 0)

    def test_many(self) -> None:
        """
        So many may read at once; the next is told to come later, and may once one has gone.
        """
        readers = [self.get("/api/tail") for _ in range(32)]
        self.assertEqual({reader.status for reader in readers}, {200})
        refused = self.get("/api/tail")
        self.assertEqual((refused.status, refused.headers["retry-after"]), (503, "30"))
        self.assertIn("32", refused.problem()["detail"])
        readers[3].lose()
        self.assertEqual(self.get("/api/tail").status, 200)

    def test_largeRecord(self) -> None:
        """
        A record of a megabyte goes out in pieces, no more of them than the client takes.
        """
        reject = Reject(code="DECODE", payload=b"x" * 900_000)
        self.bus.publish(TOPICS.rejects, 0, [Record(b"dev/box", reject.SerializeToString())])
        self.clock.advance(0)
        client = Client(self.site)
        written = client.transport.write

        def write(data: bytes) -> None:
            """
            A transport that is full after each write.
            """
            written(data)
            if len(data) > 1000:
                client.channel.pauseProducing()

        self.patch(client.transport, "write", write)
        self.patch(client.transport, "writeSequence", lambda pieces: write(b"".join(pieces)))
        client.send("/api/tail?topic=rejects&from_start=1&follow=0")
        self.assertLess(len(client.body), 20_000)
        for _ in range(100):
            client.channel.resumeProducing()
        [event] = client.events()
        self.assertEqual(event["payload_size"], "0")
        self.assertEqual(len(event["payload"]), 1_200_000)
        self.assertTrue(client.isWhole)

    def test_unforeseen(self) -> None:
        """
        A fault of ours is an error in the one form of errors, and in the log.
        """
        self.patch(TailQuery, "parse", lambda *_: 1 // 0)
        answer = self.get("/api/tail")
        self.assertEqual((answer.status, answer.problem()["title"]), (500, "Internal Server Error"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_body(self) -> None:
        """
        A body is read away, and kept nowhere.
        """
        client = Client(self.site)
        client.channel.dataReceived(b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1000001\r\n\r\n")
        for _ in range(10):
            client.channel.dataReceived(b"x" * 100_000)
        [request] = client.channel.requests
        self.assertEqual(request.content.getvalue(), b"")
        client.channel.dataReceived(b"x")
        self.assertEqual(client.read().status, 405)

    def test_drip(self) -> None:
        """
        A request that comes byte by byte does not hold its connection for ever.
        """
        client = Client(self.site)
        for _ in range(60):
            client.channel.dataReceived(b"G")
            self.assertFalse(client.transport.disconnecting)
            self.clock.advance(1)
        self.assertTrue(client.transport.disconnecting)

    def test_quiet(self) -> None:
        """
        No asset that was asked for stands in the log.
        """
        seen: list[dict[str, Any]] = []
        observer: Any = seen.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.assertEqual(self.get("/api/tail?follow=0&asset=box-of-mine").status, 200)
        self.assertEqual(self.get("/box-of-mine").status, 404)
        self.assertEqual([text for text in map(repr, seen) if "box-of-mine" in text], [])

    def test_stop(self) -> None:
        """
        When the port closes, tails that follow are cut short, before the bus stops under them.
        """
        answer, paused = self.get("/api/tail"), self.get("/api/tail")
        paused.transport.producer.pauseProducing()
        self.site.doStart()
        self.site.doStop()
        for one in (answer, paused):
            self.assertTrue(one.read().transport.disconnecting)
            self.assertFalse(one.isWhole)
        self.assertEqual(len(self.bus._readers), 0)
        self.successResultOf(self.bus.stop())

    def test_silence(self) -> None:
        """
        A connection on which nothing is asked is closed within a minute or so.
        """
        client = Client(self.site)
        self.clock.advance(59)
        self.assertFalse(client.transport.disconnecting)
        self.clock.advance(2)
        self.assertTrue(client.transport.disconnecting)


class _Deaf(Protocol):
    """
    A client that asks and then reads nothing.
    """

    def __init__(self) -> None:
        self.lost: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        """
        Ask.
        """
        transport: Any = self.transport
        transport.write(b"GET /api/tail?topic=tracks&from_start=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        transport.pauseProducing()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Dropped.
        """
        self.lost.callback(None)


class RealSiteTests(TestCase):
    """
    The site on a real port.
    """

    timeout = 60

    async def test_deaf(self) -> None:
        """
        A client that stops reading stops the reading of the bus too, with some megabytes sent, and is dropped.
        """
        clock = Clock()
        bus = MemoryBus("memory:", BackEndContext(reactor, "--bus", topics=TOPICS.all))
        await bus.start()
        source = published()
        record = next(record for topic, record in source.committed if topic == TOPICS.tracks)
        # As JSON some 25 MB: more than two sockets' buffers hold.
        total = 40_000
        for _ in range(total // 500):
            await bus.publish(TOPICS.tracks, 0, [record] * 500)
        store = MemorySessionStore("memory:", BackEndContext(clock, "--sessions"))
        port = reactor.listenTCP(0, makeSite(bus, store, TOPICS, clock), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        client = await ClientCreator(reactor, _Deaf).connectTCP("127.0.0.1", port.getHost().port)
        while not bus._readers:
            await deferLater(reactor, 0.01)
        [reader] = bus._readers
        position = -1
        while position != reader._position:
            # The sockets' buffers fill up.
            position = reader._position
            await deferLater(reactor, 0.3)
        self.assertTrue(0 < position < total, position)
        stalls = [call for call in clock.getDelayedCalls() if call.getTime() == clock.seconds() + STALLED]
        self.assertEqual(len(stalls), 1)
        clock.advance(STALLED)
        client.transport.resumeProducing()
        await client.lost
        await deferLater(reactor, 0)
        self.assertEqual(len(bus._readers), 0)
        await bus.stop()
