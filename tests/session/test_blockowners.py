"""
Tests for what L{binaryserver.session.uplink} and L{binaryserver.session.registry} do with the fingerprints of tracks:
over links, processes and instances.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.gateway import Limits
from binaryserver.proto.md30_pb2 import Message
from binaryserver.session.line import Pause
from binaryserver.session.membership import Membership
from binaryserver.session.reasons import Ending, Reason
from tests.harness import HandBus, World
from tests.md30.test_takeover import Colleagues
from tests.session.blocklink import BOX, BlockLink, HandStore, names, published


class StoreTests(SynchronousTestCase):
    """
    Over links and processes, and with a session store that is away.
    """

    def setUp(self) -> None:
        """
        A gateway.
        """
        self.store = HandStore()
        self.world = World(Limits(batchDeadline=60), self.store)
        self.bus = self.world.bus

    def stored(self) -> int:
        """
        How many tracks the session store knows.
        """
        return len(self.store._boxes[BOX].fingerprints) // 8

    def test_reconnect(self) -> None:
        """
        The next link knows what the one before it brought, whether it was settled by then or not; once all is written,
        nothing of the box stays in memory.
        """
        link = BlockLink(self.world)
        link.send(1, 1, 2)
        self.bus.isOpen = False
        link.send(2, 3)
        link.lose()
        link = BlockLink(self.world)
        link.send(1, 2, 3, 4)
        self.bus.isOpen = True
        while self.bus.waiting:
            self.bus.commit()
        self.world.turn()
        self.assertEqual(link.acks(), [1])
        self.assertEqual(published(self.bus), [1, 2, 3, 4])
        link.lose()
        self.assertEqual(self.world.gateway.registry.boxes, {})
        link = BlockLink(self.world)
        link.send(1, 1, 2, 3, 4, 5)
        self.assertEqual(published(self.bus), [1, 2, 3, 4, 5])

    def test_restart(self) -> None:
        """
        Another process knows it from the session store.
        """
        BlockLink(self.world).send(1, 1, 2, 3)
        world = World(store=self.store, incarnation="test@2")
        link = BlockLink(world)
        link.send(1, 3, 4)
        self.assertEqual(link.acks(), [1])
        self.assertEqual(published(world.bus), [4])

    def test_crashBeforeTheWrite(self) -> None:
        """
        What was on the bus and not yet in the store comes twice, under the same name.
        """
        link = BlockLink(self.world)
        link.send(1, 1)
        self.store.isAway = True
        link.send(2, 2)
        self.assertEqual(link.acks(), [1, 2])
        self.store.isAway = False
        world = World(store=self.store, incarnation="test@2")
        BlockLink(world).send(1, 1, 2)
        self.assertEqual(published(self.bus, world.bus), [1, 2, 2])
        self.assertEqual(len(set(names(self.bus, world.bus))), 2)

    def test_storeIsAway(self) -> None:
        """
        Acks do not wait for it; what it is to know is written once it is back, in one go, and until then the box is not
        forgotten and a stop waits.
        """
        link = BlockLink(self.world)
        link.send(1, 1)
        self.store.isAway = True
        for number in range(2, 5):
            link.send(number, number)
            self.world.wait(0.5)
        self.assertEqual(link.acks(), [1, 2, 3, 4])
        link.lose()
        self.assertEqual(list(self.world.gateway.registry.boxes), [BOX])
        self.assertTrue(self.world.gateway.uplink.hasUnwrittenMarks)
        link = BlockLink(self.world)
        link.send(1, 1, 2, 3, 4)
        link.lose()
        self.assertEqual(published(self.bus), [1, 2, 3, 4])
        self.store.isAway = False
        self.world.wait(1.1)
        self.assertEqual(self.stored(), 4)
        self.assertFalse(self.world.gateway.uplink.hasUnwrittenMarks)
        self.assertEqual(self.world.gateway.registry.boxes, {})

    def test_merged(self) -> None:
        """
        What is committed while a write is under way goes with the next, all of it.
        """
        link = BlockLink(self.world)
        link.send(1, 1)
        self.store.held = []
        for number in range(2, 6):
            link.send(number, number)
        self.assertEqual(len(self.store.held), 1)
        self.store.say()
        self.assertEqual(self.stored(), 5)

    def test_loadFails(self) -> None:
        """
        Nothing is taken before the store has said what is known; it is asked again, and the box need not send again.
        """
        self.store.isAway = True
        link = BlockLink(self.world)
        link.send(1, 1)
        self.world.wait(3)
        self.assertTrue(link.pauses & Pause.handover)
        self.store.isAway = False
        self.world.wait(1.1)
        self.assertEqual(link.acks(), [1])
        self.assertEqual(published(self.bus), [1])

    def test_loadFailsForLong(self) -> None:
        """
        The deadline ends the link; the store is not asked any more then.
        """
        self.store.isAway = True
        link = BlockLink(self.world)
        link.send(1, 1)
        for _ in range(70):
            self.world.wait(1)
            link.checkDeadline(self.world.clock.seconds())
        self.assertIsNotNone(link.ending)
        registry = self.world.gateway.registry
        self.assertEqual((registry.boxes, registry._loading), ({}, {}))
        calls = len(self.world.clock.getDelayedCalls())
        self.world.wait(3)
        self.assertLessEqual(len(self.world.clock.getDelayedCalls()), calls)

    def test_loadFailsWhileOtherDataSettles(self) -> None:
        """
        That puts the deadline off no further.
        """
        link = BlockLink(self.world)
        self.bus.isOpen = False
        link.takeMessage("md21:message", Message(channel="door").SerializeToString(), 1, 9)
        self.store.isAway = True
        link.send(1, 1)
        self.world.wait(40)
        self.bus.isOpen = True
        while self.bus.waiting:
            self.bus.commit()
        self.world.wait(19)
        link.checkDeadline(self.world.clock.seconds())
        self.assertIsNone(link.ending)
        self.world.wait(8)
        link.checkDeadline(self.world.clock.seconds())
        self.assertIsNotNone(link.ending)

    def test_failedFlush(self) -> None:
        """
        The session store hears nothing of it.
        """
        link = BlockLink(self.world)
        link.send(1, 1)
        self.bus.isOpen = False
        link.send(2, 2)
        self.store.held = []
        self.bus.fail()
        self.world.turn()
        self.assertEqual(self.store.held, [])
        self.assertEqual(self.stored(), 1)

    def test_goneLinksLeaveNothing(self) -> None:
        """
        However often a box comes back and sends the same, while the first copy waits for the bus.
        """
        self.bus.isOpen = False
        link = BlockLink(self.world)
        for number in range(5):
            link.send(number, 1, 2)
            link.lose()
            link = BlockLink(self.world)
        fingerprints = self.world.gateway.registry.boxes[BOX].fingerprints
        assert fingerprints is not None
        self.assertEqual((len(fingerprints._awaited), len(fingerprints._own)), (0, 1))

    def test_askedOnce(self) -> None:
        """
        However many blocks came meanwhile, and only by a box that sends some.
        """
        self.store.held = []
        link = BlockLink(self.world)
        self.assertEqual(self.store.held, [])
        link.send(1, 1)
        link.send(2, 2)
        self.assertEqual(len(self.store.held), 1)
        self.store.say()
        self.world.turn()
        self.assertEqual(link.acks(), [1, 2])
        self.store.held = []
        link.send(3, 3)
        self.assertEqual(len(self.store.held), 1)  # the write
        self.store.say()

    def test_storeLostItsMemory(self) -> None:
        """
        It gets all that is known of connected boxes again.
        """
        member = Membership(self.world.gateway, 10, 10, lambda: None)
        member.start()
        link = BlockLink(self.world)
        link.send(1, 1, 2, 3)
        self.store.forget()
        self.world.wait(4)
        self.assertEqual(self.stored(), 3)
        self.world.gateway.registry.writeFingerprintsAgain()
        self.assertEqual(self.stored(), 3)


class MovingTests(SynchronousTestCase):
    """
    Between instances.
    """

    def setUp(self) -> None:
        """
        Two of them, each with a way to the bus of its own.
        """
        self.peers = Colleagues()
        self.store = HandStore()
        self.worlds = [self.instance(name) for name in ("a@1", "b@1")]
        self.buses = [world.bus for world in self.worlds]

    def instance(self, name: str) -> World:
        """
        One more.
        """
        world = World(Limits(batchDeadline=60), self.store, HandBus(), self.peers, name)
        self.peers.worlds[name] = world
        return world

    def release(self, number: int) -> None:
        """
        Let everything of one instance commit.
        """
        bus = self.buses[number]
        bus.isOpen = True
        while bus.waiting:
            bus.commit()
        for world in self.worlds:
            world.turn()

    def test_waitsForTheOldOwner(self) -> None:
        """
        What it has in flight is not published again, whatever block it comes in.
        """
        a, b = self.worlds
        BlockLink(a).send(1, 1)
        self.buses[0].isOpen = False
        old = BlockLink(a)
        old.send(1, 2, 3)
        new = BlockLink(b)
        self.assertEqual(old.ending, Ending(Reason.takeover))
        new.send(1, 3, 4)
        self.assertEqual((new.acks(), published(self.buses[1])), ([], []))
        self.release(0)
        self.assertEqual(new.acks(), [1])
        self.assertEqual(published(*self.buses), [1, 2, 3, 4])

    def test_waitsForTheWrite(self) -> None:
        """
        The old owner does not say that it has settled before the session store knows what it committed.
        """
        a, b = self.worlds
        old = BlockLink(a)
        old.send(1, 1)
        self.store.isAway = True
        old.send(2, 2)
        self.assertEqual(old.acks(), [1, 2])
        self.store.isAway = False
        new = BlockLink(b)
        new.send(1, 1, 2, 3)
        self.assertEqual(new.acks(), [])
        a.wait(1.1)
        b.turn()
        self.assertEqual(new.acks(), [1])
        self.assertEqual(published(*self.buses), [1, 2, 3])

    def test_thereAndBack(self) -> None:
        """
        What the other one added meanwhile is read, what is in flight here is still known.
        """
        a, b = self.worlds
        first = BlockLink(a)
        first.send(1, 1)
        self.buses[0].isOpen = False
        first.send(2, 2)
        second = BlockLink(b)
        second.send(1, 2, 3)
        self.release(0)
        self.assertEqual(second.acks(), [1])
        self.buses[1].isOpen = False
        second.send(2, 4)
        third = BlockLink(a)
        third.send(1, 1, 2, 3, 4, 5)
        self.assertEqual(third.acks(), [])
        self.release(1)
        self.assertEqual(third.acks(), [1])
        self.assertEqual(sorted(published(*self.buses)), [1, 2, 3, 4, 5])

    def test_backWhileInFlight(self) -> None:
        """
        To the other and back with data in flight here all the time: it is published once.
        """
        a, b = self.worlds
        first = BlockLink(a)
        self.buses[0].isOpen = False
        first.send(1, 1, 2)
        BlockLink(b).send(1, 1, 2)
        back = BlockLink(a)
        back.send(1, 2, 3)
        self.release(0)
        self.assertEqual(back.acks(), [1])
        self.assertEqual(published(*self.buses), [1, 2, 3])

    def test_lateAnswer(self) -> None:
        """
        What the store said before the other owner added to it does not count after.
        """
        a, b = self.worlds
        BlockLink(a).send(1, 1)
        a.gateway.registry.boxes.clear()
        self.store.held = []
        BlockLink(a).send(1, 2)
        late, self.store.held = self.store.held, None
        other = BlockLink(b)
        other.send(1, 2)
        back = BlockLink(a)
        self.store.held = []
        back.send(1, 2, 3)
        late[0]()
        self.assertEqual(back.acks(), [])
        self.store.say()
        a.turn()
        self.assertEqual(back.acks(), [1])
        self.assertEqual(sorted(published(*self.buses)), [1, 2, 3])

    def test_lateAnswerAfterASilence(self) -> None:
        """
        Likewise where the box was kept in memory here all the time, as something of it was in flight.
        """
        a, b = self.worlds
        first = BlockLink(a)
        self.buses[0].isOpen = False
        first.takeMessage("md21:message", Message(channel="door").SerializeToString(), 1, 9)
        self.store.held = []
        first.send(1, 2)
        late, self.store.held = self.store.held, None
        other = BlockLink(b)
        other.send(1, 2)
        b.wait(61)
        self.assertEqual(other.acks(), [1])
        back = BlockLink(a)
        self.store.held = []
        back.send(1, 2, 3)
        late[0]()
        self.store.say()
        self.release(0)
        self.assertEqual(back.acks(), [1])
        self.assertEqual(sorted(published(*self.buses)), [2, 3])

    def test_knownBefore(self) -> None:
        """
        What was known here before another owner added to it is read again, even if the box never left the memory here.
        """
        a, b = self.worlds
        first = BlockLink(a)
        first.send(1, 1)
        self.buses[0].isOpen = False
        first.takeMessage("md21:message", Message(channel="door").SerializeToString(), 1, 9)
        other = BlockLink(b)
        other.send(1, 2)
        b.wait(61)
        self.assertEqual(other.acks(), [1])
        back = BlockLink(a)
        back.send(1, 1, 2, 3)
        self.release(0)
        self.assertEqual(back.acks(), [1])
        self.assertEqual(sorted(published(*self.buses)), [1, 2, 3])

    def test_deadOwner(self) -> None:
        """
        Of one that is dead the session store knows best.
        """
        a, b = self.worlds
        BlockLink(a).send(1, 1, 2)
        del self.peers.worlds["a@1"]
        BlockLink(b).send(1, 1, 2, 3)
        self.assertEqual(published(*self.buses), [1, 2, 3])

    def test_changedProtocol(self) -> None:
        """
        A box that goes to MD30 takes its box session along, and back.
        """
        a, _ = self.worlds
        BlockLink(a).send(1, 1, 2)
        box = a.box()
        box.tracks(50, 2)
        self.assertEqual(box.acks(), [1])
        BlockLink(a).send(1, 1, 2, 3)
        self.assertEqual(published(*self.buses), [1, 2, 50, 51, 3])


class UnforeseenTests(SynchronousTestCase):
    """
    What must not be lost silently.
    """

    def test_writeRaises(self) -> None:
        """
        A write that fails in any way is made again.
        """
        store = HandStore()
        world = World(store=store)
        link = BlockLink(world)
        link.send(1, 1)
        answers: list[Deferred[None]] = [fail(Failure(ValueError("unforeseen")))]
        commit = store.commitFingerprints
        store.commitFingerprints = lambda *given: answers.pop() if answers else commit(*given)  # type: ignore[method-assign]
        link.send(2, 2)
        world.wait(1.1)
        self.assertEqual(len(self.successResultOf(store.fingerprints(BOX))), 16)
