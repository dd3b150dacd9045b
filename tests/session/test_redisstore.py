"""
Tests for L{binaryserver.session.redisstore}, over real Redis.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

from twisted.internet.defer import CancelledError, Deferred, gatherResults, succeed

from binaryserver.errors import AccountFull, StoreError, StoreUnavailable
from binaryserver.interfaces import ISessionStore, ISessionStorePlugin
from binaryserver.model import (
    REMEMBERED_MS,
    BoxKey,
    Draw,
    Erased,
    FingerprintUpdate,
    LinkState,
    MarkUpdate,
    MqttSession,
    Progress,
    StreamMark,
    Take,
)
from binaryserver.plugins import BackEndContext, createBackEnd
from binaryserver.session import redisstore
from binaryserver.session.boxrecords import RefusalNote
from binaryserver.session.redisstore import RedisSessionStore
from tests.session.contract import DurableSessionStoreContractMixin
from tests.session.contract_base import BOX, LIMITS, NOW, OTHER, messageFor, reactor
from tests.session.contract_records import REFUSED
from tests.session.redisrig import RedisTestCase


class RedisSessionStoreContractTests(DurableSessionStoreContractMixin, RedisTestCase):
    """
    The contract.
    """

    def setUp(self) -> None:
        """
        A prefix of its own.
        """
        self.spec = self.sharedSpec()

    def makeStore(self) -> Awaitable[ISessionStore]:
        """
        See L{SessionStoreContractMixin.makeStore}.
        """
        return succeed(self.storeFor(self.spec))


class RedisSessionStoreTests(RedisTestCase):
    """
    What is its own.
    """

    def setUp(self) -> None:
        """
        A prefix of its own.
        """
        self.spec = self.sharedSpec()

    async def keys(self, store: RedisSessionStore) -> set[str]:
        """
        The keys that there are, without the prefix.
        """
        prefix = store._settings.prefix
        return {key.decode().removeprefix(prefix) for key in await store._link.call("KEYS", f"{prefix}*")}

    def test_plugins(self) -> None:
        """
        Both schemes are found.
        """
        for scheme in ("redis", "rediss"):
            context = BackEndContext(reactor, "--sessions")
            store = createBackEnd(ISessionStorePlugin, f"{scheme}://127.0.0.1:1/0", context)
            self.assertIsInstance(store, RedisSessionStore)

    async def test_manyClaimsAtOnce(self) -> None:
        """
        Over several connections: each gets an epoch of its own, and one of them is the owner in the end.
        """
        stores = [await self.startedStore(self.spec) for _ in range(5)]
        claims = await gatherResults(
            [stores[n % 5].claim(BOX, f"{n % 5}@1", "md30", "192.0.2.1", NOW, False, uuid4().hex) for n in range(50)]
        )
        epochs = sorted(claim.linkEpoch for claim in claims)
        self.assertEqual(epochs, list(range(epochs[0], epochs[0] + 50)))
        self.assertEqual(sorted(claim.previous.linkEpoch for claim in claims if claim.previous), epochs[:-1])
        released = await gatherResults([stores[0].release(BOX, epoch, NOW) for epoch in epochs])
        self.assertEqual(released, [False] * 49 + [True])
        self.assertEqual({key for key in await self.keys(stores[0]) if key.startswith("held:")}, set())

    async def test_manyAdoptAtOnce(self) -> None:
        """
        Over several connections: each box is given to one of them, however its owner and they meet.
        """
        stores = [await self.startedStore(self.spec) for _ in range(5)]
        boxes = [BoxKey("acme", str(number)) for number in range(100)]
        await gatherResults(
            [stores[0].claim(box, "a@1", "md30", "192.0.2.1", NOW, False, uuid4().hex) for box in boxes]
        )
        back = [stores[1].claim(box, "b@1", "md30", "192.0.2.1", NOW, False, uuid4().hex) for box in boxes[:50:5]]
        adopting = [stores[n % 5].adopt("a@1", f"{n}@1", NOW, 9, f"x{n}") for n in range(20)]
        told = [orphan for orphans in await gatherResults(adopting) for orphan in orphans]
        claims = await gatherResults(back)
        self.assertEqual(len({orphan.box for orphan in told}), len(told))
        before = [claim for claim in claims if claim.previous and claim.previous.incarnation == "a@1"]
        self.assertEqual(len(told) + len(before), 100)
        self.assertEqual(await stores[0].adopt("a@1", "b@1", NOW, 9, "y"), [])

    async def test_nothingIsLeft(self) -> None:
        """
        Of a box that was never claimed nothing stays but what is remembered of finished messages, and that goes by
        itself; the due times and the mailbox are empty.
        """
        store = await self.startedStore(self.spec)
        await store.putMessages([messageFor("m1"), messageFor("m2", expiresAt=NOW)], LIMITS, NOW)
        await store.progressMessages([Progress(BOX, "m1", NOW)])
        await store.removeMessages([(BOX, "m1"), (BOX, "m2")])
        self.assertEqual(await self.keys(store), {"finished:acme/box-1", "mail:acme/box-1"})
        for kind in ("finished", "mail"):
            left = await store._link.call("PTTL", f"{store._settings.prefix}{kind}:acme/box-1")
            self.assertTrue(REMEMBERED_MS < left <= REMEMBERED_MS + 60_000, left)
        claim = await store.claim(BOX, "a@1", "md30", "192.0.2.1", NOW, False, uuid4().hex)
        self.assertEqual(await store._link.call("PTTL", f"{store._settings.prefix}mail:acme/box-1"), -1)
        (put,) = await store.putMessages([messageFor("m3")], LIMITS, NOW)
        self.assertEqual(put.entry and put.entry.sequence, 3)
        await store.release(BOX, claim.linkEpoch, NOW)
        await store.bury(1000)
        self.assertNotIn("owners", await self.keys(store))

    async def everything(self, store: RedisSessionStore) -> dict[str, str]:
        """
        All that there is, as text, by its key without the prefix.
        """
        reading = {
            b"string": ("GET",),
            b"hash": ("HGETALL",),
            b"list": ("LRANGE", 0, -1),
            b"set": ("SMEMBERS",),
            b"zset": ("ZRANGE", 0, -1, "WITHSCORES"),
        }
        found = {}
        for key in await self.keys(store):
            name = store._settings.prefix + key
            command, *arguments = reading[await store._link.call("TYPE", name)]
            found[key] = str(await store._link.call(command, name, *arguments))
        return found

    async def test_erasedKeys(self) -> None:
        """
        Whatever happened to a box, nothing names it any more once it was erased, but where its last epoch stands.
        """
        store = await self.startedStore(self.spec)
        boxes = [BoxKey("acme", name) for name in ("secret", "stays")]
        for box in boxes:
            await store.noteRefusals([RefusalNote(box, REFUSED._replace(detail="revoked"), False)])
            await store.claim(box, "z@1", "md30", "192.0.2.1", NOW, False, uuid4().hex)
            await store.claim(box, "a@1", "md30", "192.0.2.1", NOW, False, uuid4().hex)
        for adopter, dead in (("b@1", "a@1"), ("c@1", "b@1"), ("d@1", "c@1")):
            orphans = await store.adopt(dead, adopter, NOW, 9, f"by {adopter}")
        await store.leaseWorker("e@1")
        (link,) = [one for one in orphans if one.box == boxes[0]]
        state = LinkState(link.box, link.linkEpoch + 1, "md30", "192.0.2.1", NOW, (), MqttSession(), True)
        await store.restore("e@1", [state])
        for box in boxes:
            await store.commitMarks([MarkUpdate(box, 7, 10, 100)])
            await store.commitFingerprints([FingerprintUpdate(box, b"8 bytes.")], 1024)
            await store.putMessages([messageFor(f"m{n}", box) for n in range(4)], LIMITS, NOW)
            await store.progressMessages([Progress(box, "m1", NOW), Progress(box, "m2", NOW)])
            await store.removeMessages([(box, "m1")])
        connected = await self.everything(store)
        naming = {key.partition(":")[0] for key, text in connected.items() if "secret" in key + text}
        kinds = {"box", "mail", "queue", "finished", "fingerprints", "due", "held", "linked", "accounts"}
        kinds |= {"names", "events", "tried"}
        self.assertEqual(naming, kinds)
        await store.release(boxes[0], state.linkEpoch, NOW)
        self.assertEqual(await store.erase(boxes[0]), Erased(True, False, 3, 1, 1))
        found = await self.everything(store)
        naming = {key for key, text in found.items() if "secret" in key + text}
        self.assertEqual(naming, {"box:acme/secret", "seen"})
        self.assertEqual(found["box:acme/secret"], str([b"epoch", b"%d" % state.linkEpoch]))
        staying = {key: text for key, text in connected.items() if "stays" in key}
        self.assertEqual({key: found[key] for key in staying}, staying)
        # The other is the adopters' still.
        self.assertEqual({"adopted:by d@1", "held:d@1"} - set(found), set())
        await store.purge(NOW * 2, 10)
        self.assertEqual([key for key, text in (await self.everything(store)).items() if "secret" in key + text], [])

    async def test_adoptedLists(self) -> None:
        """
        What an attempt has adopted names a box no longer than it is its adopter's by it.
        """
        store = await self.startedStore(self.spec)
        boxes = [BoxKey("acme", str(n)) for n in range(4)]
        for box in boxes:
            await store.claim(box, "a@1", "md30", "192.0.2.1", NOW, False, uuid4().hex)
        orphans = {one.box: one for one in await store.adopt("a@1", "b@1", NOW, 9, "x")}
        await store.release(boxes[0], orphans[boxes[0]].linkEpoch, NOW)
        await store.claim(boxes[1], "b@1", "md30", "192.0.2.1", NOW, False, uuid4().hex)
        state = LinkState(boxes[2], orphans[boxes[2]].linkEpoch, "md30", "192.0.2.1", NOW, (), None, True)
        await store.restore("b@1", [state])
        self.assertEqual((await self.everything(store))["adopted:x"], str([b"acme/3"]))
        await store.adopt("b@1", "c@1", NOW, 9, "y")
        self.assertNotIn("adopted:x", await self.keys(store))

    async def test_lostMemory(self) -> None:
        """
        What owners write again counts as connected again, and no other box has room.
        """
        store = await self.startedStore(self.spec)
        links = [LinkState(BoxKey("acme", str(n)), 7, "md30", "192.0.2.1", NOW, (), None, False) for n in range(3)]
        await store.restore("a@1", links)
        for key in await self.keys(store):
            await store._link.call("DEL", store._settings.prefix + key)
        await store.restore("a@1", links[:2])
        await store.claim(BOX, "b@1", "md30", "192.0.2.1", NOW, False, "x", 3)
        await self.errorOf(store.claim(OTHER, "b@1", "md30", "192.0.2.1", NOW, False, "x", 3), AccountFull)

    async def test_bucketsGo(self) -> None:
        """
        A bucket goes by itself when it is full again.
        """
        store = await self.startedStore(self.spec)
        await store.draw([Draw("acme", "messages", 10.0, 10.0), Draw("acme", "bytes", 1.0, 1e6)])
        left = await store._link.call("PTTL", f"{store._settings.prefix}bucket:acme/messages")
        self.assertTrue(500 < left <= 1000, left)
        await self.sleep(0.05)
        self.assertEqual(await self.keys(store), {"bucket:acme/messages"})

    async def test_oneRoundTrip(self) -> None:
        """
        Claims with a limit, draws, erasures and purges are one script each.
        """
        store = await self.startedStore(self.spec)
        calls: list[Deferred[Any]] = [
            store.claim(BOX, "a@1", "md30", "192.0.2.1", NOW, False, "x", 5),
            store.draw([Draw("acme", str(n), 1.0, 1.0) for n in range(20)]),
            store.erase(OTHER),
            store.purge(NOW, 10),
        ]
        self.assertEqual(len(store._link._sent), 4)
        for call in calls:
            await call

    async def test_runningCount(self) -> None:
        """
        The running count and bytes of a mailbox are those of what has no final status.
        """
        store = await self.startedStore(self.spec)
        messages = [messageFor(f"m{n}", payload=bytes(n), wantAck=n % 2 == 0) for n in range(10)]
        await store.putMessages(messages, LIMITS, NOW)
        await store.progressMessages([Progress(BOX, f"m{n}", NOW) for n in range(5)])
        await store.removeMessages([(BOX, f"m{n}") for n in range(5)])
        live, size = await store._link.call("HMGET", f"{store._settings.prefix}mail:acme/box-1", "live", "bytes")
        self.assertEqual((int(live), int(size)), (8, 0 + 2 + 4 + sum(range(5, 10))))
        await store.dueMessages(NOW + 60_000, 100)
        live, size = await store._link.call("HMGET", f"{store._settings.prefix}mail:acme/box-1", "live", "bytes")
        self.assertEqual((int(live), int(size)), (0, 0))

    async def test_largeBatch(self) -> None:
        """
        More than one script takes: sent without waiting, done in order, answered in order.
        """
        store = await self.startedStore(self.spec)
        messages = [messageFor(f"m{n}", BoxKey("acme", str(n % 700)), bytes(5000)) for n in range(1400)]
        putting = store.putMessages(messages, LIMITS, NOW)
        self.assertEqual(len(store._link._sent), 7)
        puts = await putting
        self.assertEqual([put.entry and put.entry.message for put in puts], messages)
        self.assertEqual([put.entry and put.entry.sequence for put in puts], [1] * 700 + [2] * 700)
        heard = await store.progressMessages([Progress(message.box, message.id, NOW) for message in messages])
        self.assertEqual([entry and entry.message.id for entry in heard], [message.id for message in messages])
        await store.removeMessages([(message.box, message.id) for message in messages])
        self.assertEqual(await store.mailbox(BoxKey("acme", "699")), [])
        await store.commitMarks([MarkUpdate(message.box, n, n, n) for n, message in enumerate(messages)])
        self.assertEqual([mark.stream for mark in await store.marks(BoxKey("acme", "3"))], [3, 703])

    async def test_everyNumberTaken(self) -> None:
        """
        No instance that was heard of within a day loses its number; the one longest away does then.
        """
        self.patch(redisstore, "MAX_WORKERS", 3)
        store = await self.startedStore(self.spec)
        self.assertEqual([await store.leaseWorker(f"host-{n}@1") for n in range(3)], [0, 1, 2])
        # It counts in ms.
        await self.sleep(0.01)
        await store.renew("host-0@1")
        error = await self.errorOf(store.leaseWorker("one-more@1"), StoreError)
        self.assertIn("all 3 worker numbers are taken", str(error))
        self.assertEqual(await store.leaseWorker("host-2@2"), 2)
        self.patch(redisstore, "_LAPSED_MS", 0)
        self.assertEqual(await store.leaseWorker("one-more@1"), 1)
        self.assertTrue(await store.isDead("host-1@1"))

    async def test_erasedByHand(self) -> None:
        """
        What an operator deleted does not stop sweeps and adoptions of what is left.
        """
        store = await self.startedStore(self.spec)
        for box in (BOX, OTHER):
            await store.claim(box, "a@1", "md30", "192.0.2.1", NOW, False, uuid4().hex)
            await store.putMessages([messageFor("m1", box, expiresAt=NOW + 1)], LIMITS, NOW)
        for kind in ("box", "mail"):
            await store._link.call("DEL", f"{store._settings.prefix}{kind}:acme/box-1")
        self.assertEqual([orphan.box for orphan in await store.adopt("a@1", "b@1", NOW, 10, "x")], [OTHER])
        self.assertEqual([entry.message.box for entry in await store.dueMessages(NOW + 1, 10)], [OTHER])
        claim = await store.claim(BOX, "a@1", "md30", "192.0.2.1", NOW, False, uuid4().hex)
        self.assertEqual(await store.takeMessages([Take(BOX, claim.linkEpoch, 0, 9)], NOW), [[]])

    async def test_spoilt(self) -> None:
        """
        What others wrote under the same keys fails what reads it, with a L{StoreError}, and nothing else.
        """
        store = await self.startedStore(self.spec)
        claim = await store.claim(BOX, "a@1", "md30", "192.0.2.1", NOW, False, uuid4().hex)
        await store.putMessages([messageFor("m1")], LIMITS, NOW)
        prefix = store._settings.prefix
        await store._link.call("HSET", f"{prefix}box:acme/box-1", "mqtt", "[1", "marks", "ü")
        await store._link.call("HSET", f"{prefix}mail:acme/box-1", "b:1", "no tab")
        await store._link.call("SADD", f"{prefix}accounts:box-1", b"\xff")
        calls: list[Callable[[], Deferred[Any]]] = [
            lambda: store.claim(BOX, "a@1", "md30", "192.0.2.1", NOW, False, uuid4().hex),
            lambda: store.marks(BOX),
            lambda: store.accounts("box-1"),
            lambda: store.mailbox(BOX),
            lambda: store.takeMessages([Take(BOX, claim.linkEpoch + 1, 0, 9)], NOW),
        ]
        for call in calls:
            self.assertNotIsInstance(await self.errorOf(call(), StoreError), StoreUnavailable)
        clean = await store.claim(OTHER, "a@1", "md30", "192.0.2.1", NOW, True, uuid4().hex)
        self.assertIsNone(clean.previous)

    async def test_cancelled(self) -> None:
        """
        A call that its caller gave up is done all the same, and shifts no other's answer.
        """
        store = await self.startedStore(self.spec)
        await store.commitMarks([MarkUpdate(BOX, 1, 1, 1)])
        given = [store.marks(BOX) for _ in range(3)]
        failing = self.errorOf(given[1], CancelledError)
        others: list[Deferred[Any]] = [
            store.isDead("a@1"),
            store.marks(OTHER),
            store.claim(BOX, "a@1", "md30", "192.0.2.1", NOW, False, uuid4().hex),
        ]
        given[1].cancel()
        await failing
        self.assertEqual([await given[0], await given[2]], [(StreamMark(1, 1, 1),)] * 2)
        isDead, marks, claim = await gatherResults(others)
        self.assertEqual((isDead, marks, claim.marks), (True, (), (StreamMark(1, 1, 1),)))
        self.assertEqual((len(store._link._sent), store._link._size), (0, 0))
