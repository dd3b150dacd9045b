"""
Tests for the way of tracks and messages through a whole gateway (G1, G2, G4, G7), without sockets.
"""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from binaryserver.errors import ConfigError
from binaryserver.gateway import Limits
from binaryserver.interfaces import IEventCodec
from binaryserver.md30.protocol import Md30
from binaryserver.md30.topics import TopicSpace
from binaryserver.proto.md30_pb2 import Message, TrackBatch
from binaryserver.transcode.codecs import ProtobufCodec
from tests.harness import ASSET, NOW_MS, Box, HandBus, World, batch, makeTrack, notice, publish


class AckTests(SynchronousTestCase):
    """
    G1: an ack means durable.
    """

    def test_ackedOnlyOnceDurable(self) -> None:
        """
        No PUBACK leaves before the bus's commit; then the event is there.
        """
        world = World()
        box = world.box()
        world.bus.isOpen = False
        box.tracks(1, 3, packetId=7)
        self.assertEqual(box.acks(), [])
        world.bus.commit()
        self.assertEqual(box.acks(), [7])
        events = world.bus.events("tracks")
        self.assertEqual(
            [(event.asset, event.stream, event.index) for event in events], [(ASSET, 9, n) for n in (1, 2, 3)]
        )
        self.assertEqual(events[0].track, makeTrack(1))
        self.assertEqual(events[0].account, "dev")

    def test_acksKeepTheOrderOfThePublishes(self) -> None:
        """
        Duplicates and empty batches, which need no bus, do not overtake.
        """
        world = World()
        box = world.box()
        box.tracks(1, packetId=1)
        self.assertEqual(box.acks(), [1])
        world.bus.isOpen = False
        box.send(
            publish("t", batch(2), 2) + publish("t", batch(1), 3) + publish("t", b"", 4) + publish("t", batch(3), 5)
        )
        self.assertEqual(box.acks(), [])
        world.bus.commit()
        self.assertEqual(box.acks(), [2, 3, 4, 5])

    def test_oneFlushATurn(self) -> None:
        """
        What one turn brought for a partition goes to the bus at once.
        """
        world = World()
        box = world.box()
        world.bus.isOpen = False
        box.send(b"".join(publish("t", batch(n), n) for n in range(1, 17)))
        self.assertEqual([len(records) for _, _, records, _ in world.bus.waiting], [16])

    def test_failedFlushDropsTheLinkUnacked(self) -> None:
        """
        What was durable before is acked, nothing after the failure is.
        """
        world = World()
        box = world.box()
        world.bus.isOpen = False
        box.tracks(1, packetId=1)
        box.tracks(2, packetId=2)
        world.bus.commit()
        self.assertEqual(box.acks(), [1])
        world.bus.fail()
        self.assertEqual(box.acks(), [])
        self.assertTrue(box.transport.disconnecting)

    def test_qos0IsNotAcked(self) -> None:
        """
        Taken, deduplicated, published; nothing is sent.
        """
        world = World()
        box = world.box()
        for _ in range(2):
            box.publish("t", batch(1), qos=0)
        self.assertEqual(box.acks(), [])
        self.assertEqual(len(world.bus.events("tracks")), 1)

    def test_qos2(self) -> None:
        """
        PUBREC after the commit; the PUBLISH again is not published again; PUBREL ends it with PUBCOMP.
        """
        world = World()
        box = world.box()
        world.bus.isOpen = False
        payload = Message(channel="log", payload=b"x").SerializeToString()
        box.publish("m", payload, 5, qos=2)
        self.assertEqual(box.received(), [])
        world.bus.commit()
        self.assertEqual(box.received(), [b"\x50\x02\x00\x05"])
        box.publish("m", payload, 5, qos=2, dup=True)
        self.assertEqual(box.received(), [b"\x50\x02\x00\x05"])
        box.send(b"\x62\x02\x00\x05")
        self.assertEqual(box.received(), [b"\x70\x02\x00\x05"])
        self.assertEqual(len(world.bus.events("messages")), 1)

    def test_qos2KeepsItsOrder(self) -> None:
        """
        PUBRECs leave in the order of the PUBLISHes [MQTT-4.6.0-3], also of a kept session.
        """
        for clean in (True, False):
            world = World()
            box = world.box(clean=clean)
            payload = Message(channel="log").SerializeToString()
            box.send(b"".join(publish("m", payload, packetId, qos=2) for packetId in range(1, 6)))
            self.assertEqual([packet[3] for packet in box.received()], [1, 2, 3, 4, 5])

    def test_qos2IsKnownAfterAReconnect(self) -> None:
        """
        A kept session knows which ids are committed and not released.
        """
        world = World()
        box = world.box(clean=False)
        payload = Message(channel="log", payload=b"x").SerializeToString()
        box.publish("m", payload, 5, qos=2)
        self.assertEqual(box.received(), [b"\x50\x02\x00\x05"])
        box.lose()
        again = world.box(clean=False)
        again.publish("m", payload, 5, qos=2, dup=True)
        self.assertEqual(again.received(), [b"\x50\x02\x00\x05"])
        again.send(b"\x62\x02\x00\x05")
        self.assertEqual(again.received(), [b"\x70\x02\x00\x05"])
        again.publish("m", payload, 5, qos=2)
        self.assertEqual(again.received(), [b"\x50\x02\x00\x05"])
        self.assertEqual(len(world.bus.events("messages")), 2)


class IndexTests(SynchronousTestCase):
    """
    G2 and G4, over links.
    """

    def test_duplicatesAreAckedAndNotPublished(self) -> None:
        """
        On the same link, on the next one, and after the box was forgotten here.
        """
        world = World()
        box = world.box()
        box.tracks(1, 5)
        for _ in range(2):
            box.tracks(1, 5, packetId=2)
        box.lose()
        self.assertEqual(world.gateway.registry.boxes, {})
        box = world.box()
        box.tracks(2, 4, packetId=3)
        self.assertEqual(box.acks(), [3])
        self.assertEqual([event.index for event in world.bus.events("tracks")], [1, 2, 3, 4, 5])

    def test_resendWhileTheFirstCopyIsInFlight(self) -> None:
        """
        The link was lost; the box sends again on a new one: acked when the first copy is durable, published once.
        """
        world = World()
        box = world.box()
        world.bus.isOpen = False
        box.tracks(1, 5)
        box.lose()
        again = world.box()
        again.tracks(1, 5, packetId=9)
        self.assertEqual(again.acks(), [])
        tracks = [place for place, one in enumerate(world.bus.waiting) if one[0].endswith("tracks")]
        self.assertEqual(len(tracks), 1)
        world.bus.commit(tracks[0])
        self.assertEqual(again.acks(), [9])

    def test_failedBatchFollowedByAGoodOne(self) -> None:
        """
        What silently loses data: the good one must not raise the mark over the failed one. The box sends both again.
        """
        world = World()
        box = world.box()
        world.bus.isOpen = False
        box.tracks(1, packetId=1)
        box.tracks(2, packetId=2)
        world.bus.fail()
        self.assertEqual(box.acks(), [])
        again = world.box()
        again.tracks(1, packetId=1)
        self.assertFalse(again.transport.isReading)
        # The second batch of the old link is told of now: durable, and all the same not counted.
        world.bus.commit(next(n for n, one in enumerate(world.bus.waiting) if one[0].endswith("tracks")))
        world.bus.isOpen = True
        while world.bus.waiting:
            world.bus.commit()
        world.turn()
        again.tracks(2, packetId=2)
        self.assertEqual(again.acks(), [1, 2])
        self.assertEqual([event.index for event in world.bus.events("tracks")], [2, 1, 2])
        again.tracks(1, 2, packetId=3)
        self.assertEqual(again.acks(), [3])
        self.assertEqual(len(world.bus.events("tracks")), 3)

    def test_holeIsMarked(self) -> None:
        """
        Indices that the box skipped are told by the event behind them.
        """
        world = World()
        box = world.box()
        box.tracks(1)
        box.tracks(5)
        self.assertEqual([event.missing_before for event in world.bus.events("tracks")], [0, 3])
        self.assertEqual(world.gateway.counters.holes, 1)

    def test_corruptIndexDoesNotSilenceTheBox(self) -> None:
        """
        A jump goes to rejects with its bytes, and the stream goes on where it was.
        """
        world = World()
        box = world.box()
        box.tracks(1)
        wild = batch(20_000_000)
        box.publish("t", wild, 2)
        box.tracks(2, packetId=3)
        self.assertEqual(box.acks(), [1, 2, 3])
        (reject,) = world.bus.rejects()
        self.assertEqual((reject.code, reject.payload, reject.source), ("INDEX_JUMP", wild, "md30:t"))
        self.assertEqual([event.index for event in world.bus.events("tracks")], [1, 2])

    def test_counterThatFellBackGoesToRejects(self) -> None:
        """
        Old indices with newer tracks are no duplicates.
        """
        world = World()
        box = world.box()
        box.tracks(1, 10)
        box.publish("t", batch(1, 2, ageMs=-60_000), 2)
        self.assertEqual(box.acks(), [1, 2])
        self.assertEqual([reject.code for reject in world.bus.rejects()], ["LATE_DUPLICATE"])

    def test_noticeOfTheIndex(self) -> None:
        """
        On subscribing and on asking: the committed mark of each stream, not what is in flight; nothing if nothing is.
        """
        world = World()
        box = world.box()
        box.subscribe("i")
        self.assertEqual(box.received(), [b"\x90\x03\x00\x64\x01"])
        box.tracks(1, 5)
        box.tracks(7, 2, packetId=2, stream=10)
        world.bus.isOpen = False
        box.tracks(6, 5, packetId=3)
        box.received()
        box.publish("i", b"", qos=0)
        self.assertEqual([notice(packet) for packet in box.received()], [("i", 10, 8), ("i", 9, 5)])
        box.subscribe(f"boxes/{ASSET}/index")
        self.assertEqual(
            [notice(packet)[0] for packet in box.received()[1:]], [f"boxes/{ASSET}/index", f"boxes/{ASSET}/index"]
        )

    def test_fourStreamsAreKept(self) -> None:
        """
        The four used last, over the box's absence too.
        """
        world = World()
        box = world.box()
        for stream in range(1, 7):
            box.tracks(1, packetId=stream, stream=stream)
        box.lose()
        box = world.box()
        box.subscribe("#")
        self.assertEqual([notice(packet)[1] for packet in box.received()[1:]], [3, 4, 5, 6])

    def test_unindexed(self) -> None:
        """
        A batch without a stream is published each time, marked.
        """
        world = World()
        box = world.box()
        box.tracks(0, stream=0)
        box.tracks(0, stream=0, packetId=2)
        self.assertEqual([event.unindexed for event in world.bus.events("tracks")], [True, True])
        self.assertEqual(
            len({dict(record.headers)["ce_id"] for topic, record in world.bus.committed if "tracks" in topic}), 2
        )

    def test_messagesHaveTheSameRules(self) -> None:
        """
        A numbered message again is acked and not published; one with a channel that is no name goes to rejects.
        """
        world = World()
        box = world.box()
        payload = Message(channel="log", payload=b"x", stream=4, index=1, recorded_at=NOW_MS).SerializeToString()
        for packetId in (1, 2):
            box.publish("m", payload, packetId)
        box.publish("m", Message(channel="no name").SerializeToString(), 3)
        self.assertEqual(box.acks(), [1, 2, 3])
        self.assertEqual(len(world.bus.events("messages")), 1)
        self.assertEqual([(reject.code, reject.source) for reject in world.bus.rejects()], [("BAD_CHANNEL", "md30:m")])


class FormTests(SynchronousTestCase):
    """
    What can be published where.
    """

    def test_longTopicAndJson(self) -> None:
        """
        The long names, and tracks in JSON, give the same events.
        """
        world = World()
        box = world.box()
        text = json.dumps(
            {"stream": "9", "firstIndex": 2, "tracks": [{"recorded_at": str(NOW_MS), "later": 1}]}
        ).encode()
        box.publish(f"boxes/{ASSET}/tracks", batch(1), 1)
        box.publish("tj", text, 2)
        box.publish(f"boxes/{ASSET}/tracks/json", text.replace(b"2,", b"3,", 1), 3)
        self.assertEqual(box.acks(), [1, 2, 3])
        self.assertEqual([event.index for event in world.bus.events("tracks")], [1, 2, 3])
        self.assertEqual(world.gateway.counters.unknownNames, 2)

    def test_whatCannotBeDecodedIsKeptAndAcked(self) -> None:
        """
        The box is not blocked by it.
        """
        world = World()
        box = world.box()
        box.publish("t", b"\xff\xff", 1)
        box.publish("tj", b"{", 2)
        box.tracks(1, packetId=3)
        self.assertEqual(box.acks(), [1, 2, 3])
        self.assertEqual(
            [(reject.source, reject.code, reject.payload) for reject in world.bus.rejects()],
            [("md30:t", "DECODE", b"\xff\xff"), ("md30:tj", "DECODE", b"{")],
        )

    def test_absurdTrackAmongGoodOnes(self) -> None:
        """
        The good ones are published, the batch's bytes are kept, and the ack waits for both.
        """
        world = World()
        box = world.box()
        world.bus.isOpen = False
        box.publish("t", batch(1, 2) + b"\x1a\x00", 1)
        self.assertEqual(len(world.bus.waiting), 2)
        world.bus.commit(1)
        self.assertEqual(box.acks(), [])
        world.bus.commit()
        self.assertEqual(box.acks(), [1])
        self.assertEqual([reject.code for reject in world.bus.rejects()], ["BAD_TIME"])
        self.assertEqual(len(world.bus.events("tracks")), 2)

    def test_tooManyTracks(self) -> None:
        """
        A batch of many tiny tracks would hold up everybody: it is kept as it is.
        """
        world = World()
        box = world.box()
        box.publish("t", b"\x08\x09" + b"\x1a\x00" * 5000, 1)
        self.assertEqual([reject.code for reject in world.bus.rejects()], ["TOO_MANY_TRACKS"])

    def test_foreignTopicClosesTheLink(self) -> None:
        """
        Another box's topic, a downlink topic, one that nobody knows: never acked.
        """
        for topic in ("boxes/other/tracks", "d", "x", f"boxes/{ASSET}/x", "boxes/other/index"):
            world = World()
            box = world.box()
            box.publish(topic, batch(1))
            self.assertEqual(box.acks(), [])
            self.assertTrue(box.transport.disconnecting, topic)
            self.assertEqual(world.bus.events("tracks"), [])


@implementer(IEventCodec)
class BrokenCodec:
    """
    A plugin's, that fails as it must not.
    """

    shortTopic, longTopic, threadedAbove = "x", "tracks/x", 100

    def decode(self, payload: bytes) -> tuple[TrackBatch, int]:
        """
        See L{IEventCodec.decode}.
        """
        raise ZeroDivisionError(payload.decode())


class CodecTests(SynchronousTestCase):
    """
    Codecs of plugins.
    """

    def test_broken(self) -> None:
        """
        One that fails in a way of its own rejects what it was given, at once or in a thread, and does not say it: the
        box is acked, and goes on.
        """
        world = World()
        world.gateway.codecs += (BrokenCodec(),)
        world.factory = Md30().buildFactory(world.gateway)
        box = world.box()
        for packetId, payload in ((1, b"48.8566"), (2, b"48.8566" * 100)):
            box.publish("x", payload, packetId)
        box.tracks(1, packetId=3)
        self.assertEqual(box.acks(), [1, 2, 3])
        rejects = world.bus.rejects()
        self.assertEqual([reject.code for reject in rejects], ["DECODE"] * 2)
        self.assertNotIn("48.8566", "".join(reject.reason for reject in rejects))

    def test_sameTopic(self) -> None:
        """
        A topic is one codec's, and not the gateway's own.
        """
        for short, long in (("t", "other"), ("other", "tracks"), ("i", "other"), ("other", "messages")):
            codec = BrokenCodec()
            codec.shortTopic, codec.longTopic = short, long
            error = self.assertRaises(ConfigError, TopicSpace, [ProtobufCodec(), codec])
            self.assertIn("BrokenCodec", str(error))


class WindowTests(SynchronousTestCase):
    """
    G7: memory is bounded by limits.
    """

    def test_linkIsPausedAtItsWindow(self) -> None:
        """
        By count; read again when half of it is acked; what was read before the pause keeps its order.
        """
        world = World(Limits(window=4))
        box = world.box()
        world.bus.isOpen = False
        box.send(b"".join(publish("t", batch(n), n) for n in range(1, 8)))
        self.assertFalse(box.transport.isReading)
        self.assertEqual(world.bus.waiting[0][2].__len__(), 4)
        world.bus.commit()
        world.turn()
        self.assertEqual(box.acks(), [1, 2, 3, 4])
        self.assertTrue(box.transport.isReading)
        world.bus.commit()
        self.assertEqual(box.acks(), [5, 6, 7])

    def test_linkIsPausedAtItsBytes(self) -> None:
        """
        Likewise by bytes.
        """
        world = World(Limits(windowBytes=2048))
        box = world.box()
        world.bus.isOpen = False
        for n in range(1, 30):
            if box.transport.isReading:
                box.tracks(n, packetId=n)
        self.assertFalse(box.transport.isReading)
        self.assertLess(world.gateway.uplink.pendingBytes, 4096)

    def test_globalWindowPausesEveryLink(self) -> None:
        """
        A full window stops reading from all, refuses new links, and opens for all again.
        """
        world = World(Limits(globalWindow=2048))
        one, other = world.box("one"), world.box("other")
        world.bus.isOpen = False
        one.tracks(1, 30)
        self.assertEqual((one.transport.isReading, other.transport.isReading), (False, False))
        late = Box(world, "late").connect()
        self.assertEqual(late.received(), [b"\x20\x02\x00\x03"])
        world.bus.isOpen = True
        while world.bus.waiting:
            world.bus.commit()
        self.assertEqual((one.transport.isReading, other.transport.isReading), (True, True))
        self.assertEqual(one.acks(), [1])

    def test_duplicatesCannotFillTheLine(self) -> None:
        """
        A head that waits and countless duplicates behind it: the link is paused.
        """
        world = World(Limits(window=8))
        box = world.box()
        box.tracks(1)
        world.bus.isOpen = False
        box.tracks(2, packetId=2)
        box.send(b"".join(publish("t", batch(1), 3) for _ in range(100)))
        self.assertFalse(box.transport.isReading)
        self.assertLessEqual(len(box.link.inFlight), 8)

    def test_deadline(self) -> None:
        """
        The bus is away for longer than the deadline: the link goes, unacked, with jitter; the data stays with the
        producer, and the resend joins it.
        """
        world = World(Limits(batchDeadline=60))
        box = world.box()
        world.bus.isOpen = False
        box.tracks(1)
        world.wait(59)
        self.assertFalse(box.transport.disconnecting)
        world.wait(9)
        self.assertTrue(box.transport.disconnecting)
        self.assertEqual(box.acks(), [])
        again = world.box()
        again.tracks(1, packetId=5)
        world.bus.commit(next(n for n, one in enumerate(world.bus.waiting) if one[0].endswith("tracks")))
        self.assertEqual(again.acks(), [5])

    def test_backWithinTheDeadline(self) -> None:
        """
        The bus comes back in time: acked, the link lives.
        """
        world = World(Limits(batchDeadline=60))
        box = world.box()
        world.bus.isOpen = False
        box.tracks(1)
        world.wait(55)
        world.bus.commit()
        self.assertEqual(box.acks(), [1])
        world.wait(60)
        self.assertFalse(box.transport.disconnecting)

    def test_pauseStopsTheTimers(self) -> None:
        """
        While it is not read, a link's keep-alive stands still.
        """
        world = World(Limits(window=1, batchDeadline=600))
        box = world.box(keepAlive=10)
        world.bus.isOpen = False
        box.tracks(1)
        world.wait(100)
        self.assertFalse(box.transport.isAborted)
        world.bus.commit()
        world.turn()
        world.wait(14)
        self.assertFalse(box.transport.isAborted)
        world.wait(3)
        self.assertTrue(box.transport.isAborted)

    def test_largeJsonIsDecodedInAThread(self) -> None:
        """
        Meanwhile the link is not read, and what it sent behind keeps its place.
        """
        world = World()
        box = world.box()
        tracks = [{"recorded_at": NOW_MS, "latitude": 1, "longitude": 2}] * 1000
        text = json.dumps({"stream": "9", "first_index": "1", "tracks": tracks}).encode()
        self.assertGreater(len(text), 16_384)
        box.send(publish("tj", text, 1) + publish("t", batch(1001), 2))
        world.turn()
        self.assertEqual(box.acks(), [1, 2])
        self.assertEqual(len(world.bus.events("tracks")), 1001)


class StoreTests(SynchronousTestCase):
    """
    Restart of the gateway on what the store kept.
    """

    def test_crashBetweenCommitAndMark(self) -> None:
        """
        Without the mark the resend is published again, with the same key: what DESIGN allows, and no more.
        """
        bus = HandBus()
        world = World(bus=bus)
        box = world.box()
        box.tracks(1, 3)
        self.assertEqual(box.acks(), [1])
        fresh = World(bus=bus)
        again = fresh.box()
        again.tracks(1, 3)
        self.assertEqual(again.acks(), [1])
        ids = [dict(record.headers)["ce_id"] for topic, record in bus.committed if topic.endswith("tracks")]
        self.assertEqual((len(ids), len(set(ids))), (6, 3))

    def test_restartWithTheMark(self) -> None:
        """
        A new process on the same store knows what is durable.
        """
        bus = HandBus()
        world = World(bus=bus)
        box = world.box()
        box.tracks(1, 3)
        fresh = World(bus=bus, store=world.store, incarnation="test@2")
        again = fresh.box()
        again.tracks(1, 4)
        self.assertEqual(again.acks(), [1])
        self.assertEqual([event.index for event in bus.events("tracks")], [1, 2, 3, 4])

    def test_resendOfPartsKeepsOrder(self) -> None:
        """
        However a box cuts its resend, each index stands once and in order.
        """
        world = World()
        box = world.box()
        for packetId, (first, count) in enumerate(((1, 4), (3, 4), (1, 2), (5, 6), (2, 9), (11, 1)), 1):
            box.tracks(first, count, packetId=packetId)
        self.assertEqual(box.acks(), [1, 2, 3, 4, 5, 6])
        self.assertEqual([event.index for event in world.bus.events("tracks")], list(range(1, 12)))
