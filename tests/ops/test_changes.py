"""
Tests for L{binaryserver.ops.changes}, and C{/api/directory/changes} of L{binaryserver.ops.http}.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.bus.memorybus import MemoryBus
from binaryserver.bus.topics import Topics
from binaryserver.directory.records import Change
from binaryserver.errors import BusError
from binaryserver.model import StoredRecord
from binaryserver.ops.changes import changeRecord, parseChange
from binaryserver.ops.http import makeSite
from binaryserver.ops.tail import recordToJson
from binaryserver.plugins import BackEndContext
from binaryserver.proto.cloudnext_pb2 import DirectoryChange
from binaryserver.session.memorystore import MemorySessionStore
from tests.ops.test_http import Client

TOPICS = Topics.named()


class ChangeTests(SynchronousTestCase):
    """
    L{parseChange} and L{changeRecord}.
    """

    def test_kinds(self) -> None:
        """
        A box, an account, or everything; each record has the key of what it is about, and says what it is.
        """
        for body, change, key in (
            ('{"account": "acme", "asset": "box-1"}', Change("acme", "box-1"), b"acme/box-1"),
            ('{"account": "acme", "asset": null}', Change("acme"), b"acme"),
            ("{}", Change(), b"*"),
        ):
            self.assertEqual(parseChange(body.encode()), change)
            record = changeRecord(change)
            self.assertEqual((record.key, record.headers), (key, (("content-type", b"application/protobuf"),)))
            self.assertEqual(
                DirectoryChange.FromString(record.value), DirectoryChange(account=change.account, asset=change.asset)
            )

    def test_bad(self) -> None:
        """
        What cannot be understood is told by the name of what is wrong.
        """
        for body, words in (
            ('{"asset": "box-1"}', "an asset needs its account"),
            ('{"account": "a b"}', "account is to be 1 to 64"),
            ('{"account": "a", "asset": "é"}', "asset is to be 1 to 64"),
            ('{"account": 7}', "account is no text"),
            ('{"acount": "a"}', "unknown field 'acount'; known: account, asset"),
            ("[]", "no JSON object"),
            ("", "no JSON"),
        ):
            self.assertIn(words, str(self.assertRaises(ValueError, parseChange, body.encode())))

    @given(st.dictionaries(st.sampled_from(["account", "asset", "x"]), st.none() | st.integers() | st.text(max_size=9)))
    def test_anything(self, fields: dict[str, Any]) -> None:
        """
        Whatever the fields are, it is a change that can be published and read back, or a L{ValueError} of one line.
        """
        try:
            change = parseChange(json.dumps(fields).encode())
        except ValueError as error:
            self.assertTrue(str(error) and "\n" not in str(error))
        else:
            read = DirectoryChange.FromString(changeRecord(change).value)
            self.assertEqual(Change(read.account, read.asset), change)


class ChangesPageTests(SynchronousTestCase):
    """
    C{/api/directory/changes} over an in-memory bus, by hand-written requests.
    """

    def setUp(self) -> None:
        self.clock: Any = MemoryReactorClock()
        self.bus = MemoryBus("memory:", BackEndContext(self.clock, "--bus", topics=TOPICS.all))
        self.bus.start()
        store = MemorySessionStore("memory:", BackEndContext(self.clock, "--sessions"))
        self.site: Any = makeSite(self.bus, store, TOPICS, self.clock)

    def post(self, content: bytes) -> Client:
        """
        The answer to one request.
        """
        client = Client(self.site)
        self.addCleanup(client.lose)
        client.send("/api/directory/changes", "POST", content=content)
        self.clock.advance(0)
        return client.read()

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

    def test_told(self) -> None:
        """
        It is published once, on its topic, and answered with what it was.
        """
        answer = self.post(b'{"account": "acme", "asset": "box-1"}')
        self.assertEqual(answer.status, 202)
        told = json.loads(answer.body)
        [record] = self.published()
        self.assertEqual(
            told,
            {"account": "acme", "asset": "box-1", "topic": TOPICS.directory, "partition": record.partition},
        )
        self.assertEqual((record.topic, record.key), (TOPICS.directory, b"acme/box-1"))

    def test_durable(self) -> None:
        """
        There is no answer before the bus has it.
        """
        committed: Deferred[None] = Deferred()
        self.patch(self.bus, "publish", lambda topic, partition, records: committed)
        answer = self.post(b"{}")
        self.clock.advance(10)
        self.assertEqual(answer.read().status, 0)
        committed.callback(None)
        self.assertEqual(answer.read().status, 202)

    def test_refused(self) -> None:
        """
        What cannot be understood is not published, nor is anything by another method.
        """
        answer = self.post(b'{"asset": "x"}')
        self.assertEqual((answer.status, answer.problem()["detail"]), (400, "an asset needs its account"))
        self.assertEqual(Client(self.site).send("/api/directory/changes").status, 405)
        self.assertEqual(Client(self.site).send("/api/directory").status, 404)
        self.assertEqual(self.published(), [])

    def test_busFails(self) -> None:
        """
        When the bus does not say what became of it, or says nothing, neither can we.
        """
        self.patch(self.bus, "publish", lambda *_: fail(BusError("no leader")))
        answer = self.post(b"{}")
        self.assertEqual(answer.status, 504)
        self.assertIn("the change may or may not be published: no leader", answer.problem()["detail"])
        self.patch(self.bus, "publish", lambda *_: Deferred())
        late = self.post(b"{}")
        self.clock.advance(31)
        self.assertEqual(late.read().status, 504)
        self.assertIn("the bus did not take it in 30 s", late.problem()["detail"])

    def test_tail(self) -> None:
        """
        A tail of the topic shows what was told.
        """
        self.post(b'{"account": "acme"}')
        [record] = self.published()
        told = json.loads(recordToJson(record, TOPICS))
        self.assertEqual((told["topic"], told["account"], told["asset"]), (TOPICS.directory, "acme", ""))
