"""
Tests for what hostile boxes and failing back ends must not do to others: each was possible once.
"""

from __future__ import annotations

import json
import struct

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.gateway import Limits
from binaryserver.model import BoxKey, Claim, MqttSession
from binaryserver.plugins import BackEndContext
from binaryserver.proto import cloudnext_pb2
from binaryserver.proto.md30_pb2 import Message
from binaryserver.session.memorystore import MemorySessionStore
from tests.harness import NOW_MS, Box, HandReactor, World, batch, notice, publish

SURROGATE = b'{"\\ud800": 1}'


class SlowStore(MemorySessionStore):
    """
    A store whose claims and writes are answered when the test says so.
    """

    def __init__(self) -> None:
        MemorySessionStore.__init__(self, "memory:", BackEndContext(HandReactor(), "--test"))
        self.isSlow = False
        self.waiting: list[tuple[Deferred[object], object]] = []
        self.saves = 0

    def _later(self, answer: Deferred[object]) -> Deferred[object]:
        if not self.isSlow:
            return answer
        late: Deferred[object] = Deferred()
        answer.addCallback(lambda result: self.waiting.append((late, result)))
        return late

    def claim(self, *arguments: object) -> Deferred[Claim]:
        """
        See L{MemorySessionStore.claim}.
        """
        return self._later(MemorySessionStore.claim(self, *arguments))  # type: ignore[arg-type, return-value]

    def saveMqtt(self, box: BoxKey, linkEpoch: int, session: MqttSession | None, isListening: bool) -> Deferred[bool]:
        """
        See L{MemorySessionStore.saveMqtt}.
        """
        self.saves += 1
        saved = MemorySessionStore.saveMqtt(self, box, linkEpoch, session, isListening)
        return self._later(saved)  # type: ignore[arg-type, return-value]

    def answer(self) -> None:
        """
        Answer everything that waits.
        """
        waiting, self.waiting = self.waiting, []
        for late, result in waiting:
            late.callback(result)


class OthersTests(SynchronousTestCase):
    """
    One bad peer costs its own link and nothing else.
    """

    def test_nameThatTheParserChokesOn(self) -> None:
        """
        JSON with a lone surrogate for a name is rejected like any other.
        """
        world = World()
        box = world.box()
        box.publish("tj", SURROGATE)
        self.assertEqual(box.acks(), [1])
        self.assertEqual([reject.code for reject in world.bus.rejects()], ["DECODE"])

    def test_suchAWillDoesNotStopTheTimers(self) -> None:
        """
        Likewise as a last will, when the keep-alive is missed; other links' timers go on.
        """
        world = World()
        world.box("one", keepAlive=10, will=("tj", SURROGATE))
        other = world.box("other", keepAlive=20)
        world.wait(32)
        self.assertTrue(other.transport.isAborted)

    def test_reliefFillsTheWindowAgain(self) -> None:
        """
        What the first links had held may fill the global window again: the others stay paused.
        """
        world = World(Limits(globalWindow=20_000, window=1000))
        boxes = [world.box(f"box-{n}") for n in range(40)]
        world.bus.isOpen = False
        for box in boxes:
            box.link.dataReceived(b"".join(publish("t", batch(n), n) for n in range(1, 60)))
        world.turn()
        most = world.gateway.uplink.pendingBytes
        for _ in range(200):
            if world.bus.waiting:
                world.bus.commit()
            world.turn()
            most = max(most, world.gateway.uplink.pendingBytes)
        self.assertLess(most, 60_000)
        world.bus.isOpen = True
        while world.bus.waiting:
            world.bus.commit()
            world.turn()
        self.assertEqual(sum(len(box.acks()) for box in boxes), 40 * 59)

    def test_presencesCountInTheGlobalWindow(self) -> None:
        """
        Boxes that come and go while the bus is away are refused at last.
        """
        world = World(Limits(globalWindow=65_536))
        world.bus.isOpen = False
        for n in range(500):
            box = Box(world, f"box-{n}").connect()
            (answer,) = box.received()
            if answer[3]:
                break
            box.lose()
        self.assertEqual(answer, b"\x20\x02\x00\x03")
        self.assertLess(world.gateway.announcer.waiting, 400)

    def test_waitersOfLinksThatAreGone(self) -> None:
        """
        Resends that wait for a first copy go with their link, however often it is taken over.
        """
        world = World()
        world.bus.isOpen = False
        world.box().tracks(1)
        for _ in range(20):
            world.box().send(b"".join(publish("t", batch(1), n) for n in range(1, 100)))
        (stream,) = world.gateway.registry.boxes[BoxKey("dev", "350000000000001")].streams.values()
        self.assertLessEqual(len(stream._waiting), 99)

    def test_smallWindowAndManyPublishes(self) -> None:
        """
        One read of thousands through a window of one: no recursion, all acked, in order.
        """
        world = World(Limits(window=1))
        box = world.box()
        box.send(b"".join(publish("i", b"", n) for n in range(1, 5000)))
        acks = [packet for packet in box.received() if packet[0] == 0x40]
        self.assertEqual([struct.unpack(">H", ack[2:])[0] for ack in acks], list(range(1, 5000)))

    def test_noticesOnceARead(self) -> None:
        """
        Asking for the index a thousand times in one read gives one answer.
        """
        world = World()
        box = world.box()
        box.tracks(1)
        box.received()
        box.send(publish("i", b"", qos=0) * 1000)
        self.assertEqual([notice(packet) for packet in box.received()], [("i", 9, 1)])


class IndexTests(SynchronousTestCase):
    """
    Absurd times among indices.
    """

    def test_futureTimeInAResentPart(self) -> None:
        """
        A refused track of the future, sent again with new ones behind it: the new ones are published.
        """
        world = World()
        box = world.box()
        first = batch(1, 2) + b"\x1a\x07\x08" + b"\xff\xff\xff\xff\xff\x7f"
        box.publish("t", first, 1)
        box.publish("t", first + batch(4)[4:], 2)
        self.assertEqual(box.acks(), [1, 2])
        self.assertEqual([event.index for event in world.bus.events("tracks")], [1, 2, 4])

    def test_messageFromTheFarFuture(self) -> None:
        """
        It does not make every later track of its stream pass for seen.
        """
        world = World()
        box = world.box()
        message = Message(channel="c", stream=9, index=100, recorded_at=2**63 - 1)
        box.publish("m", message.SerializeToString(), 1)
        box.tracks(50, packetId=2)
        self.assertEqual([reject.code for reject in world.bus.rejects()], ["LATE_DUPLICATE"])

    def test_largeDuplicateInJson(self) -> None:
        """
        Decoded in a thread, known already: acked at once.
        """
        world = World()
        box = world.box()
        tracks = [{"recorded_at": NOW_MS, "latitude": 1, "longitude": 2}] * 1000
        text = json.dumps({"stream": "9", "first_index": "1", "tracks": tracks}).encode()
        for packetId in (1, 2):
            box.publish("tj", text, packetId)
        self.assertEqual(box.acks(), [1, 2])


class SlowStoreTests(SynchronousTestCase):
    """
    A store that takes its time.
    """

    def test_idsOfQos2AreKeptTogether(self) -> None:
        """
        A session written while an id is between its commit and its PUBREC has it.
        """
        world = World()
        box = world.box(clean=False)
        payload = Message(channel="log").SerializeToString()
        box.send(publish("m", payload, 1, qos=2) + publish("m", payload, 2, qos=2))
        box.lose()
        again = world.box(clean=False)
        again.send(publish("m", payload, 1, qos=2, dup=True) + publish("m", payload, 2, qos=2, dup=True))
        self.assertEqual(again.received(), [b"\x50\x02\x00\x01", b"\x50\x02\x00\x02"])
        self.assertEqual(len(world.bus.events("messages")), 2)

    def test_manySubscribesAreFewWrites(self) -> None:
        """
        One write is under way and one due; the link is not read meanwhile, and every SUBSCRIBE has its answer.
        """
        store = SlowStore()
        world = World(Limits(controlRate=0.0), store=store)
        box = world.box(clean=False)
        store.isSlow = True
        store.saves = 0
        body = b"\x00\x05\x00\x01i\x01"
        box.send((b"\x82" + bytes([len(body)]) + body) * 500)
        self.assertFalse(box.transport.isReading)
        for _ in range(1000):
            store.answer()
            world.turn()
        self.assertEqual(sum(packet[0] == 0x90 for packet in box.received()), 500)
        self.assertTrue(box.transport.isReading)

    def test_claimThatIsNeverAnswered(self) -> None:
        """
        The link goes in time, and what its claim displaced is told.
        """
        store = SlowStore()
        world = World(store=store)
        store.isSlow = True
        box = Box(world).connect()
        world.wait(32)
        self.assertTrue(box.transport.isAborted)
        box.lose()
        store.isSlow = False
        store.answer()
        world.turn()
        kinds = [event.presence.type for event in world.bus.events("presences")]
        self.assertEqual(kinds, [cloudnext_pb2.PRESENCE_TYPE_CONNECT, cloudnext_pb2.PRESENCE_TYPE_DISCONNECT])
        self.assertEqual(world.gateway.registry.boxes, {})

    def test_tooMuchBeforeTheConnack(self) -> None:
        """
        Broken while the store is asked: closed at once, and nothing of it is announced afterwards as living.
        """
        store = SlowStore()
        world = World(Limits(maxPacket=2048), store)
        store.isSlow = True
        box = Box(world).connect()
        box.send(b"x" * 20_000)
        self.assertTrue(box.transport.disconnecting)
        store.isSlow = False
        store.answer()
        world.turn()
        self.assertEqual(box.received(), [])


class MemoryTests(SynchronousTestCase):
    """
    Packets that are not whole.
    """

    def test_holdersMakeRoom(self) -> None:
        """
        Links that began large packets and stalled give way to one that waits.
        """
        world = World(Limits(partialPackets=65_536))
        holders = [world.box(f"h-{n}") for n in range(4)]
        for box in holders:
            box.send(b"\x32\xe0\xd4\x03" + b"x" * 100)
        honest = world.box("honest")
        payload = publish("t", batch(1, 1200))
        honest.send(payload[:20_000])
        self.assertFalse(honest.transport.isReading)
        for _ in range(20):
            world.wait(1)
            if honest.transport.isReading:
                honest.send(payload[20_000:])
                break
        self.assertEqual(honest.acks(), [1])

    def test_completeWhileItWaits(self) -> None:
        """
        A packet that came whole while its memory was waited for: the link goes on.
        """
        world = World(Limits(partialPackets=65_536))
        holder = world.box("holder")
        holder.send(b"\x32\xe0\xd4\x03" + b"x" * 100)
        box = world.box()
        payload = publish("t", batch(1, 1200))
        box.send(payload[:20_000])
        self.assertFalse(box.transport.isReading)
        box.send(payload[20_000:])
        self.assertTrue(box.transport.isReading)
        self.assertEqual(box.acks(), [1])
