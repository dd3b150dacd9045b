"""
Tests for blocks of tracks without an index: L{binaryserver.session.blocks}.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.bus.topics import Topics
from binaryserver.gateway import Limits
from binaryserver.ids import trackId
from binaryserver.proto import cloudnext_pb2
from binaryserver.proto.md30_pb2 import Track
from binaryserver.session.fingerprints import fingerprint
from binaryserver.session.line import Pause
from binaryserver.transcode.tracks import MAX_TRACKS
from tests.harness import ASSET, HandBus, World, makeTrack
from tests.md30.test_takeover import Colleagues
from tests.session.blocklink import BOX, BlockLink, HandStore, names, published


class BlockTests(SynchronousTestCase):
    """
    L{BlockLink.takeBlock} on one link.
    """

    def setUp(self) -> None:
        """
        A gateway whose bus is held, and a link.
        """
        self.store = HandStore()
        self.world = World(store=self.store)
        self.bus = self.world.bus
        self.link = BlockLink(self.world)
        self.bus.isOpen = False

    def commit(self) -> None:
        """
        Let all that waits commit.
        """
        while self.bus.waiting:
            self.bus.commit()
        self.world.turn()

    def test_event(self) -> None:
        """
        The event of a track is that of MD30 without an index; what names it is its fingerprint.
        """
        self.link.send(1, 7)
        self.assertEqual(self.link.acks(), [])
        self.commit()
        self.assertEqual(self.link.acks(), [1])
        track = makeTrack(7)
        number = fingerprint(track.SerializeToString())
        (event,) = self.bus.events("tracks")
        self.assertEqual(event.track, track)
        self.assertEqual((event.stream, event.index, event.unindexed), (0, 0, True))
        self.assertEqual(event.protocol, cloudnext_pb2.PROTOCOL_MD21)
        self.assertEqual(event.id, trackId(track.recorded_at, 0, number))
        self.assertEqual(names(self.bus), [b"dev/%b/md21/%016x" % (ASSET.encode(), number)])

    def test_resent(self) -> None:
        """
        What is committed is acked and not published, in whatever blocks it comes again; what is new among it is, in its
        order.
        """
        self.bus.isOpen = True
        self.link.send(1, 1, 2, 3, 4)
        self.link.send(2, 1, 2, 3, 4)
        self.link.send(3, 4)
        self.link.send(4, 3, 6, 4, 5)
        self.assertEqual(self.link.acks(), [1, 2, 3, 4])
        self.assertEqual(published(self.bus), [1, 2, 3, 4, 6, 5])
        self.assertEqual(self.world.gateway.counters.duplicates, 7)
        self.assertEqual(self.world.gateway.counters.tracks, 6)

    def test_resentWhileInFlight(self) -> None:
        """
        The ack of a resend waits for the first copy, and for what is new in it.
        """
        self.link.send(1, 1, 2)
        self.link.send(2, 1, 2)
        self.link.send(3, 2, 3)
        self.assertEqual(len(self.bus.waiting), 2)
        self.bus.commit(1)
        self.assertEqual(self.link.acks(), [])
        self.bus.commit()
        self.assertEqual(self.link.acks(), [1, 2, 3])
        self.assertEqual(sorted(published(self.bus)), [1, 2, 3])

    def test_firstCopyFails(self) -> None:
        """
        Who waited for it fails with it: nothing is acked, the link goes; the next link publishes what is missing, and
        only that.
        """
        self.link.send(1, 1, 2)
        self.link.send(2, 2, 3)
        self.bus.fail()
        self.assertEqual(self.link.acks(), [])
        self.assertIsNotNone(self.link.ending)
        self.commit()
        self.assertEqual(published(self.bus), [3])
        self.bus.isOpen = True
        link = BlockLink(self.world)
        link.send(1, 1, 2, 3)
        self.assertEqual(link.acks(), [1])
        self.assertEqual(published(self.bus), [3, 1, 2])

    def test_acksKeepTheirOrder(self) -> None:
        """
        A block that needs nothing is acked behind those before it.
        """
        self.link.send(1, 1)
        self.commit()
        self.link.send(2, 2)
        self.link.send(3, 1)
        self.link.send(4)
        self.assertEqual(self.link.acks(), [1])
        self.commit()
        self.assertEqual(self.link.acks(), [2, 3, 4])

    def test_twiceInOneBlock(self) -> None:
        """
        It is published once.
        """
        self.link.send(1, 1, 2, 1)
        self.commit()
        self.assertEqual(self.link.acks(), [1])
        self.assertEqual(published(self.bus), [1, 2])

    def test_refused(self) -> None:
        """
        A track that cannot be true goes to C{rejects} with its block, once; it is told at which position it stood. The
        others are published.
        """
        self.link.send(1, 1)
        self.link.send(2, 1, 2, tracks=[Track(recorded_at=5)])
        self.commit()
        self.assertEqual(self.link.acks(), [1, 2])
        self.assertEqual(published(self.bus), [1, 2])
        (reject,) = self.bus.rejects()
        self.assertEqual((reject.code, reject.source, reject.payload), ("BAD_TIME", "md21:tracks", b"block 2"))
        self.assertIn("1 of 3 tracks refused; the first, at position 2: ", reject.reason)
        self.link.send(3, tracks=[Track(recorded_at=5)])
        self.assertEqual(self.link.acks(), [3])
        self.assertEqual(len(self.bus.rejects()), 1)

    def test_tooManyTracks(self) -> None:
        """
        They would keep all other links waiting.
        """
        self.link.send(1, *range(MAX_TRACKS + 1))
        self.commit()
        self.assertEqual(self.link.acks(), [1])
        self.assertEqual([reject.code for reject in self.bus.rejects()], ["TOO_MANY_TRACKS"])
        self.assertEqual(published(self.bus), [])

    def test_window(self) -> None:
        """
        So many tracks are known as the option says, and no more are kept.
        """
        world = World(Limits(md21Window=3), HandStore())
        link = BlockLink(world)
        link.send(1, 1, 2, 3, 4)
        link.send(2, 2, 3, 4)
        self.assertEqual(published(world.bus), [1, 2, 3, 4])
        link.send(3, 1)
        self.assertEqual(published(world.bus), [1, 2, 3, 4, 1])
        self.assertEqual(len(self.successResultOf(world.store.fingerprints(BOX))), 24)

    def test_paused(self) -> None:
        """
        Blocks that wait count in the link's window (G7).
        """
        world = World(Limits(window=2))
        link = BlockLink(world)
        world.bus.isOpen = False
        for number in range(4):
            link.send(number, number)
        self.assertEqual(len(link.inFlight), 2)
        self.assertTrue(link.pauses & Pause.window)
        world.bus.isOpen = True
        while world.bus.waiting:
            world.bus.commit()
            world.turn()
        self.assertEqual(link.acks(), [0, 1, 2, 3])


class LossTests(SynchronousTestCase):
    """
    A box that loses acks.
    """

    def test_everySecondAck(self) -> None:
        """
        It sends everything again that it has no ack for, cut anew and with new ones, and no track comes twice.
        """
        world = World(store=HandStore())
        unacked: list[int] = []
        link = BlockLink(world)
        for turn in range(60):
            unacked += range(turn * 5, turn * 5 + 5)
            cut = 1 + turn * 7 % 20
            sent = {turn * 1000 + at: unacked[at : at + cut] for at in range(0, len(unacked), cut)}
            for ackId, indices in sent.items():
                link.send(ackId, *indices)
            for place, ackId in enumerate(link.acks()):
                if place % 2:
                    unacked = [index for index in unacked if index not in sent[ackId]]
            if turn % 11 == 0:
                link.lose()
                link = BlockLink(world)
        self.assertEqual(published(world.bus), list(range(300)))

    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_anything(self, data: st.DataObject) -> None:
        """
        Whatever is resent in whatever cut over whichever of two instances, with a bus that holds or fails what it is
        given: what is acked is on the bus, all comes there in the end, and without a failure it comes once.
        """
        store = HandStore()
        peers = Colleagues()
        worlds = []
        for name in ("a@1", "b@1"):
            worlds.append(World(Limits(batchDeadline=60), store, HandBus(), peers, name))
            peers.worlds[name] = worlds[-1]
        buses = [world.bus for world in worlds]
        everFailed = False
        link = BlockLink(worlds[0])
        sent: dict[int, list[int]] = {}

        def heard() -> None:
            for ackId in link.acks():
                self.assertTrue(set(sent[ackId]) <= set(published(*buses)))

        for step in range(data.draw(st.integers(1, 25))):
            action = data.draw(st.sampled_from(["send"] * 4 + ["move", "hold", "commit", "commit", "fail", "wait"]))
            if action == "send" and link.ending is None:
                sent[step] = data.draw(st.lists(st.integers(0, 9), max_size=5))
                link.send(step, *sent[step])
            elif action == "move" or link.ending is not None:
                heard()
                link = BlockLink(worlds[data.draw(st.integers(0, 1))])
            elif action == "hold":
                buses[data.draw(st.integers(0, 1))].isOpen = False
            elif action in ("commit", "fail"):
                bus = buses[data.draw(st.integers(0, 1))]
                if bus.waiting:
                    if action == "fail" and bus.waiting[0][0] == Topics.named().tracks:
                        everFailed = True
                        bus.fail(isThere=data.draw(st.booleans()))
                    else:
                        bus.commit()
            elif action == "wait":
                store.isAway = not store.isAway
            for world in worlds:
                world.wait(1.1 if action == "wait" else 0.1)
            heard()
        store.isAway = False
        for bus in buses:
            bus.isOpen = True
        for _ in range(3):
            for bus, world in zip(buses, worlds, strict=True):
                while bus.waiting:
                    bus.commit()
                world.wait(1.1)
        heard()
        link = BlockLink(worlds[data.draw(st.integers(0, 1))])
        sent[1000] = list(range(10))
        link.send(1000, *range(10))
        for world in worlds:
            world.wait(1.1)
        self.assertEqual(link.acks(), [1000])
        self.assertEqual(set(published(*buses)), set(range(10)))
        if not everFailed:
            self.assertEqual(len(published(*buses)), 10)
        self.assertEqual(len(set(names(*buses))), 10)
        link.lose()
        for world in worlds:
            self.assertEqual(world.gateway.registry.boxes, {})
