"""
Tests for L{binaryserver.session.redispeers}, over real Redis.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from zope.interface import implementer
from zope.interface.verify import verifyObject

from binaryserver.errors import StoreError, StoreUnavailable
from binaryserver.interfaces import IInbox, IPeers
from binaryserver.model import BoxKey, StreamMark
from binaryserver.session import redispeers
from binaryserver.session.redispeers import RedisPeers
from tests.session.contract_base import BOX, OTHER
from tests.session.redisrig import RedisTestCase

TOP = 2**64 - 1
MARKS = (StreamMark(TOP, TOP, 1_790_000_000_123), StreamMark(0, 0, 0))


@implementer(IInbox)
class Inbox:
    """
    An instance that does what its peers ask once it is told to.

    @ivar asked: the Deferreds that it gave, by box and epoch, in their order
    """

    def __init__(self) -> None:
        self.asked: list[tuple[BoxKey, int, Deferred[tuple[StreamMark, ...]]]] = []
        self.woken: list[BoxKey] = []
        self.allWoken = 0
        self.disconnected: list[tuple[BoxKey, int]] = []

    def disconnect(self, box: BoxKey, linkEpoch: int) -> bool:
        """
        See L{IInbox.disconnect}: there are links of box-1 only.
        """
        self.disconnected.append((box, linkEpoch))
        return box == BOX

    def handOver(self, box: BoxKey, linkEpoch: int) -> Deferred[tuple[StreamMark, ...]]:
        """
        See L{IInbox.handOver}.
        """
        settled: Deferred[tuple[StreamMark, ...]] = Deferred()
        self.asked.append((box, linkEpoch, settled))
        return settled

    def wake(self, boxes: Sequence[BoxKey]) -> None:
        """
        See L{IInbox.wake}.
        """
        self.woken += boxes

    def wakeAll(self) -> None:
        """
        See L{IInbox.wakeAll}.
        """
        self.allWoken += 1


class RedisPeersTests(RedisTestCase):
    """
    Instances with a store, peers and an inbox each.
    """

    async def instance(self, spec: str, incarnation: str) -> tuple[RedisPeers, Inbox]:
        """
        One that is alive.
        """
        store = await self.startedStore(spec)
        await store.leaseWorker(incarnation)
        peers = store.peers(incarnation)
        assert isinstance(peers, RedisPeers)
        inbox = Inbox()
        self.addCleanup(peers.stop)
        await peers.start(inbox)
        return peers, inbox

    async def until(self, what: str, *those: Sequence[object]) -> None:
        """
        Fires once none of these is empty any more.
        """
        for _ in range(500):
            if all(those):
                return
            await self.sleep(0.01)
        self.fail(f"never: {what}")

    async def test_handOver(self) -> None:
        """
        The answer comes when the other has settled; marks of 64 bits come whole.
        """
        spec = self.sharedSpec()
        (a, _), (_, inbox) = [await self.instance(spec, name) for name in ("a@1", "ünï b@1")]
        verifyObject(IPeers, a)
        boxes = [BoxKey("acme/ünï", "box-1"), OTHER]
        answers = [a.handOver("ünï b@1", box, 2**52 + n) for n, box in enumerate(boxes)]
        for _ in range(100):
            if len(inbox.asked) == 2:
                break
            await self.sleep(0.01)
        self.assertEqual([(box, epoch) for box, epoch, _ in inbox.asked], [(boxes[0], 2**52), (boxes[1], 2**52 + 1)])
        inbox.asked[1][2].callback(())
        self.assertEqual(await answers[1], ())
        inbox.asked[0][2].callback(MARKS)
        self.assertEqual(await answers[0], MARKS)

    async def test_disconnect(self) -> None:
        """
        It is told whether there was such a link; an answer that was lost is told again, not found out again.
        """
        spec = self.sharedSpec()
        (a, _), (b, inbox) = [await self.instance(spec, name) for name in ("a@1", "b@1")]
        self.assertEqual(await gatherResults([a.disconnect("b@1", box, 2**52) for box in (BOX, OTHER)]), [True, False])
        self.assertEqual(inbox.disconnected, [(BOX, 2**52), (OTHER, 2**52)])
        inbox.disconnected.clear()
        self.assertIsNone(await a.disconnect("never@1", BOX, 7))
        self.patch(b, "_say", lambda asker, id_, answer: None)
        answer = a.disconnect("b@1", BOX, 8)
        await self.until("asked", inbox.disconnected)
        self.patch(b, "_say", RedisPeers._say.__get__(b))
        self.assertIs(await answer, True)
        self.assertEqual(inbox.disconnected, [(BOX, 8)])

    async def test_askedAgain(self) -> None:
        """
        A question that is repeated asks the inbox once; an answer that was lost is told again.
        """
        spec = self.sharedSpec()
        (a, _), (b, inbox) = [await self.instance(spec, name) for name in ("a@1", "b@1")]
        answer = a.handOver("b@1", BOX, 7)
        await self.until("asked", inbox.asked)
        await self.sleep(2.3)
        self.assertEqual(len(inbox.asked), 1)
        said: list[str] = []
        self.patch(b, "_say", lambda asker, id_, marks: said.append(id_))
        inbox.asked[0][2].callback(MARKS)
        self.assertEqual(len(said), 1)
        self.patch(b, "_say", RedisPeers._say.__get__(b))
        self.assertEqual(await answer, MARKS)
        self.assertEqual(len(inbox.asked), 1)

    async def test_lostQuestion(self) -> None:
        """
        An incarnation that is alive and does not hear yet is asked again until it does.
        """
        spec = self.sharedSpec()
        a, _ = await self.instance(spec, "a@1")
        store = await self.startedStore(spec)
        await store.leaseWorker("b@1")
        answer = a.handOver("b@1", BOX, 7)
        await self.sleep(0.3)
        peers, inbox = store.peers("b@1"), Inbox()
        self.addCleanup(peers.stop)
        await peers.start(inbox)
        await self.until("asked", inbox.asked)
        inbox.asked[0][2].callback(MARKS)
        self.assertEqual(await answer, MARKS)

    async def test_dead(self) -> None:
        """
        Of an incarnation that is dead, or dies meanwhile, nothing more is to come.
        """
        spec = self.sharedSpec()
        a, _ = await self.instance(spec, "a@1")
        _, inbox = await self.instance(spec, "b@1")
        store = await self.startedStore(spec)
        began = time.monotonic()
        self.assertIsNone(await a.handOver("never@1", BOX, 7))
        self.assertLess(time.monotonic() - began, 2)
        answers = [a.handOver("b@1", BoxKey("acme", str(number)), 7) for number in range(500)]
        await self.until("asked", inbox.asked)
        await store.leaseWorker("b@2")
        self.assertEqual(await gatherResults(answers), [None] * 500)
        self.assertEqual(a._asked, {})

    async def test_cancelled(self) -> None:
        """
        Who does not want to know any more is not told, and nobody is asked again.
        """
        spec = self.sharedSpec()
        (a, _), (_, inbox) = [await self.instance(spec, name) for name in ("a@1", "b@1")]
        answer = a.handOver("b@1", BOX, 7)
        failing = self.errorOf(answer, CancelledError)
        await self.until("asked", inbox.asked)
        answer.cancel()
        await failing
        inbox.asked[0][2].callback(MARKS)
        self.assertEqual(a._asked, {})
        await self.sleep(0.1)

    async def test_marksThatCannotBeRead(self) -> None:
        """
        Nothing is in flight there any more all the same: the asker goes on, without marks.
        """
        spec = self.sharedSpec()
        (a, _), (_, inbox) = [await self.instance(spec, name) for name in ("a@1", "b@1")]
        answer = a.handOver("b@1", BOX, 7)
        await self.until("asked", inbox.asked)
        inbox.asked[0][2].errback(StoreError("cannot be read"))
        self.assertIsNone(await answer)

    async def test_wake(self) -> None:
        """
        However many boxes; one that nobody hears is lost and no matter.
        """
        spec = self.sharedSpec()
        (a, _), (_, inbox) = [await self.instance(spec, name) for name in ("a@1", "b@1")]
        boxes = [BoxKey("acme", str(number)) for number in range(450)]
        a.wake("nobody@1", boxes)
        a.wake("b@1", [])
        a.wake("b@1", boxes)
        for _ in range(100):
            if len(inbox.woken) == len(boxes):
                break
            await self.sleep(0.01)
        self.assertEqual((inbox.woken, inbox.allWoken), (boxes, 0))

    async def test_cut(self) -> None:
        """
        When it could not hear for a while, there may be mail for any box; then it hears again.
        """
        spec = self.sharedSpec()
        (a, _), (b, inbox) = [await self.instance(spec, name) for name in ("a@1", "b@1")]
        store = await self.startedStore(spec)
        listing = (await store._link.call("CLIENT", "LIST", "TYPE", "PUBSUB")).decode()
        port = b._link._protocol.transport.getHost().port  # type: ignore[union-attr]
        (line,) = [line for line in listing.splitlines() if f"addr=127.0.0.1:{port} " in line]
        await store._link.call("CLIENT", "KILL", "ID", line.split(" ")[0].partition("=")[2])
        for _ in range(300):
            if inbox.allWoken:
                break
            await self.sleep(0.01)
        self.assertEqual(inbox.allWoken, 1)
        a.wake("b@1", [BOX])
        await self.until("woken", inbox.woken)
        self.assertEqual(inbox.woken, [BOX])

    async def test_restartAndFreeze(self) -> None:
        """
        A server that is killed, comes back, freezes and thaws: questions asked meanwhile are answered in the end.
        """
        server = self.startServer("--appendonly", "yes", "--appendfsync", "always")
        spec = f"redis://127.0.0.1:{server.port}/0?timeout=1"
        (a, _), (_, inbox) = [await self.instance(spec, name) for name in ("a@1", "b@1")]
        server.kill9()
        answer = a.handOver("b@1", BOX, 7)
        a.wake("b@1", [BOX])
        await self.sleep(0.5)
        server.start()
        await self.until("asked", inbox.asked)
        server.freeze()
        self.addCleanup(server.thaw)
        inbox.asked[0][2].callback(MARKS)
        # Until both have given their connections up: so has the one that only hears.
        await self.sleep(3)
        server.thaw()
        self.assertEqual(await answer, MARKS)
        self.assertEqual(len(inbox.asked), 1)
        self.assertGreaterEqual(inbox.allWoken, 2)

    async def test_memoryIsLost(self) -> None:
        """
        A Redis that came back without its memory knows nobody: those who were asked have time to say that they live.
        """
        self.patch(redispeers, "_SETTLING", 2.5)
        server = self.startServer()
        spec = f"redis://127.0.0.1:{server.port}/0"
        (a, _), (_, inbox) = [await self.instance(spec, name) for name in ("a@1", "b@1")]
        answers = [a.handOver(name, BOX, 7) for name in ("b@1", "c@1")]
        await self.until("asked", inbox.asked)
        server.kill9()
        server.start()
        began = time.monotonic()
        await self.sleep(1.8)
        inbox.asked[0][2].callback(MARKS)
        self.assertEqual(await answers[0], MARKS)
        self.assertIsNone(await answers[1])
        self.assertGreater(time.monotonic() - began, 2)

    async def test_notAPeer(self) -> None:
        """
        What cannot be understood is passed over.
        """
        spec = self.sharedSpec()
        b, inbox = await self.instance(spec, "b@1")
        store = await self.startedStore(spec)
        channel = b._channel("b@1")
        for text in (
            b"",
            b"\xff",
            b"1",
            b"[]",
            b"{}",
            b'{"kind": "other"}',
            b'{"kind": "wake"}',
            b'{"kind": "wake", "boxes": [["a"]]}',
            b'{"kind": "handOver", "from": "x", "questions": [{"id": "1", "account": "a", "asset": "b", "epoch": "?"}'
            b"]}",
            b'{"kind": "answers", "answers": [{"id": "1", "marks": [[1]]}]}',
            b'{"kind": "answers", "answers": [{"id": [], "marks": null}]}',
        ):
            self.assertEqual(await store._link.call("PUBLISH", channel, text), 1)
        await store._link.call("PUBLISH", channel, json.dumps({"kind": "wake", "boxes": [list(BOX)]}))
        await self.until("woken", inbox.woken)
        self.assertEqual((inbox.woken, inbox.asked), ([BOX], []))

    async def test_stopped(self) -> None:
        """
        Hears and says no more; what was asked never fires.
        """
        spec = self.sharedSpec()
        (a, inbox), (b, _) = [await self.instance(spec, name) for name in ("a@1", "b@1")]
        fired: list[object] = []
        a.handOver("never@1", BOX, 7).addBoth(fired.append)
        await a.stop()
        b.wake("a@1", [BOX])
        await self.sleep(1.3)
        self.assertEqual((fired, inbox.woken), ([], []))

    async def test_unreachable(self) -> None:
        """
        A start that cannot hear fails.
        """
        server = self.startServer()
        store = self.storeFor(f"redis://127.0.0.1:{server.port}/0", startTimeout=1)
        self.addCleanup(store.stop)
        await store.start()
        peers = store.peers("a@1")
        server.kill9()
        error = await self.errorOf(peers.start(Inbox()), StoreUnavailable)
        self.assertIn("--sessions: ", str(error))
        await peers.stop()
