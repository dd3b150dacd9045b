"""
Attacks on the way back: each states what must hold.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.bus.topics import Topics
from binaryserver.errors import StoreUnavailable
from binaryserver.gateway import Limits
from binaryserver.interfaces import IBusConsumer
from binaryserver.model import BoxKey, MailboxEntry, MailboxLimits, StoredRecord
from binaryserver.plugins import BackEndContext
from binaryserver.service import GatewayService
from binaryserver.session.boxrecords import BoxEvent
from binaryserver.session.membership import Membership
from binaryserver.session.memorystore import MemorySessionStore
from binaryserver.session.registry import NoPeers
from tests.downlink.test_delivery import AwayStore
from tests.downlink.world import BOX, DownlinkWorld, answer, delivered, listening, message, puback
from tests.harness import NOW_MS, HandReactor


class PressureTests(SynchronousTestCase):
    """
    The bus does not take what is told (G7).
    """

    def test_reliefAfterStatuses(self) -> None:
        """
        Once the bus has taken everything, links are read and CONNECTs taken again, whichever of it came last.
        """
        world = _world(15_000)
        box = listening(world)
        world.bus.isOpen = False
        world.bring(*(message(f"m{number}", asset="away") for number in range(40)))
        while world.bus.waiting:
            world.bus.fail()
        # The statuses wait to be tried again; the tracks find the window full, and commit at once.
        box.tracks(0, 1)
        self.assertFalse(world.gateway.uplink.hasRoom)
        world.bus.isOpen = True
        while world.bus.waiting:
            world.bus.commit()
        world.wait(50)
        self.assertEqual((len(world.bus.waiting), world.gateway.uplink.pendingBytes), (0, 0))
        self.assertEqual(world.gateway.untold, 0)
        self.assertTrue(world.gateway.uplink.hasRoom, "full for ever, with nothing pending")
        self.assertTrue(box.transport.isReading)

    def test_consumerStopsAtTheWindow(self) -> None:
        """
        A bus that gives and does not take (too few in-sync replicas) does not fill the memory with statuses.
        """
        world = _world(100_000)
        world.bus.isOpen = False
        for batch in range(20):
            if world.bus.consumer._reading is None:
                break
            world.bring(*(message(f"m{batch}-{number}", asset=f"away{number}") for number in range(50)))
        self.assertLess(world.gateway.uplink.pendingBytes, 300_000)

    def test_expiryStopsAtTheWindow(self) -> None:
        """
        Nor do messages that expire meanwhile.
        """
        world = _world(100_000)
        puts = [_message(f"m{number}", BoxKey("dev", f"away{number % 100}"), NOW_MS + 1000) for number in range(3000)]
        world.store.putMessages(puts, MailboxLimits(10_000, 1 << 30), NOW_MS)
        world.bus.isOpen = False
        world.wait(4)
        self.assertLess(world.gateway.uplink.pendingBytes, 500_000)


def _world(window: int) -> DownlinkWorld:
    from tests.harness import World

    world = DownlinkWorld.__new__(DownlinkWorld)
    World.__init__(world, limits=Limits(globalWindow=window))
    from binaryserver.downlink.consumer import DownlinkConsumer
    from binaryserver.downlink.expiry import ChannelExpiry

    world.consumer = DownlinkConsumer(
        world.gateway, NoPeers(), "group", MailboxLimits(1000, 1 << 20), 4096, ChannelExpiry(3600, ())
    )
    world.consumer.begin()
    return world


def _message(id_: str, box: BoxKey, expiresAt: int) -> Any:
    from binaryserver.model import DownlinkMessage

    return DownlinkMessage(box, id_, "config", b"x", "", expiresAt, False, False, NOW_MS)


class PoisonTests(SynchronousTestCase):
    """
    Hostile records.
    """

    def test_nullHeader(self) -> None:
        """
        A Kafka header may have no value at all: the record is judged, and blocks nothing.
        """
        world = DownlinkWorld()
        first = world.bus.consumer
        record = StoredRecord(
            Topics.named().downlink,
            0,
            0,
            NOW_MS,
            b"dev/x",
            message("m1").SerializeToString(),
            (("content-type", None),),  # type: ignore[arg-type]
        )
        first.bring(record)
        world.turn()
        self.flushLoggedErrors()
        self.assertEqual(first.committed, {(Topics.named().downlink, 0): 1})

    def test_rejectionStays(self) -> None:
        """
        A record that comes again after a crash is judged as it was: rejected once is rejected for ever (G5).
        """
        world = DownlinkWorld()
        record = StoredRecord(
            Topics.named().downlink,
            0,
            0,
            NOW_MS,
            b"dev/x",
            message("m1", expires_at=NOW_MS + 366 * 86_400_000 + 5000).SerializeToString(),
        )
        world.bring(record)
        self.assertEqual(world.statuses("m1"), ["rejected BAD_EXPIRY"])
        world.wait(10)
        world.bring(record)
        self.assertEqual(set(world.statuses("m1")), {"rejected BAD_EXPIRY"})

    def test_rejectedUnderTheIdOfAnother(self) -> None:
        """
        One id has one final status, also if the second record of that id cannot be used.
        """
        world = DownlinkWorld()
        box = listening(world)
        world.bring(message("m1"))
        world.bring(message("m1", channel="bad channel"))
        (sent,) = delivered(box)
        box.send(puback(sent.packetId))
        world.turn()
        finals = [one for one in world.statuses("m1") if one.split()[0] in ("acked", "rejected")]
        self.assertEqual(len(set(finals)), 1, finals)


class StoreTests(SynchronousTestCase):
    """
    The session store is away, or loses its memory.
    """

    def test_memoryLost(self) -> None:
        """
        After the store lost its memory, a box that stayed gets what is sent to it.
        """
        store = AwayStore()
        world = DownlinkWorld(store=store)
        member = Membership(world.gateway, 10, 10, lambda: None)
        member.start()
        box = listening(world)
        for number in range(3):
            world.bring(message(f"m{number}"))
            (sent,) = delivered(box)
            box.send(puback(sent.packetId))
        MemorySessionStore.__init__(store, "memory:", BackEndContext(store.reactor, "--test"))
        world.wait(10)
        self.assertFalse(box.transport.isAborted)
        world.bring(message("new"))
        world.wait(120)
        self.assertEqual([one.message.id for one in delivered(box)], ["new"])

    def test_answerDuringALongOutage(self) -> None:
        """
        Links stay while the store is away, also those whose application answered (issue 5, 1).
        """
        store = AwayStore()
        world = DownlinkWorld(store=store)
        box = listening(world)
        world.bring(message("m1", want_ack=True))
        (sent,) = delivered(box)
        box.send(puback(sent.packetId))
        store.isAway = True
        box.send(answer("m1"))
        box.tracks(0, 1, packetId=10)
        world.wait(80)
        self.assertFalse(box.transport.disconnecting or box.transport.isAborted, "the link was closed")

    def test_subscribeTwiceWhileAway(self) -> None:
        """
        While the store is away the box's data goes on, however many SUBSCRIBEs wait.
        """
        world = DownlinkWorld(store=SilentStore())
        store: Any = world.store
        box = world.box(clean=False)
        world.turn()
        store.clock = world.clock
        store.isSilent = True
        box.subscribe("d")
        box.subscribe("i", packetId=101)
        world.wait(5)
        box.tracks(0, 1, packetId=7)
        box.send(b"\xc0\x00")
        world.wait(5)
        packets = box.received()
        self.assertIn(b"\xd0\x00", packets, "PINGREQ is not answered")
        self.assertIn(b"\x40\x02\x00\x07", packets)

    def test_releaseLost(self) -> None:
        """
        A link that ended while the store was away is noted once the store is back.
        """
        world = DownlinkWorld(store=ReleaseAwayStore())
        store: Any = world.store
        box = listening(world)
        store.isReleaseAway = True
        box.lose()
        world.wait(3)
        store.isReleaseAway = False
        world.wait(3600)
        owner = store._ownerOf(BOX)
        self.assertFalse(owner.connected, "connected for ever")
        world.box()
        kinds = [event.presence.type for event in world.bus.events("presences")]
        self.assertEqual(kinds[-1], kinds[0], "told as a reconnect after an hour away")


class SilentStore(MemorySessionStore):
    """
    Sessions are not kept, which it says after 2 s: a Redis that is black-holed.
    """

    def __init__(self) -> None:
        MemorySessionStore.__init__(self, "memory:", BackEndContext(HandReactor(), "--test"))
        self.isSilent = False
        self.clock: Any = None

    def saveMqtt(self, *arguments: Any) -> Deferred[bool]:
        if not self.isSilent:
            return MemorySessionStore.saveMqtt(self, *arguments)
        late: Deferred[bool] = Deferred()
        self.clock.callLater(2, late.errback, StoreUnavailable("away"))
        return late


class ReleaseAwayStore(MemorySessionStore):
    """
    C{release} can be away.
    """

    def __init__(self) -> None:
        MemorySessionStore.__init__(self, "memory:", BackEndContext(HandReactor(), "--test"))
        self.isReleaseAway = False

    def release(self, box: BoxKey, linkEpoch: int, nowMs: int, event: BoxEvent | None = None) -> Deferred[bool]:
        if self.isReleaseAway:
            return fail(StoreUnavailable("away"))
        return MemorySessionStore.release(self, box, linkEpoch, nowMs, event)


class LinkTests(SynchronousTestCase):
    """
    Links that are slow, or odd.
    """

    def test_slowReaderWithQos0(self) -> None:
        """
        A box that reads again gets its mail at once, not by the sweep.
        """
        world = DownlinkWorld()
        box = listening(world, qos=0)
        for number in range(200):
            listening(world, f"other{number}")
        world.wait(30)
        box.link.pauseProducing()
        world.bring(message("m1"))
        self.assertEqual(delivered(box), [])
        box.link.resumeProducing()
        world.wait(2)
        self.assertEqual([one.message.id for one in delivered(box)], ["m1"])

    def test_slowReaderWithQos1(self) -> None:
        """
        Likewise with QoS 1 and an empty window.
        """
        world = DownlinkWorld()
        box = listening(world)
        for number in range(200):
            listening(world, f"other{number}")
        world.wait(30)
        box.link.pauseProducing()
        world.bring(message("m1"))
        self.assertEqual(delivered(box), [])
        box.link.resumeProducing()
        world.wait(2)
        self.assertEqual([one.message.id for one in delivered(box)], ["m1"])

    def test_packetIdInUse(self) -> None:
        """
        The packet id of a message that is not acked is not given to another, whatever gaps the sequences have.
        """
        world = DownlinkWorld()
        box = listening(world)
        world.bring(message("m1"))
        (one,) = delivered(box)
        store: Any = world.store
        # 65,534 more were refused, or expired, meanwhile.
        store._mailboxes._boxes[BOX].last += 65_534
        world.bring(message("m2"))
        ids = [each.packetId for each in delivered(box)]
        self.assertNotIn(one.packetId, ids)

    def test_answerNotTaken(self) -> None:
        """
        An answer is noted, or not acked, whatever index it has.
        """
        world = DownlinkWorld()
        box = listening(world)
        world.bring(message("m1", want_ack=True))
        (one,) = delivered(box)
        box.send(puback(one.packetId))
        box.tracks(0, 1, packetId=3)
        box.received()
        box.send(answer("m1", stream=9, index=20_000_000, recorded_at=NOW_MS))
        world.turn()
        acked = bool(box.received())
        self.assertFalse(acked and len(world.mail()) == 1 and world.mail()[0].final is None)


class SlowStore(MemorySessionStore):
    """
    Takes are answered when the test says.
    """

    def __init__(self) -> None:
        MemorySessionStore.__init__(self, "memory:", BackEndContext(HandReactor(), "--test"))
        self.isSlow = False
        self.slow: list[tuple[Deferred[Any], Any]] = []

    def takeMessages(self, takes: Any, nowMs: int) -> Deferred[list[list[MailboxEntry] | None]]:
        answered = MemorySessionStore.takeMessages(self, takes, nowMs)
        if not self.isSlow:
            return answered
        later: Deferred[Any] = Deferred()
        self.slow.append((later, answered.result))
        return later


class StopTests(SynchronousTestCase):
    """
    A stop at a bad moment.
    """

    def test_drainWaitsForATake(self) -> None:
        """
        What was taken for a link that the drain ends, and may not wait, is refused before the drain is over.
        """
        world = DownlinkWorld(store=SlowStore())
        store: Any = world.store
        listening(world)
        store.isSlow = True
        world.bring(message("m1", no_queue=True))
        self.assertEqual(len(store.slow), 1)
        service = GatewayService(world.gateway, NoPeers(), 20, 10, 10, lambda: None)
        service._membership.start()
        done = service.end()
        world.wait(3)
        if done.called:
            self.assertEqual(world.statuses("m1")[-1], "refused BOX_AWAY")
            return
        later, result = store.slow.pop()
        later.callback(result)
        world.wait(3)
        self.successResultOf(done)
        self.assertEqual(world.statuses("m1")[-1], "refused BOX_AWAY")

    def test_openWhileStopping(self) -> None:
        """
        A consumer that opens while the gateway stops is closed again, and the stop ends.
        """
        world = DownlinkWorld()
        world.bus.consumer.fail()
        opening: Deferred[IBusConsumer] = Deferred()
        opened = world.bus.openConsumer
        world.bus.openConsumer = lambda topics, group: opening  # type: ignore[method-assign]
        world.wait(1.5)
        ended = world.consumer.end()
        opened((), "").addCallback(opening.callback)
        world.wait(2)
        self.assertTrue(world.bus.consumer.isClosed, "left open")
        self.successResultOf(ended)


class RepeatTests(SynchronousTestCase):
    """
    Two instances with one store while the bus is away.
    """

    def test_finalsOnce(self) -> None:
        """
        Nobody died: a final status is told once, though the bus is away for a while.
        """
        from tests.harness import HandBus

        store = AwayStore()
        bus = HandBus()
        one = DownlinkWorld(store=store, bus=bus, incarnation="a@1")
        two = DownlinkWorld(store=store, bus=HandBus(), incarnation="b@1")
        box = listening(one)
        one.bring(message("m1")) if bus.consumer._reading else None
        for _ in range(5):
            one.turn()
        (sent,) = delivered(box)
        bus.isOpen = two.bus.isOpen = False
        box.send(puback(sent.packetId))
        for _ in range(15):
            two.wait(1)
            one.wait(1)
        self.assertEqual(two.gateway.statuses.waiting, 0, "another tells it as well")


class CostTests(SynchronousTestCase):
    """
    What one box can make the gateway do.
    """

    def test_subscribesWhileAway(self) -> None:
        """
        However often a box subscribes while the store is away, little waits to be tried again (G7).
        """
        store = AwayStore()
        world = DownlinkWorld(store=store)
        box = world.box(clean=False)
        world.turn()
        store.isAway = True
        before = len(world.clock.getDelayedCalls())
        for number in range(200):
            box.subscribe("i", packetId=number % 60_000 + 1)
        self.assertLess(len(world.clock.getDelayedCalls()) - before, 10)

    def test_damagedHeaderName(self) -> None:
        """
        A Kafka header's name may be no UTF-8: confluent-kafka then raises C{SystemError}, each time that it is read.
        """
        from binaryserver.bus.kafka_reader import storedRecord

        class Message:
            topic = partition = offset = key = value = lambda self: None
            timestamp = lambda self: (1, 1)  # noqa: E731

            def headers(self) -> object:
                raise SystemError("returned a result with an exception set")

        record = storedRecord(Message())
        self.assertEqual(record.headers, ())


class TwiceTests(SynchronousTestCase):
    """
    Two disconnects.
    """

    def test_releaseLostThenStopped(self) -> None:
        """
        A box that was told gone is not told gone again when its instance ends.
        """
        from tests.session.test_membership import Instances

        all_ = Instances(2)
        box = all_.worlds["i0@1"].box()
        release = all_.store.release
        all_.store.release = lambda *_: fail(StoreUnavailable("away"))  # type: ignore[method-assign]
        box.lose()
        all_.store.release = release  # type: ignore[method-assign]
        all_.wait(100)
        self.successResultOf(all_.members["i0@1"].stop())
        all_.frozen.add("i0@1")
        all_.wait(60)
        self.assertEqual([kind for kind, _ in all_.presences()], ["connect", "disconnect"])
