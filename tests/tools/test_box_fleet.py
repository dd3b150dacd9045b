"""
Tests for L{binaryserver.tools.box_fleet} and the boxes in it, on a gateway in memory.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.logger import LogEvent, Logger, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.errors import ConfigError
from binaryserver.mqtt.packets import ConnectCode, encodeConnack, encodePuback, encodePublish
from binaryserver.proto.md30_pb2 import IndexNotice
from binaryserver.tools.box_endpoint import Access
from binaryserver.tools.box_fleet import Fleet
from binaryserver.tools.box_payload import PayloadForm
from binaryserver.tools.box_plan import BoxPlan, BoxState, Resend
from binaryserver.tools.box_store import StateDirectory
from binaryserver.tools.box_sums import Sums
from tests.tools.box_gateway import NOW, MemoryReactor


class FleetCase(SynchronousTestCase):
    """
    A gateway, and fleets on it.
    """

    def setUp(self) -> None:
        """
        One clock for all.
        """
        self.reactor = MemoryReactor()
        self.gateway = self.reactor.gateway

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
            wallTime=self.reactor.seconds,
            **options,
        )

    def start(self, fleet: Fleet) -> Deferred[Sums]:
        """
        Start a fleet, and let what needs no time happen.
        """
        done = fleet.start()
        self.reactor.flush()
        return done

    def assertAllTaken(self, boxes: int, tracks: int) -> None:
        """
        The gateway has every track of every box, once, from index 1 on.
        """
        streams = {(asset, stream) for asset, stream, _ in self.gateway.tracks}
        self.assertEqual(
            set(self.gateway.tracks),
            {(asset, stream, index + 1) for asset, stream in streams for index in range(tracks)},
        )
        self.assertEqual(len({asset for asset, _ in streams}), boxes)


class DeliveryTests(FleetCase):
    """
    What a box brings on a good network.
    """

    def test_all(self) -> None:
        """
        Every track of every box arrives once, is acked, and the links end in good order.
        """
        done = self.start(self.fleet(BoxPlan(batch=3), boxes=3, tracks=10))
        sums = self.successResultOf(done)
        self.assertAllTaken(3, 10)
        self.assertEqual(
            (sums.boxes, sums.tracks, sums.sent, sums.acked, sums.pubacked, sums.resent, sums.connects),
            (3, 30, 30, 30, 30, 0, 3),
        )
        self.assertTrue(sums.complete)
        self.assertEqual(self.gateway.clean, 3)
        self.assertEqual([size for *_, size in self.gateway.publishes], [3, 3, 3, 1] * 3)

    def test_connect(self) -> None:
        """
        The CONNECT names the asset, the account and the password, and keeps the session.
        """
        self.start(self.fleet(BoxPlan(account="acme", password=b"secret", keepAlive=17)))
        connect = self.gateway.connects[0]
        self.assertEqual(
            (connect.clientId, connect.username, connect.password, connect.keepAlive, connect.cleanSession),
            ("box-1", "acme", b"secret", 17, False),
        )

    def test_json(self) -> None:
        """
        On the JSON topic the same tracks arrive.
        """
        fleet = self.fleet(BoxPlan(form=PayloadForm.JSON, batch=4))
        self.assertTrue(self.successResultOf(self.start(fleet)).complete)
        self.assertAllTaken(1, 10)

    def test_streams(self) -> None:
        """
        Each box draws a stream of its own; a seed draws the same ones again.
        """
        first = [box.store.stream for box in self.fleet(boxes=50, random=Random(7)).boxes]
        again = [box.store.stream for box in self.fleet(boxes=50, random=Random(7)).boxes]
        self.assertEqual(first, again)
        self.assertEqual(len(set(first)), 50)
        self.assertTrue(all(0 < stream < 1 << 64 for stream in first))

    def test_times(self) -> None:
        """
        Tracks are recorded a second or so apart, each after the one before, and the last one now.
        """
        self.start(self.fleet(tracks=100))
        times = [track.recorded_at for track in self.gateway.tracks.values()]
        steps = [later - earlier for earlier, later in pairwise(times)]
        self.assertTrue(all(700 < step < 1300 for step in steps), steps)
        self.assertTrue(NOW * 1000 - 300 <= times[-1] <= NOW * 1000)

    def test_inflight(self) -> None:
        """
        No more PUBLISHes than asked for wait for their ack, and nothing counts as acked before.
        """
        self.gateway.holding = True
        fleet = self.fleet(BoxPlan(inflight=4), tracks=10)
        done = self.start(fleet)
        self.assertEqual(len(self.gateway.publishes), 4)
        self.assertEqual((fleet.sums.sent, fleet.sums.acked), (4, 0))
        self.assertFalse(fleet.sums.complete)
        self.reactor.run(2)
        self.assertEqual(len(self.gateway.publishes), 4)
        self.gateway.release()
        self.reactor.flush()
        sums = self.successResultOf(done)
        self.assertEqual((sums.sent, sums.acked), (10, 10))
        self.assertTrue(1.9 < sums.ackTimes.maximum < 2.1)

    def test_qos2(self) -> None:
        """
        At QoS 2 a box is done once every packet id is released.
        """
        done = self.start(self.fleet(BoxPlan(qos=2), tracks=50))
        self.assertEqual(self.successResultOf(done).pubacked, 50)
        self.assertAllTaken(1, 50)
        self.assertEqual(self.gateway.connects[0].cleanSession, True)

    def test_qos0(self) -> None:
        """
        At QoS 0 the index alone tells what has arrived; the box asks for it until all has.
        """
        done = self.start(self.fleet(BoxPlan(qos=0, resendAfter=5), tracks=50))
        self.assertNoResult(done)
        self.reactor.run(1)
        sums = self.successResultOf(done)
        self.assertEqual((sums.acked, sums.ackedByIndex, sums.pubacked, sums.droppedByIndex), (50, 50, 0, 0))
        self.assertAllTaken(1, 50)

    def test_qos0Lost(self) -> None:
        """
        What is lost at QoS 0 is sent again after a while.
        """
        self.gateway.losing = True
        done = self.start(self.fleet(BoxPlan(qos=0, resendAfter=5), tracks=5))
        self.gateway.losing = False
        self.reactor.run(4.9)
        self.assertEqual(self.gateway.tracks, {})
        self.reactor.run(1)
        sums = self.successResultOf(done)
        self.assertEqual((sums.sent, sums.resent, sums.acked, sums.connects), (5, 5, 5, 1))

    def test_noTracks(self) -> None:
        """
        A box without tracks connects and leaves.
        """
        sums = self.successResultOf(self.start(self.fleet(tracks=0)))
        self.assertEqual((sums.connects, sums.tracks, sums.complete), (1, 0, True))

    def test_rate(self) -> None:
        """
        A rate is kept by each box, whatever its batches; the rest does not wait for a whole one.
        """
        done = self.start(self.fleet(BoxPlan(rate=2, batch=4), boxes=2, tracks=10))
        self.reactor.run(1.4)
        self.assertEqual(self.gateway.publishes, [])
        self.reactor.run(1.2)
        self.assertEqual(len(self.gateway.publishes), 2)
        self.reactor.run(2)
        self.assertEqual(len(self.gateway.publishes), 4)
        self.reactor.run(1)
        sums = self.successResultOf(done)
        self.assertAllTaken(2, 10)
        self.assertTrue(4 <= sums.ended - sums.started <= 5.2)

    def test_rateTimes(self) -> None:
        """
        At a track a second or less, each is sent when it was recorded; none comes from the future.
        """
        for rate in (0.5, 1.0, 20.0):
            self.gateway.tracks.clear()
            self.start(self.fleet(BoxPlan(rate=rate), tracks=4))
            seen = 0
            for _ in range(200):
                self.reactor.run(0.05)
                now = self.reactor.seconds() * 1000
                for track in list(self.gateway.tracks.values())[seen:]:
                    self.assertLessEqual(track.recorded_at, now + 1)
                    if rate <= 1:
                        self.assertGreater(track.recorded_at, now - 700)
                seen = len(self.gateway.tracks)
            self.assertEqual(seen, 4)

    def test_ramp(self) -> None:
        """
        Connects are spread over the ramp.
        """
        self.start(self.fleet(boxes=10, ramp=5.0))
        self.assertEqual(self.reactor.attempts, 1)
        self.reactor.run(2.3)
        self.assertEqual(self.reactor.attempts, 5)

    def test_keepAlive(self) -> None:
        """
        A box with nothing to say asks whether the link is alive, and drops it without an answer.
        """
        self.gateway.holding = True
        fleet = self.fleet(BoxPlan(keepAlive=20), tracks=1)
        self.start(fleet)
        self.reactor.run(100)
        self.assertEqual(self.reactor.attempts, 1)
        self.gateway.deaf = True
        self.reactor.run(45)
        self.assertEqual(self.reactor.attempts, 2)
        self.assertEqual(fleet.sums.lostLinks, 1)

    def test_paused(self) -> None:
        """
        A transport that has enough is given no more until it asks.
        """
        self.gateway.holding = True
        fleet = self.fleet(BoxPlan(inflight=64), tracks=100)
        done = self.start(fleet)
        link = self.reactor.pumps[0].client._wrappedProtocol
        link.pauseProducing()
        self.gateway.release()
        self.reactor.flush()
        self.assertEqual((fleet.sums.sent, fleet.sums.acked), (64, 64))
        link.resumeProducing()
        self.reactor.flush()
        self.assertTrue(self.successResultOf(done).complete)


class BadNetworkTests(FleetCase):
    """
    Cuts, lost acks, and what is sent again.
    """

    def test_sameSession(self) -> None:
        """
        In the same session what was not acked goes out again as it was: same packet ids, same tracks, DUP, in order.
        """
        self.gateway.holding = True
        self.gateway.answersIndex = False
        done = self.start(self.fleet(BoxPlan(inflight=3, batch=2), tracks=6))
        self.gateway.links[0].drop()
        self.reactor.run(2)
        first, again = self.gateway.publishes[:3], self.gateway.publishes[3:]
        self.assertEqual([dup for _, _, dup, _, _ in first], [False] * 3)
        self.assertEqual(again, [(asset, packetId, True, at, size) for asset, packetId, _, at, size in first])
        self.assertNoResult(done)
        self.gateway.release()
        self.reactor.flush()
        sums = self.successResultOf(done)
        self.assertEqual((sums.sent, sums.resent, sums.acked, sums.connects, sums.lostLinks), (6, 6, 6, 2, 1))

    def test_index(self) -> None:
        """
        What the index notice covers is not sent again, and counts as acked by it.
        """
        self.gateway.holding = True
        done = self.start(self.fleet(BoxPlan(inflight=3, batch=2), tracks=10))
        self.gateway.links[0].drop()
        self.gateway.holding = False
        self.reactor.run(2)
        sums = self.successResultOf(done)
        self.assertEqual((sums.sent, sums.resent, sums.acked), (10, 0, 10))
        self.assertEqual((sums.pubacked, sums.ackedByIndex, sums.droppedByIndex), (4, 6, 6))
        self.assertEqual(self.gateway.duplicates, 0)
        self.assertAllTaken(1, 10)

    def test_newSession(self) -> None:
        """
        In a clean session tracks are cut anew, without DUP; the index drops what it covers, to the track.
        """
        self.gateway.holding = True
        fleet = self.fleet(BoxPlan(inflight=3, batch=2, resend=Resend.NEW), tracks=10)
        done = self.start(fleet)
        self.gateway.marks[("box-1", fleet.boxes[0].store.stream)] = 3
        self.gateway.links[0].drop()
        self.gateway.holding = False
        self.reactor.run(2)
        sums = self.successResultOf(done)
        self.assertEqual([(at, size) for *_, at, size in self.gateway.publishes[3:]], [(4, 2), (6, 2), (8, 2), (10, 1)])
        self.assertFalse(any(dup for _, _, dup, _, _ in self.gateway.publishes))
        self.assertTrue(all(connect.cleanSession for connect in self.gateway.connects))
        self.assertEqual((sums.sent, sums.resent, sums.droppedByIndex, sums.acked), (10, 3, 3, 10))

    def test_noIndex(self) -> None:
        """
        Without the index all that was not acked goes out again, and the gateway sees duplicates.
        """
        self.gateway.holding = True
        done = self.start(self.fleet(BoxPlan(inflight=5, resend=Resend.NEW, indexFromGateway=False), tracks=5))
        self.gateway.links[0].drop()
        self.gateway.holding = False
        self.reactor.run(2)
        sums = self.successResultOf(done)
        self.assertEqual((sums.resent, sums.ackedByIndex, self.gateway.duplicates), (5, 0, 5))

    def test_sessionLost(self) -> None:
        """
        When the gateway has forgotten the session, packet ids and DUP mean nothing any more.
        """
        self.gateway.holding = True
        self.gateway.answersIndex = False
        done = self.start(self.fleet(BoxPlan(inflight=5), tracks=5))
        self.gateway.sessions.clear()
        self.gateway.links[0].drop()
        self.gateway.sessions.clear()
        self.gateway.holding = False
        self.reactor.run(2)
        self.assertTrue(self.successResultOf(done).complete)
        self.assertFalse(any(dup for _, _, dup, _, _ in self.gateway.publishes))
        self.assertEqual(len(self.gateway.publishes), 10)

    def test_cuts(self) -> None:
        """
        Boxes that cut their links all the time bring everything all the same, at every QoS and in both manners; each
        track of a batch is then the same as the first time.
        """
        for qos in (0, 1, 2):
            for resend in Resend:
                self.setUp()
                plan = BoxPlan(
                    qos=qos,
                    resend=resend,
                    rate=20,
                    batch=3,
                    cutEvery=0.4,
                    reconnectDelay=0.1,
                    resendAfter=5 if qos == 0 else None,
                )
                fleet = self.fleet(plan, boxes=4, tracks=100)
                done = self.start(fleet)
                self.reactor.run(60)
                sums = self.successResultOf(done)
                self.assertTrue(sums.complete, sums)
                self.assertAllTaken(4, 100)
                self.assertGreater(sums.cuts, 10)
                self.assertEqual(sums.sent, 400)
                self.assertEqual((sums.unexpectedAcks, sums.acksOutOfOrder, sums.indexBeyondStore), (0, 0, 0))

    def test_cutsWithHeldAcks(self) -> None:
        """
        Links that are cut while acks are under way lead to resends, and nothing is acked that was not.
        """
        self.gateway.answersIndex = False
        plan = BoxPlan(rate=50, cutEvery=0.3, reconnectDelay=0.1)
        fleet = self.fleet(plan, boxes=2, tracks=200)
        done = self.start(fleet)
        for _ in range(400):
            self.gateway.holding = True
            self.reactor.run(0.1)
            self.assertLessEqual(fleet.sums.pubacked, len(self.gateway.tracks))
            self.gateway.release()
        self.reactor.run(5)
        sums = self.successResultOf(done)
        self.assertGreater(sums.resent, 0)
        self.assertEqual((sums.pubacked, sums.unexpectedAcks), (400, 0))
        self.assertAllTaken(2, 200)

    def test_loseAcks(self) -> None:
        """
        What an ack was lost of goes out again on a new link: acked is what was acked there, and no more.
        """
        for qos in (1, 2):
            self.setUp()
            plan = BoxPlan(qos=qos, loseAcks=0.3, ackTimeout=2, reconnectDelay=0.5, indexFromGateway=False)
            fleet = self.fleet(plan, tracks=50)
            done = self.start(fleet)
            first = len(self.gateway.publishes)
            self.assertEqual((fleet.sums.connects, fleet.sums.acked), (1, first - fleet.sums.acksIgnored))
            self.reactor.run(60)
            sums = self.successResultOf(done)
            self.assertGreater(sums.acksIgnored, 3)
            self.assertEqual((sums.pubacked, sums.unexpectedAcks, sums.lostLinks), (50, 0, 0))
            self.assertEqual(sums.connects, 1 + sums.ackTimeouts)
            self.assertEqual(len(self.gateway.links), 0)
            self.assertAllTaken(1, 50)
            # Each one that goes out again was there; at QoS 2 a kept packet id may tell so before its index does.
            self.assertGreater(sums.resent, 0)
            self.assertTrue(qos == 2 or self.gateway.duplicates == sums.resent)
            self.assertLessEqual(self.gateway.duplicates, sums.resent)

    def test_loseAcksIndex(self) -> None:
        """
        What an ack was lost of is dropped, not sent again, when the index on the new link covers it.
        """
        done = self.start(self.fleet(BoxPlan(loseAcks=0.3, ackTimeout=2, reconnectDelay=0.5), tracks=50))
        self.reactor.run(60)
        sums = self.successResultOf(done)
        self.assertGreater(sums.acksIgnored, 3)
        self.assertEqual((sums.acked, sums.pubacked, sums.resent), (50, 50 - sums.acksIgnored, 0))
        self.assertEqual((sums.droppedByIndex, self.gateway.duplicates), (sums.acksIgnored, 0))
        self.assertGreater(sums.ackTimeouts, 0)

    def test_ackTimeout(self) -> None:
        """
        A link without acks is ended once the oldest PUBLISH has waited too long, and not while acks come in time.
        """
        self.gateway.holding = True
        self.gateway.answersIndex = False
        fleet = self.fleet(BoxPlan(ackTimeout=3, inflight=2), tracks=4)
        self.start(fleet)
        self.reactor.run(2.9)
        self.gateway.release()
        self.gateway.holding = True
        self.reactor.flush()
        self.assertEqual((fleet.sums.acked, fleet.sums.sent), (2, 4))
        self.reactor.run(2.9)
        self.assertEqual((fleet.sums.ackTimeouts, self.reactor.attempts), (0, 1))
        self.reactor.run(2)
        self.assertEqual((fleet.sums.ackTimeouts, fleet.sums.acked, self.reactor.attempts), (1, 2, 2))

    def test_loseAcksSameLink(self) -> None:
        """
        An ack taken for lost leads to the same PUBLISH again, with DUP, on the same link, where that is asked for.
        """
        for qos in (1, 2):
            self.setUp()
            done = self.start(self.fleet(BoxPlan(qos=qos, loseAcks=0.3, resendAfter=2), tracks=50))
            self.assertNoResult(done)
            self.reactor.run(60)
            sums = self.successResultOf(done)
            self.assertGreater(sums.acksIgnored, 3)
            self.assertEqual((sums.pubacked, sums.connects, sums.unexpectedAcks), (50, 1, 0))
            self.assertEqual(sums.resent, sums.acksIgnored)
            self.assertEqual(sum(dup for _, _, dup, _, _ in self.gateway.publishes), sums.resent if qos == 1 else 0)

    def test_lateAckOfCopy(self) -> None:
        """
        The second ack of a PUBLISH that was sent twice is not taken for the ack of other tracks.
        """
        self.gateway.holding = True
        fleet = self.fleet(BoxPlan(inflight=1, resendAfter=2, indexFromGateway=False), tracks=3)
        self.start(fleet)
        self.reactor.run(2.2)
        self.assertEqual(len(self.gateway.publishes), 2)
        link = self.gateway.links[0]
        packetId = self.gateway.publishes[0][1]
        link.send(encodePuback(packetId) + encodePuback(packetId))
        self.reactor.flush()
        self.assertEqual((fleet.sums.acked, fleet.sums.sent, fleet.sums.unexpectedAcks), (1, 2, 0))

    def test_reconnectDelay(self) -> None:
        """
        A gateway that cannot be reached is tried again, ever more seldom, up to half a minute.
        """
        self.reactor.refusing = True
        fleet = self.fleet(BoxPlan(reconnectDelay=1.0))
        done = self.start(fleet)
        self.reactor.run(0.7)
        self.assertEqual(self.reactor.attempts, 1)
        self.reactor.run(300, step=0.25)
        self.assertTrue(10 < self.reactor.attempts < 20, self.reactor.attempts)
        self.assertEqual(fleet.sums.failedConnects, self.reactor.attempts)
        self.reactor.refusing = False
        self.reactor.run(40)
        self.assertTrue(self.successResultOf(done).complete)

    def test_silentGateway(self) -> None:
        """
        A gateway that accepts and says nothing is given up after half a minute, and tried again; a person is told why.
        """
        events: list[LogEvent] = []
        self.patch(Fleet, "log", Logger(observer=events.append))  # type: ignore[arg-type]
        fleet = self.fleet()
        self.gateway.deaf = True
        fleet.start()
        self.reactor.pumps[0].server.asset = "deaf"
        self.reactor.run(29)
        self.assertEqual((self.reactor.attempts, fleet.boxes[0].state), (1, BoxState.awaitingConnack))
        self.reactor.run(4)
        self.assertEqual((self.reactor.attempts, fleet.sums.lostLinks), (2, 1))
        self.assertEqual(
            [formatEvent(event) for event in events],
            ["box-1: lost the link while waiting for the answer to its CONNECT: it did not come within 30 s"],
        )


class GatewayFaultTests(FleetCase):
    """
    A gateway that refuses or does what it must not.
    """

    def test_refused(self) -> None:
        """
        A box that the gateway will not have gives up; the run ends without its tracks.
        """
        self.gateway.refusal = ConnectCode.NOT_AUTHORIZED
        sums = self.successResultOf(self.start(self.fleet(boxes=2)))
        self.assertEqual((sums.refused, sums.acked, sums.complete, sums.connects), (2, 0, False, 0))

    def test_unavailable(self) -> None:
        """
        A gateway that is not available now is tried again.
        """
        self.gateway.refusal = ConnectCode.SERVER_UNAVAILABLE
        done = self.start(self.fleet())
        self.assertNoResult(done)
        self.gateway.refusal = 0
        self.reactor.run(5)
        self.assertTrue(self.successResultOf(done).complete)

    def test_unexpectedAck(self) -> None:
        """
        An ack that nothing asked for acks nothing, and is counted.
        """
        self.gateway.holding = True
        fleet = self.fleet(BoxPlan(inflight=2))
        self.start(fleet)
        self.gateway.links[0].send(encodePuback(999))
        self.reactor.flush()
        self.assertEqual((fleet.sums.unexpectedAcks, fleet.sums.acked), (1, 0))

    def test_ackOfEarlierLink(self) -> None:
        """
        After a reconnect an ack counts only once its PUBLISH has been sent on the new link.
        """
        self.gateway.holding = True
        fleet = self.fleet(BoxPlan(inflight=2))
        self.start(fleet)
        packetId = self.gateway.publishes[0][1]
        self.gateway.links[0].drop()
        self.gateway.deaf = True
        self.reactor.run(2)
        self.gateway.links[0].send(encodePuback(packetId))
        self.reactor.flush()
        self.assertEqual((fleet.sums.unexpectedAcks, fleet.sums.acked), (1, 0))

    def test_ackOrder(self) -> None:
        """
        An ack ahead of an earlier one counts, and is told as out of order.
        """
        self.gateway.holding = True
        fleet = self.fleet(BoxPlan(inflight=2), tracks=2)
        done = self.start(fleet)
        first, second = (packetId for _, packetId, *_ in self.gateway.publishes)
        self.gateway.links[0].send(encodePuback(second) + encodePuback(first))
        self.reactor.flush()
        sums = self.successResultOf(done)
        self.assertEqual((sums.acked, sums.acksOutOfOrder), (2, 1))

    def test_indexBeyondStore(self) -> None:
        """
        An index that the box never used acks what was sent, and not what was not.
        """
        self.gateway.holding = True
        fleet = self.fleet(BoxPlan(inflight=2), tracks=10)
        self.start(fleet)
        notice = IndexNotice(stream=fleet.boxes[0].store.stream, last_index=1000)
        self.gateway.links[0].send(encodePublish("i", notice.SerializeToString()))
        self.reactor.flush()
        self.assertEqual((fleet.sums.indexBeyondStore, fleet.sums.acked, fleet.sums.sent), (1, 0, 2))
        self.gateway.marks[("box-1", notice.stream)] = 1000
        self.gateway.links[0].drop()
        self.reactor.run(2)
        self.assertEqual(fleet.sums.ackedByIndex, 2)

    def test_otherStream(self) -> None:
        """
        The index of another stream drops nothing, and moves no number.
        """
        self.gateway.marks["box-1", 5] = 1000
        self.gateway.losing = self.gateway.holding = True
        done = self.start(self.fleet(tracks=3))
        self.gateway.losing = self.gateway.holding = False
        self.gateway.links[0].drop()
        self.reactor.run(2)
        sums = self.successResultOf(done)
        self.assertEqual((sums.resent, sums.ackedByIndex, sums.pubacked), (3, 0, 3))
        self.assertAllTaken(1, 3)

    def test_brokenPackets(self) -> None:
        """
        What is no packet of a server costs the link, and is counted; the box comes back.
        """
        for data in (
            b"\x00\x00",
            b"\xc0\x00",
            encodeConnack(False, 0),
            b"\x50\x02\x00\x01",
            encodePublish("i", b"\xff"),
        ):
            self.setUp()
            self.gateway.holding = True
            fleet = self.fleet(tracks=2)
            done = self.start(fleet)
            self.gateway.links[0].send(data)
            self.gateway.holding = False
            self.reactor.run(3)
            self.assertEqual((fleet.sums.peerErrors, fleet.sums.lostLinks), (1, 1), data)
            self.assertTrue(self.successResultOf(done).complete)

    def test_sessionAfterClean(self) -> None:
        """
        A session present after CleanSession breaks MQTT.
        """
        fleet = self.fleet(BoxPlan(resend=Resend.NEW))
        fleet.start()
        self.reactor.pumps[0].server.send(encodeConnack(True, 0))
        self.reactor.pumps[0].clientIO.stream.clear()
        self.reactor.flush()
        self.assertEqual(fleet.sums.peerErrors, 1)

    def test_complaints(self) -> None:
        """
        However many boxes are struck, a person hears of it once in a while.
        """
        events: list[LogEvent] = []
        self.patch(Fleet, "log", Logger(observer=events.append))  # type: ignore[arg-type]
        self.reactor.refusing = True
        self.start(self.fleet(boxes=100))
        self.reactor.run(6)
        said = [formatEvent(event) for event in events]
        self.assertEqual(len(said), 2)
        self.assertIn("box-1: cannot connect: Connection was refused", said[0])
        self.assertIn("more before", said[1])


class StreamTests(FleetCase):
    """
    A stream that is known already: given by hand, or kept.
    """

    def setUp(self) -> None:
        """
        A folder to keep state in.
        """
        FleetCase.setUp(self)
        self.folder = self.mktemp()

    def test_given(self) -> None:
        """
        With a given stream numbering goes on behind the gateway's index, and the old index acks nothing.
        """
        for run in range(2):
            sums = self.successResultOf(self.start(self.fleet(tracks=5, stream=7)))
            self.assertEqual((sums.pubacked, sums.ackedByIndex), (5, 0))
            self.assertEqual(sorted(index for _, _, index in self.gateway.tracks), list(range(1, 5 * run + 6)))
        self.assertEqual({stream for _, stream, _ in self.gateway.tracks}, {7})

    def test_continued(self) -> None:
        """
        A second run goes on with the stream, the numbers and the drive of the first; its tracks are later ones.
        """
        for _ in range(2):
            fleet = self.fleet(
                BoxPlan(indexFromGateway=False), 2, 5, state=StateDirectory(self.folder), random=Random()
            )
            self.assertTrue(self.successResultOf(self.start(fleet)).complete)
            self.reactor.run(3)
        self.assertAllTaken(2, 10)
        for asset in ("box-1", "box-2"):
            tracks = [track for (owner, *_), track in self.gateway.tracks.items() if owner == asset]
            times = [track.recorded_at for track in tracks]
            metres = [track.field_values[-1].int_value for track in tracks]
            self.assertEqual(times, sorted(set(times)))
            self.assertEqual(metres, sorted(metres))
        saved = json.loads((Path(self.folder) / "box-1.json").read_text())
        self.assertEqual((saved["acked"], saved["next"], saved["unacked"]), (10, 11, []))

    def test_unackedKept(self) -> None:
        """
        What a run could not bring, the next one does, as it was; what the index covers it need not.
        """
        self.gateway.holding = True
        first = self.fleet(BoxPlan(inflight=4), tracks=10, state=StateDirectory(self.folder))
        done = self.start(first)
        taken = dict(self.gateway.tracks)
        first.stop()
        self.reactor.flush()
        self.assertEqual((self.successResultOf(done).acked, first.sums.tracks), (0, 10))
        self.gateway.holding = False
        second = self.fleet(tracks=5, state=StateDirectory(self.folder), random=Random(2))
        sums = self.successResultOf(self.start(second))
        self.assertEqual((sums.tracks, sums.acked, sums.droppedByIndex, sums.pubacked), (15, 15, 4, 11))
        self.assertAllTaken(1, 15)
        self.assertEqual({key: self.gateway.tracks[key] for key in taken}, taken)

    def test_killed(self) -> None:
        """
        After a run that was killed, and saved nothing since it began, no index names two tracks.
        """
        first = self.fleet(tracks=10, state=StateDirectory(self.folder))
        self.gateway.holding = True
        self.start(first)
        saved = (Path(self.folder) / "box-1.json").read_bytes()
        self.gateway.release()
        self.reactor.flush()
        taken = dict(self.gateway.tracks)
        (Path(self.folder) / "box-1.json").write_bytes(saved)
        sums = self.successResultOf(self.start(self.fleet(tracks=3, state=StateDirectory(self.folder))))
        self.assertEqual((sums.tracks, sums.droppedByIndex, sums.pubacked), (13, 10, 3))
        self.assertAllTaken(1, 13)
        self.assertEqual({key: self.gateway.tracks[key] for key in taken}, taken)

    def test_otherAccount(self) -> None:
        """
        The state of another account's boxes is not taken for one's own, nor that of another stream.
        """
        self.start(self.fleet(state=StateDirectory(self.folder)))
        with self.assertRaises(ConfigError):
            self.fleet(BoxPlan(account="other"), state=StateDirectory(self.folder))
        with self.assertRaises(ConfigError):
            self.fleet(stream=3, state=StateDirectory(self.folder))

    def test_cannotSave(self) -> None:
        """
        A state that cannot be written ends the run: it would not be kept.
        """
        fleet = self.fleet(state=StateDirectory(self.folder))
        Path(self.folder).rmdir()
        done = fleet.start()
        self.reactor.flush()
        self.failureResultOf(done, ConfigError)


class StopTests(FleetCase):
    """
    A run that is ended early.
    """

    def test_bug(self) -> None:
        """
        A box that fails by the clock ends the run, which would hang without it.
        """
        broken = self.fleet(boxes=2)
        broken.connectBox = None  # type: ignore[assignment, method-assign]
        self.failureResultOf(broken.start(), TypeError)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_stop(self) -> None:
        """
        The sums so far are given; links and attempts end, nothing goes on.
        """
        self.gateway.holding = True
        fleet = self.fleet(boxes=2, ramp=10.0)
        done = self.start(fleet)
        fleet.stop()
        self.reactor.flush()
        sums = self.successResultOf(done)
        self.assertEqual((sums.acked, sums.tracks, sums.lostLinks, sums.complete), (0, 20, 0, False))
        self.assertEqual(self.gateway.links, [])
        self.assertEqual({box.state for box in fleet.boxes}, {BoxState.stopped})
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        fleet.stop()
        self.reactor.run(20)
        self.assertEqual(self.reactor.attempts, 1)
