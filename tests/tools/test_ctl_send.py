"""
Tests for L{binaryserver.tools.ctl_send}: what C{binaryserver-ctl send} sends and prints, and its exit status, as a
process of its own.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet import reactor as globalReactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.web.server import Site
from twisted.web.static import Data

from binaryserver.bus.memorybus import MemoryBus
from binaryserver.bus.topics import Topics
from binaryserver.interfaces import IBusReader
from binaryserver.model import BoxKey, Record
from binaryserver.ops.http import makeSite
from binaryserver.plugins import BackEndContext
from binaryserver.proto import cloudnext_pb2
from binaryserver.proto.cloudnext_pb2 import DeliveryStatus, DownlinkMessage, Event, MessageStatus
from binaryserver.session.memorystore import MemorySessionStore
from tests.tools.test_ctl import STAMP, TIME, CtlCase, Program

TOPICS = Topics.named()
QUEUED = cloudnext_pb2.DELIVERY_STATUS_QUEUED
SENT = cloudnext_pb2.DELIVERY_STATUS_SENT
DELIVERED = cloudnext_pb2.DELIVERY_STATUS_DELIVERED
ACKED = cloudnext_pb2.DELIVERY_STATUS_ACKED
REFUSED = cloudnext_pb2.DELIVERY_STATUS_REFUSED
EXPIRED = cloudnext_pb2.DELIVERY_STATUS_EXPIRED
REJECTED = cloudnext_pb2.DELIVERY_STATUS_REJECTED
reactor: Any = globalReactor


class SendCase(CtlCase):
    """
    Sends by a real HTTP side.
    """

    async def setUp(self) -> None:  # type: ignore[override]
        """
        A gateway's HTTP side, and a box that was once connected.
        """
        self.bus = MemoryBus("memory:", BackEndContext(reactor, "--bus", topics=TOPICS.all))
        await self.bus.start()
        self.store = MemorySessionStore("memory:", BackEndContext(reactor, "--sessions"))
        await self.store.claim(BoxKey("acme", "box-1"), "a@1", "md30", "192.0.2.1", TIME, False, "1")
        self.port = reactor.listenTCP(0, makeSite(self.bus, self.store, TOPICS, reactor), interface="127.0.0.1")
        self.addCleanup(self.port.stopListening)
        self.url = f"http://127.0.0.1:{self.port.getHost().port}"
        self.reader: IBusReader = await self.bus.openReader([TOPICS.downlink], False)

    async def tearDown(self) -> None:  # type: ignore[override]
        """
        Nobody reads any more.
        """
        await self.reader.close()
        while self.bus._readers:
            await deferLater(reactor, 0.02)

    async def sent(self) -> DownlinkMessage:
        """
        The next message on the bus.
        """
        while True:
            for record in await self.reader.read(1):
                return DownlinkMessage.FromString(record.value)

    async def status(self, message: DownlinkMessage, status: DeliveryStatus, **fields: Any) -> None:
        """
        Tell what became of it, as the gateway does.
        """
        event = Event(
            account=message.account,
            asset=message.asset,
            event_time=TIME,
            message_status=MessageStatus(message_id=message.id, status=status, **fields),
        )
        record = Record(BoxKey(message.account, message.asset).busKey, event.SerializeToString())
        await self.bus.publish(TOPICS.statuses, self.bus.partitionFor(TOPICS.statuses, record.key), [record])

    def send(self, *arguments: str) -> Program:
        """
        Run it.
        """
        return Program("send", "--http", self.url, *arguments)


class SendTests(SendCase):
    """
    Without C{--wait}.
    """

    async def test_text(self) -> None:
        """
        A text goes to the box's account, under an id of its own, which is told.
        """
        program = self.send("box-1", "c.1", "hé")
        message = await self.sent()
        self.assertEqual((await program.ended, program.errors), (0, b""))
        self.assertRegex(message.id, "^[0-9a-f]{32}$")
        self.assertEqual(program.lines(), [f"message {message.id} for acme/box-1 is on its way"])
        self.assertEqual(
            message,
            DownlinkMessage(id=message.id, account="acme", asset="box-1", channel="c.1", payload="hé".encode()),
        )

    async def test_options(self) -> None:
        """
        Every option arrives; with C{--json} the gateway's answer is printed.
        """
        text = "box-9 c x --account other --expires 30 --no-queue --want-ack --id m-1 --correlation-id c-1 --json"
        program = self.send(*text.split())
        message = await self.sent()
        self.assertEqual((await program.ended, program.errors), (0, b""))
        expiresAt, message.expires_at = message.expires_at, 0
        self.assertTrue(0 < expiresAt / 1000 - reactor.seconds() <= 30)
        self.assertEqual(
            message,
            DownlinkMessage(
                id="m-1",
                account="other",
                asset="box-9",
                channel="c",
                payload=b"x",
                no_queue=True,
                want_ack=True,
                correlation_id="c-1",
            ),
        )
        [told] = map(json.loads, program.lines())
        self.assertEqual(
            told,
            {
                "id": "m-1",
                "account": "other",
                "asset": "box-9",
                "topic": TOPICS.downlink,
                "partition": self.bus.partitionFor(TOPICS.downlink, b"other/box-9"),
            },
        )

    async def test_file(self) -> None:
        """
        C{@FILE} sends what stands in a file, whatever bytes those are.
        """
        path = Path(self.mktemp())
        path.write_bytes(b"\x00\xff\n")
        program = self.send("box-1", "c", f"@{path.absolute()}")
        self.assertEqual((await self.sent()).payload, b"\x00\xff\n")
        self.assertEqual(await program.ended, 0)

    async def test_standardInput(self) -> None:
        """
        C{-} sends what comes on standard input.
        """
        program = self.send("box-1", "c", "-")
        program.transport.write(b"\xff" * 100_000)
        program.transport.closeStdin()
        self.assertEqual((await self.sent()).payload, b"\xff" * 100_000)
        self.assertEqual(await program.ended, 0)

    async def test_badPayload(self) -> None:
        """
        A payload that cannot be read, or that no gateway takes, is one line.
        """
        text = await self.failing("send", "--http", self.url, "box-1", "c", "@/none/such")
        self.assertIn("PAYLOAD: /none/such: No such file", text)
        text = await self.failing("send", "--http", self.url, "box-1", "c", "@/dev/zero")
        self.assertIn("PAYLOAD: /dev/zero has more than 1048576 bytes", text)
        path = Path(self.mktemp())
        path.write_bytes(b"x" * 500_000)
        text = await self.failing("send", "--http", self.url, "box-1", "c", f"@{path.absolute()}")
        self.assertIn("413 Request Entity Too Large", text)

    async def test_refused(self) -> None:
        """
        What the gateway will not send is told in its own words.
        """
        for arguments, words in (
            (("box-9", "c", "x"), "404 Not Found: no box box-9 was ever connected: say whose it is (account, or --acc"),
            (("box-1", "a b", "x"), "400 Bad Request: channel is to be 1 to 64 of"),
            (("box-1", "c", "x", "--wait", "--account", "é"), "400 Bad Request: account is to be"),
        ):
            self.assertIn(words, await self.failing("send", "--http", self.url, *arguments))

    async def test_usage(self) -> None:
        """
        A command line that cannot be understood ends with status 2.
        """
        for arguments, words in (
            (("box-1", "c"), b"PAYLOAD"),
            (("box-1", "c", "x", "--expires", "0"), b"'0' is no number of seconds"),
            (("box-1", "c", "x", "--timeout", "nan"), b"'nan' is no number of seconds"),
            (("box-1", "c", "x", "--expires", "soon"), b"'soon' is no number of seconds"),
        ):
            program = self.send(*arguments)
            self.assertEqual((await program.ended, program.output), (2, b""))
            self.assertIn(words, program.errors)


class WaitTests(SendCase):
    """
    With C{--wait}.
    """

    async def outcome(self, statuses: Sequence[tuple[DeliveryStatus, dict[str, Any]]], *options: str) -> Program:
        """
        Send a message, and let this become of it.
        """
        program = self.send("box-1", "c", "x", "--id", "m-1", "--wait", *options)
        message = await self.sent()
        for status, fields in statuses:
            await self.status(message, status, **fields)
        await program.ended
        return program

    async def test_acked(self) -> None:
        """
        Progress is printed as it comes; acked ends with status 0.
        """
        program = await self.outcome(
            [(QUEUED, {}), (SENT, {"attempts": 1}), (SENT, {"attempts": 2}), (DELIVERED, {}), (ACKED, {"attempts": 2})]
        )
        self.assertEqual((program.ended.result, program.errors), (0, b""))
        self.assertEqual(
            program.lines(),
            ["message m-1 for acme/box-1 is on its way"]
            + [
                f"{STAMP} acme/box-1 status m-1 {words}"
                for words in (
                    "queued",
                    "sent (attempt 1)",
                    "sent (attempt 2)",
                    "delivered",
                    "acked (attempt 2)",
                )
            ],
        )

    async def test_notDelivered(self) -> None:
        """
        Every other final status ends with status 1, and its reason is told.
        """
        for status, reason, words in (
            (REFUSED, "BOX_AWAY", "refused BOX_AWAY"),
            (EXPIRED, "", "expired"),
            (REJECTED, "BAD_CHANNEL", "rejected BAD_CHANNEL"),
        ):
            program = await self.outcome([(status, {"reason": reason})])
            self.assertEqual((program.ended.result, program.errors), (1, b""))
            self.assertEqual(program.lines()[1:], [f"{STAMP} acme/box-1 status m-1 {words}"])

    async def test_json(self) -> None:
        """
        With C{--json} there is the answer, and then the final status alone, as C{tail} has it.
        """
        program = await self.outcome([(QUEUED, {}), (ACKED, {"attempts": 3})], "--json")
        self.assertEqual((program.ended.result, program.errors), (0, b""))
        told, status = map(json.loads, program.lines())
        self.assertEqual((told["id"], told["account"]), ("m-1", "acme"))
        self.assertEqual((status["topic"], status["account"], status["asset"]), (TOPICS.statuses, "acme", "box-1"))
        self.assertEqual(
            [status["message_status"][name] for name in ("message_id", "status", "attempts")],
            ["m-1", "DELIVERY_STATUS_ACKED", 3],
        )

    async def test_late(self) -> None:
        """
        No final status in time is status 3, and says so.
        """
        program = await self.outcome([(QUEUED, {})], "--timeout", "0.5")
        self.assertEqual(program.ended.result, 3)
        self.assertEqual(
            program.errors,
            b"binaryserver-ctl: message m-1 has no final status after 0.5 s; "
            b"a box's second message of one id has none\n",
        )

    async def test_others(self) -> None:
        """
        Another message's status, and that of the same id to another account's box of this name, are not taken for it.
        """
        program = self.send("box-1", "c", "x", "--id", "m-1", "--wait")
        message = await self.sent()
        for one in (
            DownlinkMessage(id="m-2", account="acme", asset="box-1"),
            DownlinkMessage(id="m-1", account="other", asset="box-1"),
        ):
            await self.status(one, REFUSED)
        await self.status(message, ACKED)
        self.assertEqual(await program.ended, 0)
        self.assertEqual(len(program.lines()), 2)

    async def test_before(self) -> None:
        """
        The statuses are read before the message is sent: none is missed, however fast it comes.
        """
        publish = self.bus.publish
        seen: list[int] = []

        def faster(topic: str, partition: int, records: Sequence[Record]) -> Deferred[None]:
            if topic == TOPICS.downlink:
                seen.append(len(self.bus._readers))
                Deferred.fromCoroutine(self.status(DownlinkMessage.FromString(records[0].value), ACKED))
            return publish(topic, partition, records)

        self.patch(self.bus, "publish", faster)
        program = self.send("box-1", "c", "x", "--wait", "--timeout", "20")
        self.assertEqual((await program.ended, program.errors), (0, b""))
        self.assertEqual(seen, [2])

    async def test_interrupted(self) -> None:
        """
        Ctrl-C ends it with status 3 and no complaint.
        """
        program = self.send("box-1", "c", "x", "--wait")
        message = await self.sent()
        await self.status(message, QUEUED)
        while program.output.count(b"\n") < 2:
            await deferLater(reactor, 0.02)
        program.transport.signalProcess(signal.SIGINT)
        self.assertEqual((await program.ended, program.errors), (3, b""))

    async def test_gatewayEnds(self) -> None:
        """
        A gateway that stops meanwhile leaves it unknown: one line and status 3.
        """
        program = self.send("box-1", "c", "x", "--id", "m-1", "--wait")
        await self.sent()
        while program.output.count(b"\n") < 1:
            await deferLater(reactor, 0.02)
        await self.port.stopListening()
        self.assertEqual(await program.ended, 3)
        self.assertEqual(program.errors.count(b"\n"), 1, program.errors)


class NoGatewayTests(CtlCase):
    """
    Where no gateway is.
    """

    async def test_nobody(self) -> None:
        """
        Nothing listens there: it was not sent.
        """
        port = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
        url = f"http://127.0.0.1:{port.getHost().port}"
        await port.stopListening()
        for options in ((), ("--wait",)):
            self.assertIn(f"{url}: ", await self.failing("send", "--http", url, "box-1", "c", "x", *options))
        self.assertIn("is no http:// URL", await self.failing("send", "--http", "nonsense", "box-1", "c", "x"))

    async def test_otherServer(self) -> None:
        """
        Another HTTP server takes no messages.
        """
        page = Data(b"<html></html>", "text/html")
        page.isLeaf = True
        site = Site(page)
        site.noisy = False
        site.log = lambda request: None  # type: ignore[method-assign]
        url = self.serve(site)
        self.assertIn("is this a gateway's HTTP side?", await self.failing("send", "--http", url, "b", "c", "x"))

    async def test_cut(self) -> None:
        """
        Where the gateway had the request and gave no answer, nobody knows: status 3.
        """

        class Cut(Protocol):
            def dataReceived(self, data: bytes) -> None:
                transport: Any = self.transport
                transport.loseConnection()

        program = Program("send", "--http", self.serve(Factory.forProtocol(Cut)), "box-1", "c", "x")
        self.assertEqual((await program.ended, program.errors.count(b"\n")), (3, 1), program.errors)
