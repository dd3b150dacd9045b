"""
Tests for C{/api/boxes} and what is below it: the list, one box, and its disconnection.
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
from binaryserver.errors import StoreUnavailable
from binaryserver.model import BoxKey, MarkUpdate, MqttSession
from binaryserver.ops.http import makeSite
from binaryserver.ops.listing import ListQuery
from binaryserver.plugins import BackEndContext
from binaryserver.session.boxrecords import BoxEvent, BoxQuery, EventKind, RefusalNote
from binaryserver.session.memorystore import MemorySessionStore
from tests.ops.test_http import STALLED, Client

TOPICS = Topics.named()
NOW = 1_790_000_000_000
BOX = BoxKey("acme", "box-1")
LINES = "Accept: text/html;q=0.5, application/x-ndjson"


class BoxesCase(SynchronousTestCase):
    """
    The site over an in-memory store, by hand-written requests.
    """

    def setUp(self) -> None:
        self.clock: Any = MemoryReactorClock()
        bus = MemoryBus("memory:", BackEndContext(self.clock, "--bus", topics=TOPICS.all))
        self.store = MemorySessionStore("memory:", BackEndContext(self.clock, "--sessions"))
        self.asked: list[tuple[str, BoxKey, int]] = []
        self.answers: list[Deferred[bool | None]] = []
        self.site = makeSite(bus, self.store, TOPICS, self.clock, lambda: NOW, disconnect=self.disconnect)

    def disconnect(self, incarnation: str, box: BoxKey, linkEpoch: int) -> Deferred[bool | None]:
        """
        What instances are asked.
        """
        self.asked.append((incarnation, box, linkEpoch))
        self.answers.append(Deferred())
        return self.answers[-1]

    def claim(self, box: BoxKey = BOX, isConnected: bool = True) -> int:
        """
        A box comes, and goes again.
        """
        claim = self.successResultOf(self.store.claim(box, "a@1", "md30", "192.0.2.1", NOW, False, f"{box}"))
        if not isConnected:
            self.store.release(box, claim.linkEpoch, NOW + 5, self.event(claim.linkEpoch))
        return claim.linkEpoch

    def event(self, epoch: int) -> BoxEvent:
        """
        Why it went.
        """
        return BoxEvent(EventKind.disconnected, NOW + 5, "SOCKET_CLOSED", "", "md30", "192.0.2.1", "a@1", epoch)

    def ask(self, target: str, method: str = "GET", *lines: str) -> Client:
        """
        Ask, and let time pass until there is an answer.
        """
        client = Client(self.site).send(target, method, *lines)
        self.pump(client)
        return client

    def pump(self, client: Client, most: int = 5000) -> None:
        """
        Let an answer be made.
        """
        for _ in range(most):
            if client.read().isWhole or client.status >= 400:
                return
            self.clock.advance(0.005)

    def refused(self, client: Client, status: int, words: str) -> None:
        """
        It is a typed error.
        """
        problem = client.problem()
        self.assertEqual(client.status, status)
        self.assertIn(words, problem["detail"])


class ListTests(BoxesCase):
    """
    C{GET /api/boxes}.
    """

    def fill(self, count: int) -> list[str]:
        """
        Boxes, every third one connected.
        """
        boxes = [BoxKey("acme", f"{number:06d}") for number in range(count)]
        for place, box in enumerate(boxes):
            self.claim(box, not place % 3)
        return ["/".join(box) for box in boxes]

    def page(self, arguments: str = "") -> tuple[list[str], str | None]:
        """
        The names of a page, and what comes next.
        """
        client = self.ask(f"/api/boxes{arguments}")
        self.assertEqual((client.status, client.headers["content-type"]), (200, "application/json"))
        told = json.loads(client.body)
        return [f"{box['account']}/{box['asset']}" for box in told["boxes"]], told["next"]

    def test_empty(self) -> None:
        """
        No boxes are a page, and lines.
        """
        self.assertEqual(self.page(), ([], None))
        client = self.ask("/api/boxes", "GET", LINES)
        self.assertEqual((client.status, client.body, client.isWhole), (200, b"", True))

    def test_pages(self) -> None:
        """
        Each says where the next one begins; without a limit it has a hundred boxes.
        """
        names = self.fill(250)
        self.assertEqual(self.page(), (names[:100], names[99]))
        self.assertEqual(self.page(f"?after={names[99]}&limit=70"), (names[100:170], names[169]))
        self.assertEqual(self.page(f"?after={names[199]}"), (names[200:], None))
        self.assertEqual(self.page("?limit=1000"), (names, None))
        self.assertEqual(self.page("?prefix=00001&limit=4"), (names[10:14], names[13]))
        self.assertEqual(self.page("?state=connected&account=acme&limit=9")[0], names[:27:3])
        self.assertEqual(self.page("?account=acm"), ([], None))

    def test_box(self) -> None:
        """
        What is told of each.
        """
        epoch = self.claim()
        self.store.saveMqtt(BOX, epoch, None, True)
        (box,) = json.loads(self.ask("/api/boxes").body)["boxes"]
        self.assertEqual(
            box,
            {
                "account": "acme",
                "asset": "box-1",
                "connected": True,
                "protocol": "md30",
                "peer": "192.0.2.1",
                "since": NOW,
                "seen": NOW,
                "link_epoch": epoch,
                "instance": "a@1",
                "listening": True,
            },
        )

    def test_bounded(self) -> None:
        """
        A page that finds nothing ends all the same, and says where to go on.
        """
        for number in range(6000):
            self.claim(BoxKey("acme", f"{number:06d}"), isConnected=False)
        names, after = self.page("?state=connected&limit=1000")
        self.assertEqual((names, after), ([], "acme/004999"))
        self.assertEqual(self.page(f"?state=connected&after={after}"), ([], None))

    def test_lines(self) -> None:
        """
        All of them, one JSON object a line; with a limit, so many.
        """
        names = self.fill(250)
        for arguments, expected in (
            ("", names),
            ("?limit=120", names[:120]),
            ("?limit=250", names),
            ("?state=disconnected&limit=3", [names[1], names[2], names[4]]),
            (f"?after={names[247]}", names[248:]),
        ):
            client = self.ask(f"/api/boxes{arguments}", "GET", LINES)
            self.assertEqual((client.status, client.headers["content-type"]), (200, "application/x-ndjson"))
            self.assertEqual([f"{box['account']}/{box['asset']}" for box in client.events()], expected)
            self.assertTrue(client.isWhole)

    def test_takesTurns(self) -> None:
        """
        The links have the reactor between any two steps of a list.
        """
        self.fill(150)
        client = Client(self.site).send("/api/boxes", "GET", LINES)
        counts = []
        for _ in range(6):
            counts.append(client.read().body.count(b"\n"))
            self.clock.advance(0)
            self.assertEqual(client.read().body.count(b"\n"), counts[-1])
            self.clock.advance(0.005)
        self.assertEqual(counts, [25, 50, 75, 100, 125, 150])

    def test_stalled(self) -> None:
        """
        No more is made than the client takes; one that takes nothing is dropped.
        """
        self.fill(300)
        client = Client(self.site).send("/api/boxes", "GET", LINES)
        client.transport.producer.pauseProducing()
        for _ in range(100):
            self.clock.advance(0.01)
        self.assertLessEqual(client.read().body.count(b"\n"), 100)
        self.assertFalse(client.transport.disconnecting)
        self.clock.advance(STALLED)
        self.assertTrue(client.transport.disconnecting)

    def test_goesOn(self) -> None:
        """
        A client that was slow for a while has all of it.
        """
        names = self.fill(200)
        client = Client(self.site).send("/api/boxes", "GET", LINES)
        client.transport.producer.pauseProducing()
        self.clock.advance(STALLED / 2)
        client.transport.producer.resumeProducing()
        self.pump(client)
        self.assertEqual(len(client.events()), len(names))
        self.assertTrue(client.isWhole)

    def test_gone(self) -> None:
        """
        Nothing more is asked for somebody who has gone.
        """
        self.fill(300)
        asked = []
        list_ = self.store.listBoxes

        def listed(*arguments: Any) -> Any:
            asked.append(arguments)
            return list_(*arguments)

        self.patch(self.store, "listBoxes", listed)
        client = Client(self.site).send("/api/boxes", "GET", LINES)
        client.lose()
        for _ in range(100):
            self.clock.advance(0.01)
        self.assertLessEqual(len(asked), 2)

    def test_most(self) -> None:
        """
        So many are answered at a time.
        """
        self.fill(60)
        clients = [Client(self.site).send("/api/boxes", "GET", LINES) for _ in range(9)]
        self.assertEqual([client.status for client in clients], [200] * 8 + [503])
        self.refused(clients[-1], 503, "8 lists are on their way already")
        self.pump(clients[0])
        self.assertEqual(Client(self.site).send("/api/boxes", "GET", LINES).status, 200)

    def test_storeIsAway(self) -> None:
        """
        At the beginning that is told; later the answer is cut short.
        """
        self.fill(120)
        list_ = self.store.listBoxes
        away: Any = lambda *arguments: fail(StoreUnavailable("away"))  # noqa: E731
        self.store.listBoxes = away  # type: ignore[method-assign]
        for lines in ((), (LINES,)):
            self.refused(self.ask("/api/boxes", "GET", *lines), 503, "away")
        self.store.listBoxes = list_  # type: ignore[method-assign]
        client = Client(self.site).send("/api/boxes", "GET", LINES)
        self.store.listBoxes = away  # type: ignore[method-assign]
        self.clock.advance(0.005)
        self.assertFalse(client.read().isWhole)
        self.assertTrue(client.transport.disconnecting)

    def test_stops(self) -> None:
        """
        The gateway stops: lists on their way are cut short.
        """
        self.fill(120)
        client = Client(self.site).send("/api/boxes", "GET", LINES)
        self.site.stopFactory()
        self.clock.advance(1)
        self.assertFalse(client.read().isWhole)
        self.assertTrue(client.transport.disconnecting)

    def test_head(self) -> None:
        """
        HEAD is GET without a body.
        """
        self.claim()
        for lines, kind in (((), "application/json"), ((LINES,), "application/x-ndjson")):
            client = Client(self.site).send("/api/boxes", "HEAD", *lines)
            self.assertEqual((client.status, client.headers["content-type"]), (200, kind))
            self.assertEqual(client.body, b"")

    def test_bad(self) -> None:
        """
        What cannot be understood is told.
        """
        for arguments, words in (
            ("?acount=x", "unknown argument 'acount'; known: account, prefix, state, limit, after"),
            ("?account=a&account=b", "account is given twice"),
            ("?account=", "account is to be"),
            ("?prefix=a%2Fb", "prefix is to be"),
            ("?state=on", "state is to be connected or disconnected"),
            ("?limit=0", "limit is to be a number from 1"),
            ("?limit=-1", "limit is to be"),
            ("?limit=99999999999", "limit is to be"),
            ("?limit=%C2%B2", "limit is to be"),
            ("?after=acme", "after is to be ACCOUNT/ASSET"),
            ("?after=/x", "after is to be ACCOUNT/ASSET"),
        ):
            self.refused(self.ask(f"/api/boxes{arguments}"), 400, words)
        client = self.ask("/api/boxes", "POST")
        self.assertEqual((client.status, client.headers["allow"]), (405, "GET, HEAD"))

    @given(
        st.dictionaries(st.sampled_from([b"account", b"limit", b"after", b"state", b"prefix"]), st.binary(max_size=9))
    )
    def test_anything(self, arguments: dict[bytes, bytes]) -> None:
        """
        Whatever stands there, it is a query or a L{ValueError} of one line.
        """
        try:
            query = ListQuery.parse({name: [value] for name, value in arguments.items()})
        except ValueError as error:
            self.assertTrue(str(error) and "\n" not in str(error))
        else:
            self.assertIsInstance(query.boxes, BoxQuery)
            self.assertEqual(query.limit, int(arguments.get(b"limit", b"0")))


class ShowTests(BoxesCase):
    """
    C{GET /api/boxes/ASSET}.
    """

    def test_whole(self) -> None:
        """
        All that is kept; numbers of 64 bits are texts.
        """
        epoch = self.claim(isConnected=False)
        self.store.commitMarks([MarkUpdate(BOX, 2**64 - 1, 2**64 - 2, 100)])
        epoch = self.successResultOf(self.store.claim(BOX, "a@2", "md30", "192.0.2.2", NOW, False, "2")).linkEpoch
        self.store.saveMqtt(BOX, epoch, MqttSession((("d", 1),), (7, 8)), True)
        client = self.ask("/api/boxes/box-1")
        self.assertEqual((client.status, client.headers["cache-control"]), (200, "no-store"))
        told = json.loads(client.body)
        self.assertEqual(told["session"]["link_epoch"], epoch)
        del told["session"]
        event = {
            "kind": "disconnected",
            "at": NOW + 5,
            "since": NOW + 5,
            "times": 1,
            "reason": "SOCKET_CLOSED",
            "detail": "",
            "protocol": "md30",
            "peer": "192.0.2.1",
            "instance": "a@1",
            "link_epoch": epoch - 1,
        }
        self.assertEqual(
            told,
            {
                "account": "acme",
                "asset": "box-1",
                "instance_alive": False,
                "streams": [{"stream": str(2**64 - 1), "committed": str(2**64 - 2), "latest": 100}],
                "fingerprints": 0,
                "mqtt": {"subscriptions": [{"filter": "d", "qos": 1}], "subscription_count": 1, "received": 2},
                "mailbox": {"messages": 0, "bytes": 0, "oldest": 0},
                "events": [event],
            },
        )

    def test_onlyRefused(self) -> None:
        """
        A box that never came in, and whose account is not given, is found by its refusals.
        """
        refusal = BoxEvent(EventKind.refused, NOW, "AUTH_FAILED_ASSET", "wrong secret")
        self.store.noteRefusals([RefusalNote(BOX, refusal, True)])
        told = json.loads(self.ask("/api/boxes/box-1").body)
        self.assertEqual((told["account"], told["session"], len(told["events"])), ("acme", None, 1))

    def test_which(self) -> None:
        """
        None, or one of several.
        """
        self.refused(self.ask("/api/boxes/box-1"), 404, "nothing was ever heard of a box box-1")
        self.refused(self.ask("/api/boxes/box-1?account=acme"), 404, "nothing is kept of a box box-1 of acme")
        for account in ("zeta", "acme"):
            self.claim(BoxKey(account, "box-1"))
        self.refused(self.ask("/api/boxes/box-1"), 409, "box box-1 is of acme and of zeta: say which")
        self.assertEqual(json.loads(self.ask("/api/boxes/box-1?account=zeta").body)["account"], "zeta")

    def test_storeIsAway(self) -> None:
        """
        That is told.
        """
        self.patch(self.store, "accounts", lambda asset: fail(StoreUnavailable("away")))
        self.refused(self.ask("/api/boxes/box-1"), 503, "the session store does not answer: away")

    def test_late(self) -> None:
        """
        A store that says nothing is not waited for for ever.
        """
        self.patch(self.store, "accounts", lambda asset: Deferred())
        client = Client(self.site).send("/api/boxes/box-1")
        self.clock.advance(30)
        self.refused(client.read(), 504, "box box-1 cannot be shown: there was no answer in 30 s")

    def test_bad(self) -> None:
        """
        Names that none has, and paths where nothing is.
        """
        self.refused(self.ask("/api/boxes/a%20b"), 400, "asset is to be")
        for path in ("/api/boxes/", "/api/boxes/box-1/", "/api/boxes/box-1/x", "/api/boxes/box-1/explain/x"):
            self.assertEqual(self.ask(path).status, 404, path)


class DisconnectTests(BoxesCase):
    """
    C{POST /api/boxes/ASSET/disconnect}.
    """

    def post(self, target: str = "/api/boxes/box-1/disconnect", *lines: str) -> Client:
        """
        Ask.
        """
        return Client(self.site).send(target, "POST", "Content-Length: 0", *lines)

    def test_done(self) -> None:
        """
        The owner is asked for that very link, and the answer says which it was.
        """
        epoch = self.claim()
        client = self.post()
        self.assertEqual((client.status, self.asked), (0, [("a@1", BOX, epoch)]))
        self.answers[0].callback(True)
        told = {"account": "acme", "asset": "box-1", "link_epoch": epoch, "instance": "a@1"}
        self.assertEqual((client.read().status, json.loads(client.body)), (200, told))

    def test_wentMeanwhile(self) -> None:
        """
        The owner has no such link: it is looked again, until the store says that it is gone, or that another came.
        """
        epoch = self.claim()
        client = self.post()
        self.answers[0].callback(False)
        self.clock.advance(0.3)
        self.assertEqual(len(self.asked), 2)
        self.store.release(BOX, epoch, NOW)
        self.answers[1].callback(False)
        self.clock.advance(0.3)
        self.assertEqual(client.read().status, 200)
        self.successResultOf(self.store.claim(BOX, "a@1", "md30", "192.0.2.1", NOW, False, "2"))
        client = self.post()
        self.successResultOf(self.store.claim(BOX, "b@1", "md30", "192.0.2.1", NOW, False, "3"))
        self.answers[2].callback(False)
        self.clock.advance(0.3)
        self.assertEqual((client.read().status, len(self.asked)), (200, 3))
        self.assertEqual(json.loads(client.body)["link_epoch"], epoch + 1)

    def test_isComing(self) -> None:
        """
        A link that its owner does not know of yet is asked for again.
        """
        self.claim()
        client = self.post()
        for number in range(20):
            self.answers[number].callback(False)
            self.clock.advance(0.3)
        self.refused(client.read(), 504, "has its link still: a@1 has not given it up")

    def test_dead(self) -> None:
        """
        Of a dead instance there is nothing to close.
        """
        self.claim()
        client = self.post()
        self.answers[0].callback(None)
        self.refused(client.read(), 409, "its instance a@1 is dead")

    def test_silent(self) -> None:
        """
        An owner that does not answer.
        """
        self.claim()
        client = self.post()
        self.clock.advance(10)
        self.refused(client.read(), 504, "may or may not be disconnected: a@1 does not answer")

    def test_notConnected(self) -> None:
        """
        There is no link to close.
        """
        self.refused(self.post(), 404, "no box box-1 was ever connected")
        self.claim(isConnected=False)
        self.refused(self.post(), 409, "box box-1 is not connected")
        self.refused(
            self.post("/api/boxes/box-2/disconnect?account=acme"), 404, "no box box-2 of acme was ever connected"
        )
        self.patch(self.store, "boxRecord", lambda box: fail(StoreUnavailable("away")))
        self.refused(self.post(), 503, "who has box box-1 cannot be told: away")
        self.assertEqual(self.asked, [])

    def test_webPage(self) -> None:
        """
        Web pages may not.
        """
        self.claim()
        self.refused(self.post("/api/boxes/box-1/disconnect", "Origin: http://x"), 403, "web pages")
        client = self.ask("/api/boxes/box-1/disconnect")
        self.assertEqual((client.status, client.headers["allow"]), (405, "POST"))

    def test_nobody(self) -> None:
        """
        A site that is told of no way to instances finds none.
        """
        self.claim()
        bus = MemoryBus("memory:", BackEndContext(self.clock, "--bus", topics=TOPICS.all))
        client = Client(makeSite(bus, self.store, TOPICS, self.clock)).send("/api/boxes/box-1/disconnect", "POST")
        self.refused(client, 409, "is dead")
