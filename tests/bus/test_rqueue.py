"""
Tests for L{binaryserver.bus.rqueue} and L{binaryserver.bus.rqueue_settings}, on real Redis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from binaryserver.bus.rqueue import MOST_PUSHED, RQueue
from binaryserver.bus.rqueue_settings import DEFAULT_MAX_LENGTH, parseRQueue
from binaryserver.bus.topics import Topics
from binaryserver.errors import BusError, BusUnavailable, ConfigError
from binaryserver.model import Record
from binaryserver.plugins import BackEndContext
from binaryserver.session.redislink import RedisLink
from binaryserver.transcode.cloudconnect_layout import Kind
from binaryserver.transcode.cloudconnect_reading import decodeEvent
from tests.services import freePort, requireRedis
from tests.session.contract_base import reactor
from tests.session.redisrig import RedisServer
from tests.shovel.events import messageOf, presenceOf, trackRecords

TOPICS = Topics.named("t.")


def noting(fired: list[int], number: int) -> Callable[[None], None]:
    """
    A callback that notes that a flush fired.
    """
    return lambda _: fired.append(number)


class SettingsTests(SynchronousTestCase):
    """
    What C{--cloudconnect} may say.
    """

    def test_good(self) -> None:
        """
        Everything that it may.
        """
        plain = parseRQueue("rqueue://127.0.0.1:6379/3", "--cloudconnect")
        self.assertEqual((plain.redis.host, plain.redis.port, plain.redis.db), ("127.0.0.1", 6379, 3))
        self.assertEqual(plain.maxLength, DEFAULT_MAX_LENGTH)
        self.assertEqual(
            [plain.listOf(kind) for kind in Kind], ["rqueue:tracks", "rqueue:messages", "rqueue:presences"]
        )
        full = parseRQueue("rqueue://:se%3Fcret@[::1]:1/0?prefix=cc%26.&max-length=5&timeout=2", "--cloudconnect")
        self.assertEqual((full.redis.password, full.redis.timeout, full.maxLength), ("se?cret", 2.0, 5))
        self.assertEqual(full.listOf(Kind.track), "cc&.tracks")
        self.assertEqual([plain.copyOf(kind) for kind in Kind], ["", "", ""])
        copied = parseRQueue("rqueue://x/0?copy=shovel:", "--cloudconnect")
        self.assertEqual(
            (copied.listOf(Kind.message), copied.copyOf(Kind.message)), ("rqueue:messages", "shovel:messages")
        )
        self.assertIsNone(full.redis.tls)
        self.assertIsNotNone(parseRQueue("rqueues://redis.example", "--cloudconnect").redis.tls)

    def test_bad(self) -> None:
        """
        One line that names the option and what is wrong with it, and never the password.
        """
        for spec, reason in (
            ("", "the form is rqueue://"),
            ("redis://127.0.0.1/0", "the form is rqueue://"),
            ("rqueue:", "the form is rqueue://"),
            ("rqueue://:geheim@/0", "the form is rqueue://"),
            ("rqueue://:geheim@x:0/0", "port"),
            ("rqueue://:geheim@x:99999/0", "the form is rqueue://"),
            ("rqueue://[x/0", "the form is rqueue://"),
            ("rqueue://:geheim@x/tracks", "not the number of a database: rqueue://"),
            ("rqueue://x/0?max-length=0", "max-length"),
            ("rqueue://x/0?max-length=-1", "max-length"),
            ("rqueue://x/0?max-length=much", "max-length"),
            ("rqueue://x/0?max-length=", "max-length"),
            ("rqueue://x/0?max-length=1&max-length=2", "twice"),
            ("rqueue://x/0?timeout=0", "timeout"),
            ("rqueue://x/0?copy=", "copy is ''"),
            ("rqueue://x/0?copy=rqueue:", "other than that of the lists themselves"),
            ("rqueue://x/0?copy=a:&copy=b:", "twice"),
            ("rqueue://x/0?prefix=", "prefix is empty"),
            ("rqueue://x/0?length=1", "max-length"),
            ("rqueue://x/0?ca=x", "needs TLS: rqueues://"),
            ("rqueue://x/0?max-length", "the form is rqueue://"),
            ("rqueue://:x/geheim@x/0", "the form is rqueue://"),
            ("rqueue://u:12?geheim=x@x/0", "the form is rqueue://"),
            ("rqueue://:geheim@x/0?password-file=/none/such", "do not go together"),
            ("rqueue://x/0?password-file=/none/such", "password-file: cannot read /none/such"),
        ):
            error = self.assertRaises(ConfigError, parseRQueue, spec, "--cloudconnect")
            text = str(error)
            self.assertTrue(text.startswith("--cloudconnect: "), text)
            self.assertEqual(text.count("--cloudconnect"), 1)
            self.assertIn(reason, text)
            self.assertNotIn("geheim", text)
            self.assertNotIn("\n", text)


class RQueueTestCase(TestCase):
    """
    Makes queues, and leaves nothing in the shared Redis.
    """

    timeout = 60

    def setUp(self) -> None:
        self.prefix = f"test-{uuid4().hex[:12]}:"

    def context(self, stopTimeout: float = 5.0, startTimeout: float = 5.0) -> BackEndContext:
        """
        Of the option.
        """
        return BackEndContext(reactor, "--cloudconnect", startTimeout=startTimeout, stopTimeout=stopTimeout)

    async def queueAt(self, port: int, options: str = "", stopTimeout: float = 5.0) -> RQueue:
        """
        A started one.
        """
        spec = f"rqueue://127.0.0.1:{port}/0?prefix={self.prefix}&timeout=2{options}"
        queue = RQueue(spec, self.context(stopTimeout), TOPICS)
        self.addCleanup(queue.stop)
        await queue.start()
        return queue

    async def shared(self, options: str = "") -> RQueue:
        """
        One on the shared Redis.
        """
        _, port = requireRedis()
        self.link = await self.linkTo(port)
        self.addCleanup(self.clean)
        return await self.queueAt(port, options)

    async def linkTo(self, port: int) -> RedisLink:
        """
        A connection to look at what there is.
        """
        settings = parseRQueue(f"rqueue://127.0.0.1:{port}/0?prefix={self.prefix}", "test").redis
        link = RedisLink(reactor, settings, "test")
        self.addCleanup(link.stop, 0)
        await link.start(10)
        return link

    def clean(self) -> Deferred[None]:
        """
        Leave nothing.
        """

        async def clean() -> None:
            keys = await self.link.call("KEYS", f"{self.prefix}*")
            if keys:
                await self.link.call("DEL", *keys)

        return Deferred.fromCoroutine(clean())

    async def stored(self, name: str = "tracks", link: RedisLink | None = None) -> list[Record]:
        """
        What stands in a list, as CloudNext's.
        """
        found = await (link or self.link).call("LRANGE", f"{self.prefix}{name}", 0, -1)
        return [decodeEvent(each).record for each in found]

    async def errorOf(self, deferred: Deferred[None], kind: type[Exception]) -> Exception:
        """
        What a Deferred fails with.
        """
        error: Any = self.assertFailure(deferred, kind)
        return await error  # type: ignore[no-any-return]

    def server(self, *options: str) -> RedisServer:
        """
        A Redis that may be ended.
        """
        server = RedisServer(*options)
        self.addCleanup(server.close)
        server.start()
        return server


class RQueueTests(RQueueTestCase):
    """
    On the shared Redis.
    """

    async def test_publish(self) -> None:
        """
        Each topic has its list; events stand there in the order of their flushes, whole; nothing is pending then.
        """
        queue = await self.shared()
        tracks = trackRecords(0, 10)
        self.assertEqual(queue.topics, {TOPICS.tracks, TOPICS.messages, TOPICS.presences})
        done = [queue.publish(TOPICS.tracks, n % 3, tracks[n : n + 2]) for n in range(0, 10, 2)]
        done.append(queue.publish(TOPICS.messages, 0, [messageOf(1)]))
        done.append(queue.publish(TOPICS.presences, 0, [presenceOf(1), presenceOf(2)], shared=True))
        self.assertGreater(queue.pendingBytes, sum(len(each.value) for each in tracks))
        await gatherResults(done)
        self.assertEqual(queue.pendingBytes, 0)
        self.assertEqual(await self.stored(), tracks)
        self.assertEqual(await self.stored("messages"), [messageOf(1)])
        self.assertEqual(await self.stored("presences"), [presenceOf(1), presenceOf(2)])
        last = await self.link.call("LINDEX", f"{self.prefix}presences", -1)
        self.assertTrue(decodeEvent(last).shared)

    async def test_inOrder(self) -> None:
        """
        Flushes fire in their order, however many pushes they take; empty ones, too.
        """
        queue = await self.shared()
        tracks = trackRecords(0, MOST_PUSHED * 2 + 3)
        fired: list[int] = []
        done = []
        for number, (start, end) in enumerate(((0, 1), (1, 1), (1, MOST_PUSHED + 7), (MOST_PUSHED + 7, len(tracks)))):
            flush = queue.publish(TOPICS.tracks, 0, tracks[start:end])
            done.append(flush.addCallback(noting(fired, number)))
        await gatherResults(done)
        self.assertEqual(fired, [0, 1, 2, 3])
        self.assertEqual(await self.stored(), tracks)

    async def test_maxLength(self) -> None:
        """
        A full list takes what there is room for; the rest waits, in order, until the list is read, and is not lost.
        """
        queue = await self.shared("&max-length=4")
        tracks = trackRecords(0, 10)
        fired: list[int] = []
        for number in range(5):
            last = queue.publish(TOPICS.tracks, 0, tracks[2 * number : 2 * number + 2])
            last.addCallback(noting(fired, number))
        others = queue.publish(TOPICS.presences, 0, [presenceOf(1)])
        await deferLater(reactor, 0.6)
        self.assertEqual(fired, [0, 1])
        self.assertGreater(queue.pendingBytes, 0)
        await others
        read: list[Record] = []
        for _ in range(100):
            found = await self.link.call("LPOP", f"{self.prefix}tracks", 3)
            read += [decodeEvent(each).record for each in found or ()]
            if len(read) == 10:
                break
            self.assertLessEqual(await self.link.call("LLEN", f"{self.prefix}tracks"), 4)
            await deferLater(reactor, 0.1)
        self.assertEqual(read, tracks)
        await last
        self.assertEqual((fired, queue.pendingBytes), ([0, 1, 2, 3, 4], 0))

    async def test_copy(self) -> None:
        """
        A second reader has lists of its own, with the same events; when either is full, both wait.
        """
        queue = await self.shared(f"&copy={self.prefix}two:&max-length=4")
        tracks = trackRecords(0, 6)
        done = queue.publish(TOPICS.tracks, 0, tracks)
        await deferLater(reactor, 0.3)
        self.assertEqual(await self.stored(), tracks[:4])
        self.assertEqual(await self.stored("two:tracks"), tracks[:4])
        await self.link.call("LTRIM", f"{self.prefix}tracks", 3, -1)
        await deferLater(reactor, 0.5)
        self.assertEqual(await self.stored(), tracks[3:4])
        await self.link.call("LTRIM", f"{self.prefix}two:tracks", 4, -1)
        await done
        self.assertEqual(await self.stored(), tracks[3:])
        self.assertEqual(await self.stored("two:tracks"), tracks[4:])

    async def test_stopWhileFull(self) -> None:
        """
        A stop ends in time, and what has no room fails.
        """
        queue = await self.shared("&max-length=1")
        queue._context = self.context(stopTimeout=0.5)
        fired: list[object] = []
        for record in trackRecords(0, 3):
            queue.publish(TOPICS.tracks, 0, [record]).addBoth(fired.append)
        await queue.stop()
        self.assertEqual([isinstance(one, Failure) for one in fired], [False, True, True])
        self.assertEqual(queue.pendingBytes, 0)
        await self.assertFailure(queue.publish(TOPICS.tracks, 0, trackRecords(0, 1)), BusError)

    async def test_stopDrains(self) -> None:
        """
        A stop lets end what is pending.
        """
        queue = await self.shared()
        tracks = trackRecords(0, 5000)
        done = queue.publish(TOPICS.tracks, 0, tracks)
        await queue.stop()
        await done
        self.assertEqual(len(await self.stored()), 5000)

    async def test_latePush(self) -> None:
        """
        A push that a lost connection held back, and which comes again or after later ones, does nothing.
        """
        queue = await self.shared("&max-length=5")
        kind, done = Kind.track, f"{self.prefix}tracks:pushed:x"
        self.assertEqual(await queue.push(kind, done, 1, [b"0", b"1"]), 2)
        self.assertEqual(await queue.push(kind, done, 1, [b"0", b"1"]), 2)
        self.assertEqual(await queue.push(kind, done, 2, [b"2"]), 1)
        await queue.push(kind, done, 1, [b"0", b"1"])
        self.assertEqual(await queue.push(kind, done, 3, [b"3", b"4", b"5"]), 2)
        self.assertEqual(await queue.push(kind, done, 3, [b"3", b"4", b"5"]), 2)
        self.assertEqual(await queue.push(kind, done, 4, [b"5"]), 0)
        self.assertEqual(await self.link.call("LRANGE", f"{self.prefix}tracks", 0, -1), [b"0", b"1", b"2", b"3", b"4"])
        self.assertGreater(await self.link.call("PTTL", done), 80_000_000)

    async def test_noForm(self) -> None:
        """
        A record that has no form in CloudConnect, or a topic that has none, fails, and takes nothing with it.
        """
        queue = await self.shared()
        await self.assertFailure(queue.publish(TOPICS.tracks, 0, [presenceOf(1)]), BusError)
        await self.assertFailure(queue.publish(TOPICS.rejects, 0, [presenceOf(1)]), BusError)
        self.assertEqual(queue.pendingBytes, 0)
        await queue.publish(TOPICS.tracks, 0, trackRecords(0, 1))

    async def test_refused(self) -> None:
        """
        What Redis will never take fails, with all that is behind it; later flushes are tried.
        """
        queue = await self.shared()
        await self.link.call("SET", f"{self.prefix}tracks", "x")
        tracks = trackRecords(0, 3)
        failed = [queue.publish(TOPICS.tracks, 0, [track]) for track in tracks]
        for each in failed:
            await self.assertFailure(each, BusError)
        self.assertEqual(queue.pendingBytes, 0)
        # Whoever hears of it may publish at once.
        again: list[Deferred[None]] = []
        failed = [queue.publish(TOPICS.tracks, 0, [track]) for track in tracks]
        failed[0].addErrback(lambda _: again.append(queue.publish(TOPICS.tracks, 0, tracks[:1])))
        for each in failed[1:]:
            await self.errorOf(each, BusError)
        await self.errorOf(again[0], BusError)
        self.assertEqual(queue.pendingBytes, 0)
        await self.link.call("DEL", f"{self.prefix}tracks")
        await queue.publish(TOPICS.tracks, 0, tracks)
        self.assertEqual(await self.stored(), tracks)

    async def test_noList(self) -> None:
        """
        A key that is something else is told at the start.
        """
        queue = await self.shared()
        await self.link.call("SET", f"{self.prefix}messages", "x")
        _, port = requireRedis()
        other = RQueue(f"rqueue://127.0.0.1:{port}/0?prefix={self.prefix}", self.context(), TOPICS)
        error = await self.errorOf(other.start(), ConfigError)
        self.assertIn("messages is no list", str(error))
        await queue.stop()

    async def test_nobodyThere(self) -> None:
        """
        A Redis that is not there ends the start, with a line that names the option.
        """
        queue = RQueue(f"rqueue://127.0.0.1:{freePort()}/0", self.context(startTimeout=0.5), TOPICS)
        error = await self.errorOf(queue.start(), BusUnavailable)
        self.assertTrue(str(error).startswith("--cloudconnect: redis://127.0.0.1:"), str(error))
        await queue.stop()


class RQueueFaultTests(RQueueTestCase):
    """
    While Redis is frozen, killed, or does not sync.
    """

    async def flood(self, queue: RQueue, tracks: Sequence[Record], fired: list[object]) -> None:
        """
        Publish, one by one.
        """
        for record in tracks:
            queue.publish(TOPICS.tracks, 0, [record]).addBoth(fired.append)
            await deferLater(reactor, 0.005)

    async def test_killed(self) -> None:
        """
        Redis is killed and comes back: everything that was published stands there once, in order, and what fired before
        the kill is still there.
        """
        server = self.server("--appendonly", "yes", "--appendfsync", "always")
        queue = await self.queueAt(server.port)
        self.assertEqual(queue.warnings, ())
        tracks = trackRecords(0, 200)
        fired: list[object] = []
        flood = Deferred.fromCoroutine(self.flood(queue, tracks, fired))
        await deferLater(reactor, 0.3)
        server.kill9()
        known = len(fired)
        await deferLater(reactor, 3)
        server.start()
        await flood
        for _ in range(200):
            if len(fired) == len(tracks):
                break
            await deferLater(reactor, 0.05)
        self.assertEqual(fired, [None] * len(tracks))
        self.assertGreater(known, 0)
        self.assertEqual(await self.stored(link=await self.linkTo(server.port)), tracks)

    async def test_frozen(self) -> None:
        """
        Redis is frozen for longer than an answer may take, with pushes under way whose answers are lost: each event
        stands there once.
        """
        server = self.server("--appendonly", "yes", "--appendfsync", "always")
        queue = await self.queueAt(server.port)
        tracks = trackRecords(0, 100)
        fired: list[object] = []
        flood = Deferred.fromCoroutine(self.flood(queue, tracks, fired))
        await deferLater(reactor, 0.2)
        server.freeze()
        await deferLater(reactor, 3)
        server.thaw()
        await flood
        for _ in range(200):
            if len(fired) == len(tracks):
                break
            await deferLater(reactor, 0.05)
        self.assertEqual(fired, [None] * len(tracks))
        self.assertEqual(await self.stored(link=await self.linkTo(server.port)), tracks)

    async def test_warns(self) -> None:
        """
        A Redis that does not sync what it acks is told of.
        """
        queue = await self.queueAt(self.server().port)
        self.assertEqual(len(queue.warnings), 1)
        self.assertIn("appendfsync", queue.warnings[0])
