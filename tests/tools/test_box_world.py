"""
The simulated boxes on a whole gateway: real packets both ways, and a bus whose flushes the test lets through or fails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.test.iosim import FakeTransport, IOPump, connect
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.bus.topics import Topics
from binaryserver.model import BoxKey
from binaryserver.tools.box_endpoint import Access
from binaryserver.tools.box_fleet import Fleet
from binaryserver.tools.box_payload import PayloadForm
from binaryserver.tools.box_plan import BoxPlan, Resend
from binaryserver.tools.box_store import StateDirectory
from binaryserver.tools.box_sums import Sums
from tests.harness import NOW_MS, World
from tests.tools.box_gateway import CutTransport


class WorldReactor:
    """
    The world's clock, and connects to the world's gateway, wherever they want to go.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.seconds: Callable[[], float] = world.clock.seconds
        self.callLater: Callable[..., Any] = world.clock.callLater
        self.pumps: list[IOPump] = []

    def connectTCP(self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None) -> None:
        """
        See L{IReactorTCP}.
        """
        box, link = factory.buildProtocol(None), self.world.factory.buildProtocol(None)
        near, far = CutTransport(box, isServer=False), CutTransport(link, isServer=True)
        near.other, far.other = far, near
        self.pumps.append(connect(link, far, box, near, greet=False, clock=self.world.clock))

    def flush(self) -> None:
        """
        Let everything happen that needs no time.
        """
        moved = True
        while moved:
            self.world.turn()
            moved = any([pump.flush(advanceClock=False) for pump in self.pumps])

    def run(self, seconds: float) -> None:
        """
        Let time pass, and bytes be carried all the while.
        """
        for _ in range(round(seconds / 0.05)):
            self.flush()
            self.world.clock.advance(0.05)
        self.flush()

    def lose(self) -> None:
        """
        The network is gone for every link, with all that is under way.
        """
        for pump in self.pumps:
            transport: FakeTransport = pump.clientIO
            if not transport.disconnected:
                transport.abortConnection()
        self.flush()


class WorldCase(SynchronousTestCase):
    """
    One gateway, and fleets on it.
    """

    def setUp(self) -> None:
        """
        A bus that commits at once, for now.
        """
        self.world = World()
        self.bus = self.world.bus
        self.reactor = WorldReactor(self.world)

    def fleet(self, plan: BoxPlan | None = None, boxes: int = 1, tracks: int = 10, **options: Any) -> Fleet:
        """
        A fleet of boxes C{box-1} and on.
        """
        endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", 1883)
        options.setdefault("random", Random(1))
        return Fleet(
            self.reactor,
            lambda asset: Access(endpoint),
            plan or BoxPlan(),
            [f"box-{number + 1}" for number in range(boxes)],
            tracks,
            wallTime=lambda: NOW_MS / 1000 + self.world.clock.seconds(),
            **options,
        )

    def start(self, fleet: Fleet) -> Deferred[Sums]:
        """
        Start a fleet, and let what needs no time happen.
        """
        done = fleet.start()
        self.reactor.flush()
        return done

    def openBus(self) -> None:
        """
        Commit what waits, and from now on at once.
        """
        self.bus.isOpen = True
        while self.bus.waiting:
            self.bus.commit()

    def failTracks(self, isThere: bool = False) -> None:
        """
        Fail the flushes of tracks that wait, and commit the others.
        """
        while self.bus.waiting:
            if self.bus.waiting[0][0] == Topics.named().tracks:
                self.bus.fail(isThere=isThere)
            else:
                self.bus.commit()

    def onBus(self) -> Counter[tuple[str, int]]:
        """
        How often each track is durable, by asset and index.
        """
        return Counter((event.asset, event.index) for event in self.bus.events("tracks"))

    def assertOnceEach(self, boxes: int, tracks: int) -> None:
        """
        The bus has every track of every box once, and nothing was rejected.
        """
        expected = {(f"box-{box + 1}", index + 1): 1 for box in range(boxes) for index in range(tracks)}
        self.assertEqual(self.onBus(), expected)
        self.assertEqual(self.bus.rejects(), [])


class AckTests(WorldCase):
    """
    What a fleet calls acked.
    """

    def test_everyForm(self) -> None:
        """
        At every QoS, in both forms and manners, everything arrives once and is acked.
        """
        for qos in (0, 1, 2):
            for form in PayloadForm:
                for resend in Resend:
                    self.setUp()
                    plan = BoxPlan(qos=qos, form=form, resend=resend, batch=4, resendAfter=5 if qos == 0 else None)
                    done = self.start(self.fleet(plan, boxes=3, tracks=30))
                    self.reactor.run(1)
                    sums = self.successResultOf(done)
                    self.assertEqual((sums.sent, sums.acked, sums.resent, sums.connects), (90, 90, 0, 3))
                    self.assertEqual((sums.unexpectedAcks, sums.acksOutOfOrder, sums.peerErrors), (0, 0, 0))
                    self.assertOnceEach(3, 30)

    def test_notBeforeTheCommit(self) -> None:
        """
        Nothing counts as acked that is not durable, flush by flush.
        """
        self.bus.isOpen = False
        fleet = self.fleet(BoxPlan(inflight=3), tracks=9)
        done = self.start(fleet)
        self.reactor.run(1)
        self.assertEqual((fleet.sums.sent, fleet.sums.acked), (3, 0))
        for _ in range(20):
            if self.bus.waiting:
                self.bus.commit()
            self.reactor.run(0.2)
            self.assertEqual(fleet.sums.acked, len(self.onBus()))
        self.assertTrue(self.successResultOf(done).complete)
        self.assertOnceEach(1, 9)

    def test_failedFlush(self) -> None:
        """
        A flush that fails acks nothing; the gateway drops the link, and the box brings the same tracks again.
        """
        self.bus.isOpen = False
        fleet = self.fleet(BoxPlan(inflight=4, reconnectDelay=0.5), tracks=8)
        done = self.start(fleet)
        self.reactor.run(0.2)
        self.failTracks()
        self.reactor.flush()
        self.assertEqual((fleet.sums.sent, fleet.sums.acked, fleet.sums.lostLinks), (4, 0, 1))
        self.openBus()
        self.reactor.run(3)
        sums = self.successResultOf(done)
        self.assertEqual((sums.sent, sums.resent, sums.acked, sums.connects), (8, 4, 8, 2))
        self.assertOnceEach(1, 8)

    def test_sameTrackAgain(self) -> None:
        """
        A track that goes out again is the same one, to the byte: the event of a failed flush that was there after all
        equals that of its resend.
        """
        self.bus.isOpen = False
        done = self.start(self.fleet(BoxPlan(reconnectDelay=0.5), tracks=1))
        self.reactor.run(0.2)
        self.failTracks(isThere=True)
        self.openBus()
        self.reactor.run(3)
        self.assertTrue(self.successResultOf(done).complete)
        first, again = self.bus.events("tracks")
        self.assertEqual((first.track, first.stream, first.index), (again.track, again.stream, again.index))


class BadNetworkTests(WorldCase):
    """
    Cuts and lost acks: everything is on the bus once all the same.
    """

    def test_cutBeforeTheCommit(self) -> None:
        """
        A box that comes back while its tracks are still on their way sends them again; they are published once.
        """
        self.bus.isOpen = False
        fleet = self.fleet(BoxPlan(inflight=5, reconnectDelay=0.5), tracks=5)
        done = self.start(fleet)
        self.reactor.lose()
        self.reactor.run(2)
        self.assertEqual((fleet.sums.connects, fleet.sums.acked), (2, 0))
        self.openBus()
        self.reactor.run(2)
        sums = self.successResultOf(done)
        self.assertEqual((sums.sent, sums.acked, sums.lostLinks), (5, 5, 1))
        self.assertEqual(sums.resent + sums.droppedByIndex, 5)
        self.assertOnceEach(1, 5)

    def test_indexAfterTheCommit(self) -> None:
        """
        What was committed while the box was away it drops by the index notice, and does not send again.
        """
        self.bus.isOpen = False
        fleet = self.fleet(BoxPlan(inflight=5, reconnectDelay=0.5), tracks=8)
        done = self.start(fleet)
        self.reactor.lose()
        self.openBus()
        self.reactor.run(2)
        sums = self.successResultOf(done)
        self.assertEqual((sums.sent, sums.resent, sums.acked), (8, 0, 8))
        self.assertEqual((sums.pubacked, sums.droppedByIndex), (3, 5))
        self.assertOnceEach(1, 8)

    def test_noIndex(self) -> None:
        """
        A box that does not read the index sends all that again; the gateway acks and does not publish it.
        """
        self.bus.isOpen = False
        plan = BoxPlan(inflight=5, reconnectDelay=0.5, indexFromGateway=False)
        done = self.start(self.fleet(plan, tracks=8))
        self.reactor.lose()
        self.openBus()
        self.reactor.run(2)
        sums = self.successResultOf(done)
        self.assertEqual((sums.sent, sums.resent, sums.acked, sums.pubacked), (8, 5, 8, 8))
        self.assertOnceEach(1, 8)

    def test_everythingAtOnce(self) -> None:
        """
        Cuts and lost acks, at QoS 1 and 2, with and without the index, in both manners.
        """
        for qos in (1, 2):
            for resend in Resend:
                for index in (True, False):
                    self.setUp()
                    plan = BoxPlan(
                        qos=qos,
                        resend=resend,
                        indexFromGateway=index,
                        rate=20,
                        batch=3,
                        cutEvery=1.0,
                        loseAcks=0.1,
                        ackTimeout=0.5,
                        reconnectDelay=0.1,
                    )
                    fleet = self.fleet(plan, boxes=3, tracks=60)
                    done = self.start(fleet)
                    for _ in range(120):
                        self.reactor.run(0.25)
                        self.assertLessEqual(fleet.sums.acked, len(self.onBus()))
                        if done.called:
                            break
                    sums = self.successResultOf(done)
                    self.assertEqual((sums.sent, sums.acked, sums.unexpectedAcks, sums.peerErrors), (180, 180, 0, 0))
                    self.assertGreater(sums.cuts, 3)
                    self.assertGreater(sums.acksIgnored, 0)
                    self.assertOnceEach(3, 60)


class StateTests(WorldCase):
    """
    A stream over several runs.
    """

    def test_goesOn(self) -> None:
        """
        A second run numbers its tracks behind the first one's, in the same stream, and nothing of it is a duplicate.
        """
        folder = self.mktemp()
        for number in (1, 2):
            fleet = self.fleet(tracks=10, state=StateDirectory(folder), random=Random(number))
            sums = self.successResultOf(self.start(fleet))
            self.assertEqual((sums.pubacked, sums.droppedByIndex), (10, 0))
            self.reactor.run(20)
        self.assertOnceEach(1, 20)
        self.assertEqual({event.missing_before for event in self.bus.events("tracks")}, {0})
        (mark,) = self.successResultOf(self.world.store.marks(BoxKey("dev", "box-1")))
        self.assertEqual((mark.stream, mark.committed), (fleet.boxes[0].store.stream, 20))

    def test_wasEndedEarly(self) -> None:
        """
        What was sent and not acked when a run was ended belongs to the next one, as it was.
        """
        folder = self.mktemp()
        self.bus.isOpen = False
        fleet = self.fleet(BoxPlan(inflight=3), tracks=5, state=StateDirectory(folder))
        done = self.start(fleet)
        fleet.stop()
        self.reactor.flush()
        self.assertEqual((self.successResultOf(done).sent, fleet.sums.acked), (3, 0))
        self.openBus()
        done = self.start(self.fleet(tracks=2, state=StateDirectory(folder)))
        self.reactor.run(1)
        sums = self.successResultOf(done)
        self.assertEqual((sums.tracks, sums.droppedByIndex, sums.pubacked, sums.acked), (7, 3, 4, 7))
        self.assertOnceEach(1, 7)
