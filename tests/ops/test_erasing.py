"""
Tests for L{binaryserver.ops.erasing}, and C{/api/boxes} of L{binaryserver.ops.http}.
"""

from __future__ import annotations

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
from binaryserver.model import BoxKey, DownlinkMessage, MailboxLimits, MarkUpdate, Record
from binaryserver.ops.boxes import parseBox
from binaryserver.ops.http import makeSite
from binaryserver.plugins import BackEndContext
from binaryserver.session.memorystore import MemorySessionStore
from tests.ops.test_http import Client

TOPICS = Topics.named()
NOW = 1_790_000_000_000
BOX = BoxKey("acme", "box-1")
PSEUDONYM = BoxKey("acme", "p-77")
LAST_LINK = "the number of its last link, which must not go back"


class ParseBoxTests(SynchronousTestCase):
    """
    L{parseBox}.
    """

    def test_good(self) -> None:
        """
        The account need not be given.
        """
        self.assertEqual(parseBox(b"box-1", {}), BoxKey("", "box-1"))
        self.assertEqual(parseBox(b"box-1", {b"account": [b"acme"]}), BOX)

    def test_bad(self) -> None:
        """
        Anything that is no name, or no argument, is told.
        """
        for asset, arguments, words in (
            (b"a b", {}, "asset is to be"),
            (b"\xff", {}, "asset is to be"),
            (b"a" * 65, {}, "asset is to be"),
            (b"a", {b"account": [b""]}, "account is to be"),
            (b"a", {b"account": [b"x/y"]}, "account is to be"),
            (b"a", {b"account": [b"x", b"y"]}, "account is given twice"),
            (b"a", {b"acount": [b"x"]}, "unknown argument 'acount'; known: account"),
        ):
            self.assertIn(words, str(self.assertRaises(ValueError, parseBox, asset, arguments)))

    @given(st.binary(max_size=9), st.dictionaries(st.just(b"account"), st.lists(st.binary(max_size=9), min_size=1)))
    def test_anything(self, asset: bytes, arguments: dict[bytes, list[bytes]]) -> None:
        """
        Whatever stands there, it is a box or a L{ValueError} of one line.
        """
        try:
            box = parseBox(asset, arguments)
        except ValueError as error:
            self.assertTrue(str(error) and "\n" not in str(error))
        else:
            self.assertEqual((box.asset.encode(), box.account.encode()), (asset, arguments.get(b"account", [b""])[0]))


class BoxPageTests(SynchronousTestCase):
    """
    C{/api/boxes/ASSET} over an in-memory bus and store, by hand-written requests.
    """

    def setUp(self) -> None:
        self.clock: Any = MemoryReactorClock()
        self.bus = MemoryBus("memory:", BackEndContext(self.clock, "--bus", topics=TOPICS.all))
        self.bus.start()
        self.store = MemorySessionStore("memory:", BackEndContext(self.clock, "--sessions"))
        self.serve()

    def serve(self, **options: Any) -> None:
        """
        With these options of the site.
        """
        self.site: Any = makeSite(self.bus, self.store, TOPICS, self.clock, **options)

    def delete(self, target: str = "/api/boxes/box-1", *lines: str) -> Client:
        """
        The answer to one request.
        """
        client = Client(self.site)
        self.addCleanup(client.lose)
        client.send(target, "DELETE", *lines)
        self.clock.advance(0)
        return client.read()

    def visit(self, box: BoxKey = BOX, isOver: bool = True) -> None:
        """
        A box was connected, has a mark, and a message waits for it.
        """
        claim = self.successResultOf(self.store.claim(box, "a@1", "md30", "192.0.2.1", NOW, False, "1"))
        self.successResultOf(self.store.commitMarks([MarkUpdate(box, 9, 5, 0)]))
        message = DownlinkMessage(box, "m-1", "c", b"x", "", NOW + 60_000, False, False, NOW)
        self.successResultOf(self.store.putMessages([message], MailboxLimits(9, 999), NOW))
        if isOver:
            self.successResultOf(self.store.release(box, claim.linkEpoch, NOW))

    def publish(self, topic: str, key: bytes) -> None:
        """
        One record.
        """
        self.bus.publish(topic, self.bus.partitionFor(topic, key), [Record(key, b"x")])
        self.clock.advance(0)

    def keys(self) -> list[bytes]:
        """
        Those of the records that the bus has.
        """
        reader = self.successResultOf(self.bus.openReader(TOPICS.all, True))
        reading = reader.read(1000)
        self.clock.advance(1)
        keys = sorted(record.key for record in self.successResultOf(reading))
        reader.close()
        return keys

    def refused(self, answer: Client, status: int, words: str) -> None:
        """
        It says so.
        """
        self.assertEqual(answer.status, status, answer.body)
        self.assertIn(words, answer.problem()["detail"])

    def test_erased(self) -> None:
        """
        What is kept of the box goes from store and bus, of every topic; what is another's stays. The report has it by
        kind.
        """
        self.visit()
        self.visit(BoxKey("acme", "box-2"))
        for topic in (TOPICS.tracks, TOPICS.tracks, TOPICS.downlink, TOPICS.directory):
            self.publish(topic, BOX.busKey)
        self.publish(TOPICS.tracks, b"acme/box-11")
        answer = self.delete()
        self.assertEqual((answer.status, answer.headers["content-type"]), (200, "application/json"), answer.body)
        self.assertEqual(
            json.loads(answer.body),
            {
                "account": "acme",
                "asset": "box-1",
                "removed": {"sessions": 1, "messages": 1, "streams": 1, "fingerprints": 0, "records": 4},
                "remains": [LAST_LINK],
            },
        )
        self.assertEqual(self.keys(), [b"acme/box-11"])
        self.assertEqual(self.successResultOf(self.store.mailbox(BOX)), [])
        self.assertEqual(self.successResultOf(self.store.marks(BOX)), ())
        self.assertEqual(len(self.successResultOf(self.store.mailbox(BoxKey("acme", "box-2")))), 1)

    def test_again(self) -> None:
        """
        Once it is erased there is nothing to erase.
        """
        self.visit()
        self.assertEqual(self.delete("/api/boxes/box-1?account=acme").status, 200)
        self.refused(self.delete("/api/boxes/box-1?account=acme"), 404, "nothing is kept of a box box-1 of acme")

    def test_recordsAlone(self) -> None:
        """
        A box of which the bus alone knows is erased, too: an earlier attempt may have come only half way.
        """
        self.publish(TOPICS.tracks, BOX.busKey)
        removed = json.loads(self.delete("/api/boxes/box-1?account=acme").body)["removed"]
        self.assertEqual((removed["sessions"], removed["records"]), (0, 1))
        self.assertEqual(self.keys(), [])

    def test_connected(self) -> None:
        """
        Of a box that is connected nothing is removed.
        """
        self.visit(isOver=False)
        self.publish(TOPICS.tracks, BOX.busKey)
        self.refused(self.delete(), 409, "box box-1 is connected: revoke it first; nothing was removed")
        self.assertEqual(len(self.keys()), 1)
        self.assertEqual(len(self.successResultOf(self.store.mailbox(BOX))), 1)

    def test_account(self) -> None:
        """
        Without an account it is the one box of that name; of several, or none, that is said.
        """
        self.refused(self.delete(), 404, "no box box-1 was ever connected")
        self.visit()
        self.visit(BoxKey("other", "box-1"))
        self.refused(self.delete(), 409, "of acme and of other: say which")
        self.assertEqual(json.loads(self.delete("/api/boxes/box-1?account=other").body)["account"], "other")
        self.assertEqual(len(self.successResultOf(self.store.mailbox(BOX))), 1)

    def test_pseudonym(self) -> None:
        """
        Records under its pseudonym go with those under its own name.
        """
        self.serve(published=lambda box: PSEUDONYM if box == BOX else box)
        self.visit()
        self.publish(TOPICS.tracks, PSEUDONYM.busKey)
        self.publish(TOPICS.downlink, BOX.busKey)
        self.assertEqual(json.loads(self.delete().body)["removed"]["records"], 2)
        self.assertEqual(self.keys(), [])

    def test_kafka(self) -> None:
        """
        Where the bus removes nothing by itself, every topic is named that may hold records of the box; so is what else
        there is.
        """
        self.patch(self.bus, "erase", lambda key: succeed(None))
        self.serve(elsewhere=["events in CloudConnect's queue"])
        self.visit()
        report = json.loads(self.delete().body)
        topics = [f"records in the topic {topic}, until its retention" for topic in TOPICS]
        self.assertEqual(report["remains"], [LAST_LINK, *topics, "events in CloudConnect's queue"])
        self.assertEqual(report["removed"]["records"], 0)
        answer = self.delete("/api/boxes/box-1?account=acme")
        self.refused(answer, 404, "until their retention")
        self.assertIn(TOPICS.tracks, answer.problem()["detail"])

    def test_storeFails(self) -> None:
        """
        When the store does not say whether it was done, neither can we; the bus is left alone.
        """
        self.visit()
        self.publish(TOPICS.tracks, BOX.busKey)
        self.patch(self.store, "erase", lambda box: fail(StoreUnavailable("no Redis there")))
        self.refused(self.delete(), 504, "may or may not be erased; ask again: no Redis there")
        self.assertEqual(len(self.keys()), 1)

    def test_busFails(self) -> None:
        """
        When the bus fails, what is done is said, and asking again does the rest.
        """
        self.visit()
        self.publish(TOPICS.tracks, BOX.busKey)
        erase = self.bus.erase
        self.patch(self.bus, "erase", lambda key: fail(BusError("the disk is full")))
        answer = self.delete("/api/boxes/box-1?account=acme")
        self.refused(answer, 504, "may not be; ask again, with the account acme: the disk is full")
        self.patch(self.bus, "erase", erase)
        self.assertEqual(json.loads(self.delete("/api/boxes/box-1?account=acme").body)["removed"]["records"], 1)

    def test_late(self) -> None:
        """
        What takes too long is not waited for.
        """
        self.visit()
        self.patch(self.bus, "erase", lambda key: Deferred())
        answer = self.delete()
        self.assertEqual(answer.status, 0)
        self.clock.advance(31)
        self.refused(answer.read(), 504, "box box-1 may or may not be erased; ask again")

    def test_bad(self) -> None:
        """
        What cannot be understood, other methods, web pages, and paths where nothing is.
        """
        self.visit()
        self.refused(self.delete("/api/boxes/a%20b"), 400, "asset is to be")
        self.refused(self.delete("/api/boxes/a%2Fb"), 400, "asset is to be")
        self.refused(self.delete("/api/boxes/box-1?acount=x"), 400, "unknown argument")
        self.refused(self.delete("/api/boxes/box-1", "Origin: null"), 403, "web pages")
        for path in ("/api/boxes/", "/api/boxes/box-1/", "/api/boxes/box-1/x"):
            self.assertEqual(self.delete(path).status, 404, path)
        for method in ("POST", "PUT"):
            answer = Client(self.site).send("/api/boxes/box-1", method)
            self.assertEqual((answer.status, answer.headers["allow"]), (405, "DELETE, GET, HEAD"))
        self.assertEqual(len(self.successResultOf(self.store.mailbox(BOX))), 1)
