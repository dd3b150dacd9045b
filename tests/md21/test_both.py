"""
One box, both protocols: the same data gives equal events, and the box stays who it is when it changes over.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from binaryserver.md21 import values
from binaryserver.proto import cloudnext_pb2, md30_pb2
from tests.downlink.world import delivered, message, subscribe
from tests.harness import ASSET
from tests.md21.world import START, Md21World

# What names the link, the arrival and the track: that differs.
_OWN = ("id", "connection_id", "link_epoch", "protocol", "ingest_time", "stream", "index", "unindexed")


def bare(event: cloudnext_pb2.Event) -> cloudnext_pb2.Event:
    """
    An event without what is its link's own.
    """
    copy = cloudnext_pb2.Event()
    copy.CopyFrom(event)
    for name in _OWN:
        copy.ClearField(name)
    return copy


class BothTests(SynchronousTestCase):
    """
    MD21 and MD30 on one gateway.
    """

    def test_equalTracks(self) -> None:
        """
        Field by field, of every kind of value, with a position and without.
        """
        world = Md21World()
        fields = ((3, "A"), (8, 52), (14, True), (55, -7), (200, 1.5), (201, b"\x00\xff"))
        tracks = (
            values.Track(START, 4885660, 235220, fields),
            values.Track(START + 1000, None, None, fields[:2]),
            values.Track(START + 2000, 4885661, 235219, ()),
        )
        legacy = world.md21Box()
        legacy.send(values.TrackingData(values.WantAck.ALL_0, tracks))
        self.assertEqual(legacy.received(), [values.TrackingAck()])
        kinds = {str: "string_value", bool: "bool_value", int: "int_value", float: "double_value", bytes: "bytes_value"}
        batch = md30_pb2.TrackBatch(stream=5, first_index=0)
        for track in tracks:
            made = batch.tracks.add(recorded_at=track.recordedAt)
            if track.latitude is not None and track.longitude is not None:
                made.latitude, made.longitude = track.latitude * 100, track.longitude * 100
            for number, value in track.fields:
                made.field_numbers.append(number)
                made.field_values.add(**{kinds[type(value)]: value})
        new = world.box()
        new.publish("t", batch.SerializeToString(), 1)
        self.assertEqual(new.acks(), [1])
        events = world.bus.events("tracks")
        self.assertEqual(len(events), 6)
        for old, now in zip(events[:3], events[3:], strict=True):
            self.assertEqual(bare(old), bare(now))
            self.assertEqual((old.protocol, now.protocol), (cloudnext_pb2.PROTOCOL_MD21, cloudnext_pb2.PROTOCOL_MD30))
            self.assertEqual((old.unindexed, now.unindexed), (True, False))
        self.assertEqual(events[0].track.field_numbers, [3, 8, 14, 55, 200, 201])
        self.assertEqual(events[0].field_labels[1].name, "GPS_SPEED")

    def test_changesOver(self) -> None:
        """
        From MD21 to MD30 and back: one presence with growing epochs, one mailbox, and each takes the other over.
        """
        world = Md21World()
        legacy = world.md21Box()
        world.bring(message("m1"))
        (sent,) = legacy.received()
        assert isinstance(sent, values.Message)
        self.assertEqual(sent.payload, b"m1")
        # Not acked, and gone over to MD30 while its old link hangs.
        new = world.box()
        self.assertTrue(legacy.transport.isAborted)
        subscribe(new)
        (again,) = delivered(new)
        self.assertEqual((again.message.id, again.dup), ("m1", True))
        back = world.md21Box()
        self.assertTrue(new.transport.isAborted)
        (third,) = back.received()
        assert isinstance(third, values.Message)
        self.assertEqual(third.payload, b"m1")
        back.send(values.MessageAck(values.MessageStatus.ACK, third.temporaryId))
        self.assertEqual(world.statuses("m1"), ["queued", "sent", "sent", "sent", "acked"])
        presences = [event for event in world.bus.events("presences") if event.asset == ASSET]
        kinds = [cloudnext_pb2.PresenceType.Name(event.presence.type)[14:].lower() for event in presences]
        self.assertEqual(kinds, ["connect", "disconnect", "reconnect", "disconnect", "reconnect"])
        self.assertEqual([event.protocol for event in presences][::2], [2, 1, 2])
        epochs = [event.link_epoch for event in presences]
        self.assertEqual(epochs, sorted(epochs))
