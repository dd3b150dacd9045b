"""
Tests for L{binaryserver.tools.ctl}: what it prints, and its exit status, as a process of its own.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as globalReactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.server import Site
from twisted.web.static import Data

import binaryserver
from binaryserver.bus.memorybus import MemoryBus
from binaryserver.bus.topics import Topics
from binaryserver.model import BoxKey, Record, StoredRecord
from binaryserver.ops.http import makeSite
from binaryserver.ops.tail import recordToJson
from binaryserver.plugins import BackEndContext
from binaryserver.proto.cloudnext_pb2 import (
    DeliveryStatus,
    DirectoryChange,
    DownlinkMessage,
    Event,
    FieldLabel,
    Message,
    MessageStatus,
    Presence,
    PresenceType,
    Reject,
)
from binaryserver.proto.md30_pb2 import AckStatus, Track, Value
from binaryserver.session.memorystore import MemorySessionStore
from binaryserver.tools.ctl_tail import describe

TOPICS = Topics.named()
TIME = 1_790_000_000_123
STAMP = "2026-09-21T14:13:20.123Z"
reactor: Any = globalReactor


def line(message: Event | Reject) -> str:
    """
    One event as it comes over HTTP, described.
    """
    topic = TOPICS.rejects if isinstance(message, Reject) else TOPICS.tracks
    return describe(json.loads(recordToJson(StoredRecord(topic, 1, 2, 3, b"", message.SerializeToString()), TOPICS)))


def event(**fields: Any) -> Event:
    """
    An event of one box.
    """
    return Event(account="acme", asset="box-1", event_time=TIME, **fields)


class DescribeTests(SynchronousTestCase):
    """
    Every kind of event in one line.
    """

    def test_track(self) -> None:
        """
        A track has its index, its position in degrees, and its fields by name, or by number where it has none.
        """
        track = Track(
            latitude=488_566_123,
            longitude=-23_522_000,
            field_numbers=[8, 77, 9, 24],
            field_values=[Value(int_value=5), Value(string_value="x"), Value(bool_value=True), Value()],
        )
        labels = [FieldLabel(name="GPS_SPEED"), FieldLabel(), FieldLabel(name="GPS_DIR"), FieldLabel(name="EMPTY")]
        self.assertEqual(
            line(event(stream=9, index=4, track=track, field_labels=labels)),
            f"{STAMP} acme/box-1 track 9:4 48.85661,-2.35220 GPS_SPEED=5 77=x GPS_DIR=True EMPTY=",
        )

    def test_bareTrack(self) -> None:
        """
        A track without position, fields or index.
        """
        self.assertEqual(line(event(unindexed=True, track=Track())), f"{STAMP} acme/box-1 track unindexed ")

    def test_unlabelled(self) -> None:
        """
        Fields without labels go by their numbers.
        """
        track = Track(field_numbers=[8], field_values=[Value(double_value=1.5)])
        self.assertEqual(line(event(stream=1, index=0, track=track)), f"{STAMP} acme/box-1 track 1:0 8=1.5")

    def test_message(self) -> None:
        """
        A message has its channel, and its payload in base64.
        """
        message = Message(channel="c.1", payload=b"hello")
        self.assertEqual(line(event(message=message)), f"{STAMP} acme/box-1 message c.1 aGVsbG8=")

    def test_answer(self) -> None:
        """
        An application's answer says what it answers, and how.
        """
        message = Message(channel="c.1", ack_of="m-1", ack_status=AckStatus.ACK_STATUS_NO_LISTENER)
        self.assertEqual(line(event(message=message)), f"{STAMP} acme/box-1 message c.1 answers m-1: NO_LISTENER")

    def test_status(self) -> None:
        """
        A message's status has its id, and of reason and attempts what there is.
        """
        for fields, words in (
            ({"status": DeliveryStatus.DELIVERY_STATUS_QUEUED}, "queued"),
            ({"status": DeliveryStatus.DELIVERY_STATUS_SENT, "attempts": 2}, "sent (attempt 2)"),
            ({"status": DeliveryStatus.DELIVERY_STATUS_REFUSED, "reason": "BOX_AWAY"}, "refused BOX_AWAY"),
        ):
            status = MessageStatus(message_id="m-1", **fields)
            self.assertEqual(line(event(message_status=status)), f"{STAMP} acme/box-1 status m-1 {words}")

    def test_downlink(self) -> None:
        """
        A message for a box has its id, or its place, its channel, its payload in base64, and what is asked for.
        """
        for fields, words in (
            ({"id": "m-1"}, "m-1 c.1 aGVsbG8="),
            ({}, f"{TOPICS.downlink}/1/2 c.1 aGVsbG8="),
            ({"id": "a", "no_queue": True, "want_ack": True}, "a c.1 aGVsbG8= no_queue want_ack"),
            ({"id": "a", "expires_at": TIME}, f"a c.1 aGVsbG8= expires_at={STAMP}"),
        ):
            value = DownlinkMessage(account="acme", asset="box-1", channel="c.1", payload=b"hello", **fields)
            record = StoredRecord(TOPICS.downlink, 1, 2, TIME, b"", value.SerializeToString())
            self.assertEqual(describe(json.loads(recordToJson(record, TOPICS))), f"acme/box-1 downlink {words}")

    def test_presence(self) -> None:
        """
        A presence has its type, and of reason, detail and address what there is.
        """
        for fields, words in (
            ({"type": PresenceType.PRESENCE_TYPE_CONNECT, "peer_address": "192.0.2.7"}, "connect 192.0.2.7"),
            ({"type": PresenceType.PRESENCE_TYPE_DISCONNECT, "reason": "PPP_LOST"}, "disconnect PPP_LOST"),
            (
                {"type": PresenceType.PRESENCE_TYPE_DISCONNECT, "reason": "NETWORK_ERROR", "detail": "a bad packet"},
                "disconnect NETWORK_ERROR a bad packet",
            ),
            ({"type": PresenceType.PRESENCE_TYPE_FAILED_CONNECT}, "failed_connect"),
        ):
            self.assertEqual(line(event(presence=Presence(**fields))), f"{STAMP} acme/box-1 {words}")

    def test_reject(self) -> None:
        """
        A reject has its code and reason, and not its bytes.
        """
        reject = Reject(
            account="acme", asset="box-1", code="DECODE", reason="no batch", payload=b"secret", ingest_time=TIME
        )
        self.assertEqual(line(reject), f"{STAMP} acme/box-1 rejected DECODE: no batch")

    def test_directory(self) -> None:
        """
        A change of the directory has what it is about.
        """
        for change, words in (
            (DirectoryChange(account="acme", asset="box-1"), "acme/box-1"),
            (DirectoryChange(account="acme"), "acme"),
            (DirectoryChange(), "everything"),
        ):
            record = StoredRecord(TOPICS.directory, 1, 2, TIME, b"", change.SerializeToString())
            self.assertEqual(describe(json.loads(recordToJson(record, TOPICS))), f"directory changed {words}")

    def test_unreadable(self) -> None:
        """
        A record that is no event is told by its place.
        """
        place = {"topic": "t", "partition": 3, "offset": 17, "error": "not a message of this topic", "size": 4}
        self.assertEqual(describe(place), "t 3 17: not a message of this topic")

    def test_controls(self) -> None:
        """
        What a terminal would obey never reaches it, wherever a box put it.
        """
        bad = "a\x1b[2Jb\r\n\x07\x9bc\u202ed"
        shown = "a�[2Jb����c�d"
        track = Track(field_numbers=[1], field_values=[Value(string_value=bad)])
        for message in (
            event(track=track, field_labels=[FieldLabel(name="F")], unindexed=True),
            event(presence=Presence(reason=bad)),
            event(message=Message(channel=bad)),
            Event(account=bad, asset="x", message=Message()),
            Reject(reason=bad, asset=bad),
        ):
            self.assertIn(shown, line(message))

    @given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
    def test_printable(self, asset: str, reason: str, detail: str) -> None:
        """
        Whatever the texts are, the line is one line of printable characters.
        """
        shown = line(Event(asset=asset, presence=Presence(reason=reason, detail=detail)))
        self.assertTrue(shown.isprintable(), shown)


class Program(ProcessProtocol):
    """
    One run of the program.

    @ivar output: what it printed
    @ivar errors: what it printed to standard error
    @ivar ended: fires with its exit status, negative for a signal
    """

    transport: Any

    def __init__(
        self,
        *arguments: str,
        firstOutput: Callable[[Program], None] = lambda program: None,
        environment: Mapping[str, str] | None = None,
        hasTerminal: bool = False,
    ) -> None:
        """
        @param firstOutput: called as soon as it has printed something
        @param environment: on top of our own
        @param hasTerminal: it runs at one, and so sees no end of its input
        """
        self.output = b""
        self.errors = b""
        self.ended: Deferred[int] = Deferred()
        self._firstOutput = firstOutput
        root = str(Path(binaryserver.__file__).parents[1])
        command = [sys.executable, "-m", "binaryserver.tools.ctl", *arguments]
        whole = {**os.environ, "PYTHONPATH": root, **(environment or {})}
        reactor.spawnProcess(self, sys.executable, command, whole, usePTY=hasTerminal)

    def outReceived(self, data: bytes) -> None:
        """
        See L{ProcessProtocol.outReceived}.
        """
        isFirst = not self.output
        self.output += data
        if isFirst:
            self._firstOutput(self)

    def errReceived(self, data: bytes) -> None:
        """
        See L{ProcessProtocol.errReceived}.
        """
        self.errors += data

    def processEnded(self, reason: Failure) -> None:
        """
        See L{ProcessProtocol.processEnded}.
        """
        value: Any = reason.value
        self.ended.callback(value.exitCode if value.signal is None else -value.signal)

    def lines(self) -> list[str]:
        """
        What it printed.
        """
        return self.output.decode().splitlines()


class CtlCase(TestCase):
    """
    Runs the program.
    """

    timeout = 60

    async def failing(self, *arguments: str) -> str:
        """
        Run it, see it fail with one line and status 1, and give that line.
        """
        program = Program(*arguments)
        status = await program.ended
        self.assertEqual((status, program.output), (1, b""), program.errors.decode())
        text = program.errors.decode()
        self.assertTrue(text.startswith("binaryserver-ctl: ") and text.count("\n") == 1 and text[-1] == "\n", text)
        return text

    def serve(self, factory: Any) -> str:
        """
        Listen, and give the URL.
        """
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return f"http://127.0.0.1:{port.getHost().port}"


class TailTests(CtlCase):
    """
    C{tail} from a real HTTP side.
    """

    async def setUp(self) -> None:  # type: ignore[override]
        """
        A gateway's HTTP side over a bus with two boxes' tracks on it.
        """
        self.bus = MemoryBus("memory:", BackEndContext(reactor, "--bus", topics=TOPICS.all))
        await self.bus.start()
        self.store = MemorySessionStore("memory:", BackEndContext(reactor, "--sessions"))
        self.url = self.serve(makeSite(self.bus, self.store, TOPICS, reactor))
        for index in range(1, 4):
            await self.publish("box-1", index)
        await self.publish("box-2", 1)

    async def tearDown(self) -> None:  # type: ignore[override]
        """
        Once its client is gone a tail goes too.
        """
        while self.bus._readers:
            await deferLater(reactor, 0.02)

    async def publish(self, asset: str, index: int) -> None:
        """
        One track onto the bus.
        """
        track = Event(account="acme", asset=asset, event_time=TIME, stream=9, index=index, track=Track())
        record = Record(BoxKey("acme", asset).busKey, track.SerializeToString())
        await self.bus.publish(TOPICS.tracks, self.bus.partitionFor(TOPICS.tracks, record.key), [record])

    async def test_text(self) -> None:
        """
        Lines for a person, of one box, all that is there, and then the end with status 0.
        """
        program = Program("tail", "--http", self.url, "--asset", "box-1", "--from-start", "--no-follow")
        self.assertEqual((await program.ended, program.errors), (0, b""))
        self.assertEqual(program.lines(), [f"{STAMP} acme/box-1 track 9:{index} " for index in (1, 2, 3)])

    async def test_json(self) -> None:
        """
        C{--json} gives one object a line with asset, stream and index at its top.
        """
        program = Program(
            "tail", "--http", self.url + "/", "--json", "--from-start", "--no-follow", "--topic", "tracks"
        )
        self.assertEqual((await program.ended, program.errors), (0, b""))
        events = [json.loads(text) for text in program.lines()]
        self.assertEqual(
            [(event["asset"], event["stream"], event["index"], event["topic"]) for event in events],
            [(asset, "9", index, TOPICS.tracks) for asset, index in
             (("box-1", "1"), ("box-1", "2"), ("box-1", "3"), ("box-2", "1"))],
        )  # fmt: skip

    async def test_filters(self) -> None:
        """
        What is asked for and is not there is no failure.
        """
        for arguments in (("--account", "other"), ("--topic", "rejects", "--topic", "messages"), ()):
            start = ("--from-start",) if arguments else ()
            program = Program("tail", "--http", self.url, "--no-follow", *start, *arguments)
            self.assertEqual((await program.ended, program.output, program.errors), (0, b"", b""))

    async def test_follow(self) -> None:
        """
        It prints each event as it comes, and Ctrl-C ends it with status 0 and no complaint.
        """
        program = Program(
            "tail", "--http", self.url, firstOutput=lambda program: program.transport.signalProcess(signal.SIGINT)
        )
        while not self.bus._readers:
            await deferLater(reactor, 0.02)
        await self.publish("box-3", 7)
        self.assertEqual((await program.ended, program.errors), (0, b""))
        self.assertEqual(program.lines(), [f"{STAMP} acme/box-3 track 9:7 "])

    async def test_brokenPipe(self) -> None:
        """
        When whoever reads it has seen enough it ends with status 0 and no complaint.
        """
        closed: Deferred[None] = Deferred()

        def first(program: Program) -> None:
            program.transport.closeStdout()
            closed.callback(None)

        program = Program("tail", "--http", self.url, "--from-start", firstOutput=first)
        await closed
        await self.publish("box-1", 4)
        await self.publish("box-1", 5)
        self.assertEqual((await program.ended, program.errors), (0, b""))

    async def test_refused(self) -> None:
        """
        What the gateway refuses is told in its own words.
        """
        text = await self.failing("tail", "--http", self.url, "--topic", "trakcs")
        self.assertIn("400 Bad Request: unknown topic 'trakcs'; known: tracks, messages, presences, rejects", text)

    async def test_cut(self) -> None:
        """
        A gateway that ends in the middle of an answer is told, and is no success.
        """

        class Cut(Protocol):
            def dataReceived(self, data: bytes) -> None:
                transport: Any = self.transport
                head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: application/x-ndjson\r\n\r\n"
                transport.write(head + b'1d\r\n{"topic": "t", "error": "e"}\n\r\n')
                transport.loseConnection()

        program = Program("tail", "--http", self.serve(Factory.forProtocol(Cut)))
        self.assertEqual((await program.ended, program.errors.count(b"\n")), (1, 1), program.errors)
        self.assertEqual(program.lines(), ["t None None: e"])


class NoGatewayTests(CtlCase):
    """
    C{tail} where no gateway is: one line and status 1.
    """

    async def test_nobody(self) -> None:
        """
        Nothing listens there.
        """
        port = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
        url = f"http://127.0.0.1:{port.getHost().port}"
        await port.stopListening()
        self.assertIn(f"{url}: ", await self.failing("tail", "--http", url))

    async def test_badUrl(self) -> None:
        """
        What is no HTTP URL.
        """
        for url in ("127.0.0.1:8080", "http://127.0.0.1:x", "http://", "http://[::1", "ftp://127.0.0.1", ""):
            self.assertIn("http", await self.failing("tail", "--http", url), url)

    async def test_otherServer(self) -> None:
        """
        Another HTTP server, which knows no C{/api/tail}, or answers everything with a page.
        """
        site = Site(Data(b"", "text/plain"))
        site.noisy = False
        site.log = lambda request: None  # type: ignore[method-assign]
        site.resource.isLeaf = False
        self.assertIn(": 404 Not Found", await self.failing("tail", "--http", self.serve(site)))
        page = Data(b"<html>\xff</html>\n", "text/html")
        page.isLeaf = True
        site.resource = page
        await self.failing("tail", "--http", self.serve(site))

    async def test_noHttp(self) -> None:
        """
        A server of another protocol.
        """

        class Other(Protocol):
            def connectionMade(self) -> None:
                transport: Any = self.transport
                transport.write(b"220 smtp ready\r\n")
                transport.loseConnection()

        await self.failing("tail", "--http", self.serve(Factory.forProtocol(Other)))


class TopicsTests(CtlCase):
    """
    C{topics create} on the embedded bus.
    """

    async def test_create(self) -> None:
        """
        It makes what is missing and says so; a second run finds it all; a bus of another prefix is another's.
        """
        path = os.path.abspath(self.mktemp())
        command = ("topics", "create", "--bus", f"sqlite:{path}", "--partitions", "3", "--replication", "1")
        for prefix, word in (
            ("binaryserver.", "made"),
            ("binaryserver.", "is there already"),
            ("other.", "made"),
        ):
            program = Program(*command, "--topic-prefix", prefix)
            self.assertEqual((await program.ended, program.errors), (0, b""))
            self.assertEqual(program.lines(), [f"{topic}: {word}" for topic in Topics.named(prefix).all])

    async def test_badBus(self) -> None:
        """
        A bus that cannot be understood or opened is one line that names the option.
        """
        for spec in ("nosuch:x", "sqlite:", "sqlite:/dev/null/bus.sqlite"):
            text = await self.failing("topics", "create", "--bus", spec)
            self.assertTrue(text.startswith("binaryserver-ctl: --bus: "), text)

    async def test_environment(self) -> None:
        """
        The bus may be named in the environment, as the gateway's is.
        """
        environment = {"BINARYSERVER_BUS": f"sqlite:{os.path.abspath(self.mktemp())}"}
        program = Program("topics", "create", environment=environment)
        self.assertEqual((await program.ended, program.errors), (0, b""))
        self.assertEqual(program.lines(), [f"{topic}: made" for topic in TOPICS.all])

    async def test_secret(self) -> None:
        """
        A password on the command line is refused, and not quoted.
        """
        program = Program("topics", "create", "--bus", "kafka://h:9092?sasl.username=u&sasl.password=geheim")
        self.assertEqual((await program.ended, program.output), (2, b""))
        self.assertIn(b"argument --bus: everybody on this host can see a password here", program.errors)
        self.assertNotIn(b"geheim", program.errors)

    async def test_usage(self) -> None:
        """
        A command line that cannot be understood ends with status 2 and says what is wrong.
        """
        for arguments, words in (
            ((), b"COMMAND"),
            (("topics",), b"ACTION"),
            (("topics", "create"), b"--bus"),
            (("topics", "create", "--bus", "memory:", "--partitions", "0"), b"'0' is no whole number of at least 1"),
            (("topics", "create", "--bus", "memory:", "--replication", "x"), b"'x' is no whole number"),
            (("tail", "--what"), b"--what"),
        ):
            program = Program(*arguments)
            self.assertEqual((await program.ended, program.output), (2, b""))
            self.assertIn(words, program.errors)
            self.assertNotIn(b"Traceback", program.errors)
