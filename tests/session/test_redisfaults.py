"""
Tests for L{binaryserver.session.redislink} and what stands on it: real servers that are frozen, killed and emptied.
"""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol

from binaryserver.errors import ConfigError, StoreError, StoreNotAsked, StoreUnavailable
from binaryserver.model import (
    EPOCH_2010_MS,
    BoxKey,
    LinkState,
    MarkUpdate,
    MqttSession,
    Progress,
    Renewal,
    StreamMark,
    Take,
)
from binaryserver.session import redislink
from binaryserver.session.redisstore import RedisSessionStore
from tests.session.contract_base import BOX, LIMITS, NOW, OTHER, messageFor, reactor
from tests.session.redisrig import RedisServer, RedisTestCase

AOF = ("--appendonly", "yes", "--appendfsync", "always")


class RestartTests(RedisTestCase):
    """
    A server that ends and comes back.
    """

    async def returned(self, store: RedisSessionStore) -> None:
        """
        Fires once calls are answered again.
        """
        for _ in range(50):
            try:
                await store.isDead("nobody@1")
                return
            except StoreUnavailable:
                await self.sleep(0.1)
        self.fail("it does not come back by itself")

    async def test_everythingIsKept(self) -> None:
        """
        Where it syncs each write, C{kill -9} loses nothing that was answered; the store goes on by itself.
        """
        server = self.startServer(*AOF)
        store = await self.startedStore(f"redis://127.0.0.1:{server.port}/2")
        self.assertEqual(store.warnings, ())
        number = await store.leaseWorker("a@1")
        claim = await store.claim(BOX, "a@1", "md30", "192.0.2.1", NOW, False, uuid4().hex)
        await store.saveMqtt(BOX, claim.linkEpoch, MqttSession((("d", 1),)), True)
        await store.commitMarks([MarkUpdate(BOX, 7, 2**64 - 1, 100)])
        await store.putMessages([messageFor("m1"), messageFor("m2")], LIMITS, NOW)
        await store.progressMessages([Progress(BOX, "m1", NOW)])
        await store.removeMessages([(BOX, "m1")])
        server.kill9()
        server.start()
        await self.returned(store)
        self.assertIs(await store.renew("a@1"), Renewal.renewed)
        self.assertEqual(await store.leaseWorker("a@2"), number)
        self.assertEqual(await store.marks(BOX), (StreamMark(7, 2**64 - 1, 100),))
        ((entry,),) = [found or [] for found in await store.takeMessages([Take(BOX, claim.linkEpoch, 0, 9)], NOW)]
        self.assertEqual((entry.message, entry.sequence), (messageFor("m2"), 2))
        (put,) = await store.putMessages([messageFor("m1")], LIMITS, NOW)
        self.assertEqual((put.entry, put.isNew), (None, False))

    async def test_memoryIsLost(self) -> None:
        """
        Where it keeps nothing, an incarnation is unknown after a restart; its owner writes it all again, with the
        number it had, and epochs grow on.
        """
        server = self.startServer()
        store = await self.startedStore(f"redis://127.0.0.1:{server.port}/0")
        await store.leaseWorker("other@1")
        number = await store.leaseWorker("a@1")
        claim = await store.claim(BOX, "a@1", "md30", "192.0.2.1", NOW, False, uuid4().hex)
        server.kill9()
        server.start()
        await self.returned(store)
        self.assertIs(await store.renew("a@1"), Renewal.unknown)
        self.assertEqual(await store.leaseWorker("a@1", number), number)
        marks = (StreamMark(7, 10, 100),)
        state = LinkState(BOX, claim.linkEpoch, "md30", "192.0.2.1", NOW, marks, MqttSession(), True)
        self.assertEqual(await store.restore("a@1", [state]), [True])
        again = await store.claim(BOX, "b@1", "md30", "192.0.2.1", NOW, False, uuid4().hex)
        self.assertEqual((again.linkEpoch, again.marks, again.mqtt), (claim.linkEpoch + 1, marks, MqttSession()))
        self.assertEqual(again.previous and again.previous.incarnation, "a@1")

    async def test_callsWhileAway(self) -> None:
        """
        They wait for a short time, and fail; one that waits when it comes back is answered.
        """
        server = self.startServer(*AOF)
        store = await self.startedStore(f"redis://127.0.0.1:{server.port}/0")
        server.kill9()
        began = time.monotonic()
        error = await self.errorOf(store.marks(BOX), StoreUnavailable)
        self.assertIn("--sessions: redis://127.0.0.1:", str(error))
        error = await self.errorOf(store.marks(BOX), StoreNotAsked)
        self.assertIn("cannot be reached", str(error))
        self.assertLess(time.monotonic() - began, 2 * redislink.PATIENCE + 1)
        waiting = store.commitMarks([MarkUpdate(BOX, 1, 2, 3)])
        server.start()
        await waiting
        self.assertEqual(await store.marks(BOX), (StreamMark(1, 2, 3),))

    async def test_emptied(self) -> None:
        """
        C{FLUSHALL}: as if nobody had ever been there.
        """
        server = self.startServer()
        store = await self.startedStore(f"redis://127.0.0.1:{server.port}/0")
        await store.leaseWorker("a@1")
        await store.claim(BOX, "a@1", "md30", "192.0.2.1", NOW, False, uuid4().hex)
        await store._link.call("FLUSHALL")
        self.assertIs(await store.renew("a@1"), Renewal.unknown)
        again = await store.claim(BOX, "a@1", "md30", "192.0.2.1", NOW + 5, False, uuid4().hex)
        self.assertEqual((again.linkEpoch, again.previous), (NOW + 5 - EPOCH_2010_MS, None))


class FreezeTests(RedisTestCase):
    """
    A server that keeps its connections and answers nothing.
    """

    async def test_frozen(self) -> None:
        """
        Calls fail once the time for an answer is over, those that come meanwhile sooner; after the thaw new calls are
        answered, each with its own answer.
        """
        server = self.startServer(*AOF)
        store = await self.startedStore(f"redis://127.0.0.1:{server.port}/0?timeout=1")
        await store.commitMarks([MarkUpdate(BOX, 1, 2, 3)])
        server.freeze()
        self.addCleanup(server.thaw)
        began = time.monotonic()
        calls: list[Deferred[Any]] = [store.marks(BOX) for _ in range(5)]
        calls.append(store.commitMarks([MarkUpdate(OTHER, 4, 5, 6)]))
        answers = await DeferredList(calls, consumeErrors=True)
        self.assertLess(time.monotonic() - began, 2)
        for isAnswered, failure in answers:
            self.assertFalse(isAnswered)
            self.assertTrue(failure.check(StoreUnavailable), failure)
            self.assertFalse(failure.check(StoreNotAsked), failure)
            self.assertIn("has not answered for 1 s", str(failure.value))
        await self.errorOf(store.marks(BOX), StoreNotAsked)
        server.thaw()
        await self.sleep(2.5)
        names = [BoxKey("acme", str(number)) for number in range(50)]
        await gatherResults([store.commitMarks([MarkUpdate(box, n, n, n)]) for n, box in enumerate(names)])
        marks = await gatherResults([store.marks(box) for box in names])
        self.assertEqual(marks, [(StreamMark(n, n, n),) for n in range(50)])

    async def test_claimWhoseAnswerWasLost(self) -> None:
        """
        It is done once it thaws, and done once: asked again, it answers with the epoch and the owner of the first time.
        """
        server = self.startServer(*AOF)
        store = await self.startedStore(f"redis://127.0.0.1:{server.port}/0?timeout=0.5")
        first = await store.claim(BOX, "a@1", "md30", "192.0.2.1", NOW, False, "one")
        server.freeze()
        self.addCleanup(server.thaw)
        await self.errorOf(store.claim(BOX, "b@1", "md30", "192.0.2.1", NOW, False, "two"), StoreUnavailable)
        server.thaw()
        again = store.claim(BOX, "b@1", "md30", "192.0.2.1", NOW, False, "two")
        claims = [await again, await store.claim(BOX, "b@1", "md30", "192.0.2.1", NOW, False, "two")]
        self.assertEqual([claim.linkEpoch for claim in claims], [first.linkEpoch + 1] * 2)
        self.assertEqual([claim.previous and claim.previous.incarnation for claim in claims], ["a@1"] * 2)

    async def test_thawedInTime(self) -> None:
        """
        A short freeze costs time and nothing else.
        """
        server = self.startServer(*AOF)
        store = await self.startedStore(f"redis://127.0.0.1:{server.port}/0")
        server.freeze()
        reactor.callLater(0.6, server.thaw)
        await store.commitMarks([MarkUpdate(BOX, 1, 2, 3)])
        self.assertEqual(await store.marks(BOX), (StreamMark(1, 2, 3),))

    async def test_stopWhileFrozen(self) -> None:
        """
        A stop does not wait for longer than it may; what was under way fails.
        """
        server = self.startServer()
        store = await self.startedStore(f"redis://127.0.0.1:{server.port}/0?timeout=30", stopTimeout=0.5)
        server.freeze()
        self.addCleanup(server.thaw)
        failing = self.errorOf(store.marks(BOX), StoreUnavailable)
        began = time.monotonic()
        await store.stop()
        await failing
        self.assertLess(time.monotonic() - began, 2)
        await self.errorOf(store.marks(BOX), StoreUnavailable)


class CutTests(RedisTestCase):
    """
    Connections that are cut, and scripts that are forgotten.
    """

    async def test_cut(self) -> None:
        """
        What was under way fails at once, and calls after it are answered over a new connection.
        """
        store = await self.startedStore(self.sharedSpec())
        other = await self.startedStore(self.sharedSpec())
        for _ in range(3):
            number = await store._link.call("CLIENT", "ID")
            blocked = self.errorOf(store._link.call("BLPOP", f"{store._settings.prefix}nothing", 0), StoreUnavailable)
            self.assertEqual(await other._link.call("CLIENT", "KILL", "ID", number), 1)
            began = time.monotonic()
            await blocked
            await store.commitMarks([MarkUpdate(BOX, 1, 2, 3)])
            self.assertLess(time.monotonic() - began, 1.5)

    async def test_scriptFlush(self) -> None:
        """
        Scripts that Redis has forgotten are sent again; calls that came together are done in their order.
        """
        store = await self.startedStore(self.sharedSpec())
        await store._link.call("SCRIPT", "FLUSH")
        await gatherResults([store.commitMarks([MarkUpdate(BOX, n, n, n)]) for n in range(8)])
        self.assertEqual([mark.stream for mark in await store.marks(BOX)], [4, 5, 6, 7])
        await store._link.call("SCRIPT", "FLUSH")
        await store.putMessages([messageFor("m1")], LIMITS, NOW)
        self.assertEqual(len(await store.mailbox(BOX)), 1)

    async def test_tooManyWait(self) -> None:
        """
        More than a bound fail at once.
        """
        self.patch(redislink, "MOST_CALLS", 10)
        server = self.startServer()
        store = await self.startedStore(f"redis://127.0.0.1:{server.port}/0")
        server.freeze()
        calls = [store.marks(BOX) for _ in range(10)]
        error = await self.errorOf(store.marks(BOX), StoreNotAsked)
        self.assertIn("10 calls", str(error))
        server.thaw()
        self.assertEqual(await gatherResults(calls), [()] * 10)
        self.assertEqual(store._link._size, 0)
        self.assertEqual(await store.marks(BOX), ())

    async def test_refusedCall(self) -> None:
        """
        What Redis refuses fails that call alone; what it refuses for now says that it is not to be reached.
        """
        server = self.startServer("--maxmemory", "100mb")
        store = await self.startedStore(f"redis://127.0.0.1:{server.port}/0")
        await store._link.call("SET", "binaryserver:box:acme/box-1", "not a hash")
        error = await self.errorOf(store.marks(BOX), StoreError)
        self.assertNotIsInstance(error, StoreUnavailable)
        self.assertIn("WRONGTYPE", str(error))
        self.assertEqual(await store.marks(OTHER), ())
        await store._link.call("CONFIG", "SET", "maxmemory", "1")
        error = await self.errorOf(
            store.claim(OTHER, "a@1", "md30", "192.0.2.1", NOW, False, uuid4().hex), StoreUnavailable
        )
        self.assertIn("OOM", str(error))
        await store._link.call("CONFIG", "SET", "maxmemory", "0")
        await store.claim(OTHER, "a@1", "md30", "192.0.2.1", NOW, False, uuid4().hex)


class StartTests(RedisTestCase):
    """
    What is wrong at the start is one line that names the option.
    """

    async def startError(self, spec: str, kind: type[Exception], startTimeout: float = 1.5) -> str:
        """
        What a start fails with, within its time.
        """
        store = self.storeFor(spec, startTimeout)
        began = time.monotonic()
        text = str(await self.errorOf(store.start(), kind))
        self.assertLess(time.monotonic() - began, startTimeout + 0.5)
        self.assertNotIn("\n", text)
        self.assertTrue(text.startswith("--sessions: "), text)
        self.assertNotIn("secret", text)
        await store.stop()
        return text

    async def test_password(self) -> None:
        """
        None, a wrong one, the right one; and one where none is wanted. The text does not tell it.
        """
        server = self.startServer("--requirepass", "s3cret:/?#")
        address = f"127.0.0.1:{server.port}/0"
        self.assertIn("wants a password", await self.startError(f"redis://{address}", ConfigError))
        wrong = await self.startError(f"redis://:secret@{address}", ConfigError)
        self.assertIn("does not let us in", wrong)
        store = await self.startedStore(f"redis://:s3cret%3A%2F%3F%23@{address}")
        await store.commitMarks([MarkUpdate(BOX, 1, 2, 3)])
        open_ = self.startServer()
        text = await self.startError(f"redis://:secret@127.0.0.1:{open_.port}/0", ConfigError)
        self.assertIn("without any password configured", text)

    async def test_user(self) -> None:
        """
        A user of an access control list, who may not look at the configuration: a warning says so.
        """
        rights = "user bs on >pw ~* &* +@all -config -info -@dangerous"
        server = self.startServer()
        admin = await self.startedStore(f"redis://127.0.0.1:{server.port}/0")
        await admin._link.call("ACL", "SETUSER", *rights.split(" ")[1:])
        store = await self.startedStore(f"redis://bs:pw@127.0.0.1:{server.port}/0")
        self.assertEqual(len(store.warnings), 2)
        self.assertIn("version could not be checked: NOPERM", store.warnings[0])
        self.assertIn("could not be checked: NOPERM", store.warnings[1])
        await store.claim(BOX, "a@1", "md30", "192.0.2.1", NOW, False, uuid4().hex)

    async def test_database(self) -> None:
        """
        One that is not there.
        """
        server = self.startServer("--databases", "4")
        text = await self.startError(f"redis://127.0.0.1:{server.port}/4", ConfigError)
        self.assertIn("has no database 4", text)

    async def test_unreachable(self) -> None:
        """
        Nobody listens; nobody answers; nobody has that name.
        """
        server = RedisServer()
        self.addCleanup(server.close)
        self.assertIn("refused", await self.startError(f"redis://127.0.0.1:{server.port}/0", StoreUnavailable))
        server.start()
        server.freeze()
        self.addCleanup(server.thaw)
        text = await self.startError(f"redis://127.0.0.1:{server.port}/0", StoreUnavailable)
        self.assertIn("no answer within", text)
        await self.startError("redis://no-such-host.invalid:6379/0", StoreUnavailable)

    async def test_comesInTime(self) -> None:
        """
        A server that starts a little later is waited for.
        """
        server = RedisServer(*AOF)
        self.addCleanup(server.close)
        reactor.callLater(0.3, server.start)
        store = await self.startedStore(f"redis://127.0.0.1:{server.port}/0")
        self.assertEqual(await store.marks(BOX), ())

    async def test_notRedis(self) -> None:
        """
        Something else that answers, and something that closes.
        """

        class Http(Protocol):
            def dataReceived(self, data: bytes) -> None:
                assert self.transport is not None
                self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        class Closes(Protocol):
            def dataReceived(self, data: bytes) -> None:
                assert self.transport is not None
                self.transport.loseConnection()

        texts = []
        for protocol, kind in ((Http, ConfigError), (Closes, StoreUnavailable)):
            port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(Factory.forProtocol(protocol))
            self.addCleanup(port.stopListening)
            texts.append(await self.startError(f"redis://127.0.0.1:{port.getHost().port}/0", kind))
        self.assertIn("begins no reply of Redis", texts[0])
        self.assertIn("closed the connection; does it speak TLS", texts[1])

    async def test_version(self) -> None:
        """
        One that is too old, and a part of a cluster.
        """

        class Fake(Protocol):
            info = b""

            def dataReceived(self, data: bytes) -> None:
                assert self.transport is not None
                if data.startswith(b"*"):
                    answer = b"$%d\r\n%s\r\n" % (len(self.info), self.info) if b"INFO" in data else b"+OK\r\n"
                    self.transport.write(answer)

        texts = []
        for info in (b"redis_version:5.0.14\r\nredis_mode:standalone", b"redis_version:7.0.0\r\nredis_mode:cluster"):
            factory = Factory.forProtocol(type("Fake", (Fake,), {"info": info}))
            port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
            self.addCleanup(port.stopListening)
            texts.append(await self.startError(f"redis://127.0.0.1:{port.getHost().port}/0", ConfigError))
        self.assertIn("Redis 5.0.14 is too old; 6.0 or later is wanted", texts[0])
        self.assertIn("part of a cluster", texts[1])

    async def test_warnings(self) -> None:
        """
        Of one that may lose what it has acked, or throws away what it has no room for.
        """
        server = self.startServer("--appendonly", "yes", "--appendfsync", "everysec")
        await self.startedStore(f"redis://127.0.0.1:{server.port}/0")
        store = await self.startedStore(f"redis://127.0.0.1:{server.port}/0")
        self.assertIn("appendfsync is everysec", store.warnings[0])
        lru = self.startServer("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
        warnings = (await self.startedStore(f"redis://127.0.0.1:{lru.port}/0")).warnings
        self.assertIn("appendonly is no", warnings[0])
        self.assertIn("maxmemory-policy is allkeys-lru", warnings[1])
