"""
Tests for L{binaryserver.ops.messages}, L{binaryserver.ops.outlet}, L{binaryserver.ops.fields},
L{binaryserver.ops.body}, and C{/api/messages} of L{binaryserver.ops.http}.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.bus.memorybus import MemoryBus
from binaryserver.bus.topics import Topics
from binaryserver.errors import BusError, StoreUnavailable
from binaryserver.model import BoxKey, Record, StoredRecord
from binaryserver.ops import body, outlet
from binaryserver.ops.http import makeSite
from binaryserver.ops.messages import Ask
from binaryserver.ops.tail import recordToJson
from binaryserver.plugins import BackEndContext
from binaryserver.proto.cloudnext_pb2 import DownlinkMessage
from binaryserver.session.memorystore import MemorySessionStore
from tests.ops.test_http import Client

TOPICS = Topics.named()
NOW = 1_790_000_000_000
LEAST = {"asset": "box-1", "channel": "c", "text": "hello"}


def asked(**fields: Any) -> Ask:
    """
    What a body asks for.
    """
    return Ask.parse(json.dumps({**LEAST, **fields}).encode(), NOW)


class AskTests(SynchronousTestCase):
    """
    What a body may say.
    """

    def test_least(self) -> None:
        """
        Asset, channel and payload are enough; the id is drawn, another one each time.
        """
        first, second = asked(), asked()
        self.assertEqual(first._replace(id=""), Ask("", "box-1", "c", b"hello", "", "", 0, False, False))
        self.assertRegex(first.id, "^[0-9a-f]{32}$")
        self.assertNotEqual(first.id, second.id)

    def test_all(self) -> None:
        """
        Every field arrives; C{null} is as good as none.
        """
        self.assertEqual(
            asked(
                account="acme",
                text=None,
                payload=base64.b64encode(b"\x00\xff").decode(),
                id="m-1",
                correlation_id="é",
                expires_in=1.5,
                expires_at=None,
                no_queue=True,
                want_ack=True,
            ),
            Ask("acme", "box-1", "c", b"\x00\xff", "m-1", "é", NOW + 1500, True, True),
        )

    def test_expiry(self) -> None:
        """
        A time, as a number or as protobuf's JSON writes it; one that has passed is the sender's own business.
        """
        for given_, expiresAt in (
            ({"expires_at": NOW + 5}, NOW + 5),
            ({"expires_at": float(NOW + 5)}, NOW + 5),
            ({"expires_at": str(NOW - 5)}, NOW - 5),
            ({"expires_in": 0.0001}, NOW + 1),
            ({"expires_in": 60}, NOW + 60_000),
            ({}, 0),
        ):
            self.assertEqual(asked(**given_).expiresAt, expiresAt)

    def test_record(self) -> None:
        """
        The record has the box's key, the message in protobuf, and a header that says so.
        """
        ask = asked(account="acme", id="m-1", correlation_id="c-9", expires_in=1, no_queue=True, want_ack=True)
        record = ask.record(BoxKey("acme", "box-1"))
        self.assertEqual(
            (record.key, list(record.headers)), (b"acme/box-1", [("content-type", b"application/protobuf")])
        )
        self.assertEqual(
            DownlinkMessage.FromString(record.value),
            DownlinkMessage(
                id="m-1",
                account="acme",
                asset="box-1",
                channel="c",
                payload=b"hello",
                expires_at=NOW + 1000,
                no_queue=True,
                want_ack=True,
                correlation_id="c-9",
            ),
        )

    def test_bad(self) -> None:
        """
        What cannot be a message is told by the name of what is wrong.
        """
        for fields, words in (
            ({"asset": ""}, "asset is to be"),
            ({"asset": None}, "asset is to be"),
            ({"asset": 5}, "asset is no text"),
            ({"asset": "a/b"}, "asset is to be"),
            ({"asset": "a" * 108}, "asset is to be"),
            ({"account": "a b"}, "account is to be"),
            ({"account": []}, "account is no text"),
            ({"channel": "é"}, "channel is to be"),
            ({"text": 5}, "text is no text"),
            ({"text": "\ud800"}, "half a surrogate"),
            ({"text": None}, "one of payload (base64) and text"),
            ({"payload": ""}, "one of payload (base64) and text"),
            ({"text": None, "payload": "a"}, "payload is no base64"),
            ({"text": None, "payload": "a-_b"}, "payload is no base64"),
            ({"text": None, "payload": "é"}, "payload is no base64"),
            ({"text": None, "payload": 5}, "payload is no base64"),
            ({"id": "é" * 65}, "id has more than 128 bytes"),
            ({"id": "\udfff"}, "half a surrogate"),
            ({"id": 7}, "id is no text"),
            ({"correlation_id": "x" * 129}, "correlation_id has more than"),
            ({"expires_in": 0}, "expires_in is to be"),
            ({"expires_in": -1}, "expires_in is to be"),
            ({"expires_in": True}, "expires_in is to be"),
            ({"expires_in": "5"}, "expires_in is to be"),
            ({"expires_in": float("nan")}, "expires_in is to be"),
            ({"expires_in": float("inf")}, "expires_in is to be"),
            ({"expires_in": 1e9}, "expires_in is to be"),
            ({"expires_at": 0}, "expires_at is to be"),
            ({"expires_at": 1.5}, "expires_at is to be"),
            ({"expires_at": False}, "expires_at is to be"),
            ({"expires_at": "9" * 25}, "expires_at is to be"),
            ({"expires_at": NOW * 2}, "expires_at is to be"),
            ({"expires_at": NOW, "expires_in": 5}, "do not go together"),
            ({"no_queue": 1}, "no_queue is to be true or false"),
            ({"want_ack": "yes"}, "want_ack is to be true or false"),
            ({"wantAck": True}, "unknown field 'wantAck'; known: account, asset, channel, payload, text"),
        ):
            error = self.assertRaises(ValueError, asked, **fields)
            self.assertIn(words, str(error), fields)

    def test_noObject(self) -> None:
        """
        A body that is no JSON object, however it is not.
        """
        for data in (b"", b"{", b"\xff", b"[" * 100_000, b"5", b"[]", b"null", b"9" * 10_000):
            self.assertRaises(ValueError, Ask.parse, data, NOW)

    @given(
        st.dictionaries(
            st.sampled_from([*LEAST, "payload", "id", "expires_in", "expires_at", "no_queue", "x"]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
                lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
                max_leaves=5,
            ),
        )
    )
    def test_anything(self, fields: dict[str, Any]) -> None:
        """
        Whatever the fields are, it is a message that can be published or a L{ValueError} of one line.
        """
        try:
            ask = asked(**fields)
        except ValueError as error:
            self.assertTrue(str(error) and "\n" not in str(error))
        else:
            self.assertTrue(ask.record(BoxKey("a", ask.asset)).value)

    @given(st.binary())
    def test_bytes(self, payload: bytes) -> None:
        """
        Any payload arrives as it was.
        """
        self.assertEqual(asked(text=None, payload=base64.b64encode(payload).decode()).payload, payload)


class MessagesPageTests(SynchronousTestCase):
    """
    C{/api/messages} over an in-memory bus, by hand-written requests.
    """

    def setUp(self) -> None:
        self.clock: Any = MemoryReactorClock()
        self.bus = MemoryBus("memory:", BackEndContext(self.clock, "--bus", topics=TOPICS.all))
        self.bus.start()
        self.store = MemorySessionStore("memory:", BackEndContext(self.clock, "--sessions"))
        self.site: Any = makeSite(self.bus, self.store, TOPICS, self.clock, lambda: NOW)

    def post(self, fields: object = None, content: bytes | None = None, **headers: str) -> Client:
        """
        The answer to one request.

        @param fields: of the body, over what is needed
        @param content: instead
        """
        client = Client(self.site)
        self.addCleanup(client.lose)
        if content is None:
            content = json.dumps({**LEAST, **(fields if isinstance(fields, dict) else {})}).encode()
        lines = {"host": "localhost", "content-type": "application/json", "content-length": str(len(content))}
        lines.update({name.replace("_", "-"): value for name, value in headers.items()})
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
        client.channel.dataReceived(f"POST /api/messages HTTP/1.1\r\n{head}\r\n".encode() + content)
        self.clock.advance(0)
        return client.read()

    def claim(self, account: str, asset: str = "box-1") -> None:
        """
        A box was connected.
        """
        self.successResultOf(self.store.claim(BoxKey(account, asset), "a@1", "md30", "192.0.2.1", NOW, False, "1"))

    def published(self) -> list[StoredRecord]:
        """
        What the bus has.
        """
        reader = self.successResultOf(self.bus.openReader(TOPICS.all, True))
        reading = reader.read(1000)
        self.clock.advance(1)
        found: list[StoredRecord] = self.successResultOf(reading)
        reader.close()
        return found

    def refused(self, answer: Client, status: int, words: str) -> None:
        """
        It says so, and nothing was published.
        """
        self.assertEqual(answer.status, status, answer.body)
        self.assertIn(words, answer.problem()["detail"])
        self.assertEqual(self.published(), [])

    def test_sent(self) -> None:
        """
        It is published once, and answered when it is durable with what names it.
        """
        answer = self.post({"account": "acme", "id": "m-1"})
        self.assertEqual((answer.status, answer.headers["content-type"]), (202, "application/json"))
        partition = self.bus.partitionFor(TOPICS.downlink, b"acme/box-1")
        self.assertEqual(
            json.loads(answer.body),
            {"id": "m-1", "account": "acme", "asset": "box-1", "topic": TOPICS.downlink, "partition": partition},
        )
        [record] = self.published()
        self.assertEqual((record.topic, record.partition, record.key), (TOPICS.downlink, partition, b"acme/box-1"))
        self.assertEqual(DownlinkMessage.FromString(record.value).payload, b"hello")

    def test_durable(self) -> None:
        """
        There is no answer before the bus has it.
        """
        committed: Deferred[None] = Deferred()
        self.patch(self.bus, "publish", lambda topic, partition, records: committed)
        answer = self.post({"account": "acme"})
        self.clock.advance(10)
        self.assertEqual(answer.read().status, 0)
        committed.callback(None)
        self.assertEqual(answer.read().status, 202)

    def test_accountOf(self) -> None:
        """
        Without an account it goes to the one that the box was ever connected as.
        """
        self.claim("acme")
        self.claim("other", "box-2")
        self.assertEqual(json.loads(self.post().body)["account"], "acme")
        self.assertEqual([record.key for record in self.published()], [b"acme/box-1"])

    def test_noAccount(self) -> None:
        """
        A box that nobody has seen needs one.
        """
        self.refused(self.post(), 404, "no box box-1 was ever connected: say whose it is (account")

    def test_manyAccounts(self) -> None:
        """
        A box of several accounts needs one, too; they are named.
        """
        self.claim("zeta")
        self.claim("acme")
        self.refused(self.post(), 409, "box box-1 is of acme and of zeta: say which")
        self.assertEqual(self.post({"account": "zeta"}).status, 202)

    def test_storeAway(self) -> None:
        """
        When the session store cannot say whose it is, the request may come again later.
        """
        away: Deferred[Any] = fail(StoreUnavailable("no Redis there"))
        self.patch(self.store, "accounts", lambda asset: away)
        answer = self.post()
        self.refused(answer, 503, "no Redis there")
        self.assertEqual(answer.headers["retry-after"], "5")

    def test_badBody(self) -> None:
        """
        What cannot be understood is a 400 with its cause.
        """
        self.refused(self.post(content=b"{"), 400, "the body is no JSON")
        self.refused(self.post({"channel": "a b"}), 400, "channel is to be")
        self.refused(self.post({"what": 1}), 400, "unknown field 'what'")

    def test_browsers(self) -> None:
        """
        What a page of another origin could make a browser send is refused: every simple content type, and every
        request that names an origin.
        """
        for kind in (
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "",
            "a/json",
        ):
            self.refused(self.post({"account": "acme"}, content_type=kind), 415, "application/json")
        for origin in ("http://evil.example", "null", "http://localhost"):
            self.refused(self.post({"account": "acme"}, origin=origin), 403, "web pages")

    def test_contentType(self) -> None:
        """
        Parameters and case of the content type do not matter.
        """
        answer = self.post({"account": "acme"}, content_type="Application/JSON; charset=utf-8")
        self.assertEqual(answer.status, 202)

    def test_methods(self) -> None:
        """
        Only POST, and nothing is below.
        """
        for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS"):
            answer = Client(self.site).send("/api/messages", method)
            self.assertEqual((answer.status, answer.headers["allow"]), (405, "POST"))
        self.assertEqual(Client(self.site).send("/api/messages/1").status, 404)

    def test_largeBody(self) -> None:
        """
        A body that is too large is a 413, whether it says its length or not, and is not kept.
        """
        large = b'{"text": "' + b"x" * body.MAX_BODY + b'"}'
        self.refused(self.post(content=large), 413, str(body.MAX_BODY))
        client = Client(self.site)
        client.channel.dataReceived(
            b"POST /api/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(body.MAX_BODY // 1000 + 1):
            client.channel.dataReceived(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        [request] = client.channel.requests
        self.assertEqual((request.content.getvalue(), self.site.bodies.size), (b"", 0))
        client.channel.dataReceived(b"0\r\n\r\n")
        self.refused(client.read(), 413, str(body.MAX_BODY))

    def test_manyBodies(self) -> None:
        """
        All bodies that are coming are bounded together; what goes away makes room.
        """
        self.patch(body, "MAX_BODIES", 1000)
        head = b"POST /api/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += b"Content-Length: 2000\r\n\r\n"
        slow = Client(self.site)
        slow.channel.dataReceived(head + b"x" * 990)
        self.assertEqual(self.site.bodies.size, 990)
        answer = self.post({"account": "acme"})
        self.refused(answer, 503, "bodies")
        self.assertEqual(answer.headers["retry-after"], "5")
        slow.lose()
        self.assertEqual(self.site.bodies.size, 0)
        self.assertEqual(self.post({"account": "acme"}).status, 202)
        self.assertEqual(self.site.bodies.size, 0)

    def test_otherPaths(self) -> None:
        """
        A JSON body that is not asked for is given up with its request.
        """
        client = Client(self.site)
        client.channel.dataReceived(
            b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\nnull"
        )
        self.assertEqual((client.read().status, self.site.bodies.size), (405, 0))

    def test_tooLargeForTheBus(self) -> None:
        """
        A message that the bus never takes is a 413.
        """
        self.patch(body, "MAX_BODY", 1 << 22)
        self.refused(self.post({"account": "acme", "text": "x" * 1_100_000}), 413, "more than")

    def test_busFails(self) -> None:
        """
        When the bus does not say what became of it, neither can we: the id is told.
        """
        self.patch(self.bus, "publish", lambda *_: fail(BusError("no leader")))
        answer = self.post({"account": "acme", "id": "m-1"})
        self.refused(answer, 504, "message m-1 may or may not be published: no leader")

    def test_busHangs(self) -> None:
        """
        A bus that is away does not hold the request for ever. What it holds itself is bounded, and free once it is
        done.
        """
        self.patch(outlet, "_MAX_PENDING", 100)
        hanging: list[Deferred[None]] = []

        def publish(topic: str, partition: int, records: list[Record]) -> Deferred[None]:
            hanging.append(Deferred())
            return hanging[-1]

        self.patch(self.bus, "publish", publish)
        answer = self.post({"account": "acme", "id": "m-1"})
        self.clock.advance(29)
        self.assertEqual(answer.read().status, 0)
        self.clock.advance(2)
        self.refused(answer.read(), 504, "message m-1 may or may not be published: the bus did not take it in 30 s")
        self.refused(self.post({"account": "acme"}), 503, "too many messages wait for the bus")
        self.assertEqual(len(hanging), 1)
        hanging[0].callback(None)
        second = self.post({"account": "acme"})
        hanging[1].callback(None)
        self.assertEqual(second.read().status, 202)
        self.assertEqual([one for one in self.clock.getDelayedCalls() if one.func.__name__ == "_timedOut"], [])

    def test_notStarted(self) -> None:
        """
        Before the bus is there, nothing is taken.
        """
        bus = MemoryBus("memory:", BackEndContext(self.clock, "--bus", topics=TOPICS.all))
        self.site = makeSite(bus, self.store, TOPICS, self.clock)
        self.refused(self.post({"account": "acme"}), 503, "the bus is not there yet")

    def test_gone(self) -> None:
        """
        A client that goes away before the answer leaves nothing behind; its message is published all the same.
        """
        committed: Deferred[None] = Deferred()
        self.patch(self.bus, "publish", lambda *_: committed)
        answer = self.post({"account": "acme"})
        answer.lose()
        committed.callback(None)
        self.assertEqual([one for one in self.clock.getDelayedCalls() if one.func.__name__ == "_timedOut"], [])

    def test_unforeseen(self) -> None:
        """
        A fault of ours is an error in the one form of errors, and in the log.
        """
        self.patch(self.store, "accounts", lambda asset: succeed(1 // 0))
        self.assertEqual(self.post().status, 500)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_keptAlive(self) -> None:
        """
        One connection may send one after the other.
        """
        client = Client(self.site)
        content = json.dumps({**LEAST, "account": "acme"}).encode()
        head = b"POST /api/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        for _ in range(3):
            client.channel.dataReceived(head + b"Content-Length: %d\r\n\r\n" % len(content) + content)
            self.clock.advance(0)
        self.assertEqual(client.transport.value().count(b"HTTP/1.1 202 Accepted"), 3)
        self.assertEqual(len(self.published()), 3)
        client.lose()


class DownlinkTailTests(SynchronousTestCase):
    """
    The topic C{downlink}, read back.
    """

    def told(self, value: bytes, *headers: tuple[str, bytes]) -> dict[str, Any]:
        """
        One record as the HTTP side gives it.
        """
        read: dict[str, Any] = json.loads(
            recordToJson(StoredRecord(TOPICS.downlink, 1, 2, 3, b"", value, headers), TOPICS)
        )
        return read

    def test_protobuf(self) -> None:
        """
        As it is published here.
        """
        record = asked(id="m-1", want_ack=True).record(BoxKey("acme", "box-1"))
        self.assertEqual(
            self.told(record.value, *record.headers),
            {
                "topic": TOPICS.downlink,
                "partition": 1,
                "offset": 2,
                "id": "m-1",
                "account": "acme",
                "asset": "box-1",
                "channel": "c",
                "payload": "aGVsbG8=",
                "expires_at": "0",
                "no_queue": False,
                "want_ack": True,
                "correlation_id": "",
            },
        )

    def test_json(self) -> None:
        """
        As others may publish it.
        """
        told = self.told(b'{"id": "m-2", "wantAck": true}', ("Content-Type", b"application/json; charset=utf-8"))
        self.assertEqual((told["id"], told["want_ack"], told["channel"]), ("m-2", True, ""))

    def test_bad(self) -> None:
        """
        What is neither is told by its place.
        """
        for headers in ((), (("content-type", b"application/json"),)):
            self.assertEqual(self.told(b"\xff\xff", *headers)["error"], "not a message of this topic")

    def test_unlessAsked(self) -> None:
        """
        A tail of everything is one of what the gateway publishes.
        """
        self.assertNotIn(TOPICS.downlink, TOPICS.published)
        self.assertEqual({*TOPICS.published, TOPICS.downlink, TOPICS.directory}, set(TOPICS.all))
