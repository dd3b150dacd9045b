"""
Tests for L{binaryserver.transcode.tracks}, L{labels<binaryserver.transcode.labels>} and
L{envelope<binaryserver.transcode.envelope>}: every event is read back with the generated classes.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.ids import IdSource, streamSalt, trackId
from binaryserver.model import EPOCH_2010_MS, BoxKey
from binaryserver.proto import cloudnext_pb2
from binaryserver.proto.md30_pb2 import Track, Value
from binaryserver.transcode.envelope import Envelope, cloudTime
from binaryserver.transcode.labels import FieldLabels
from binaryserver.transcode.tracks import MAX_FUTURE_MS, RefusedTrack, TrackEncoder
from binaryserver.transcode.wire import varint

NOW = 1_790_000_000_000
BOX = BoxKey("acme", "350000000000001")


class Dictionary:
    """
    Two known fields; counts how often it is asked.
    """

    def __init__(self) -> None:
        self.asked = 0

    def fieldName(self, account: str, number: int) -> tuple[str, str] | None:
        """
        See L{FieldDictionary<binaryserver.transcode.labels.FieldDictionary>}.
        """
        self.asked += 1
        return {8: ("GPS_SPEED", "int"), 14: ("DIO_IGNITION", "bool")}.get(number)


def makeEncoder(maxRecord: int = 1_000_000, directory: Dictionary | None = None) -> TrackEncoder:
    """
    An encoder of L{BOX}.
    """
    envelope = Envelope(BOX, 77, 5123456789, "host-0", cloudnext_pb2.PROTOCOL_MD30)
    return TrackEncoder(envelope, FieldLabels(directory or Dictionary(), BOX.account), maxRecord)


def makeTrack(recordedAt: int = NOW - 1000) -> Track:
    """
    A track with a position and three fields, the last of them unknown.
    """
    return Track(
        recorded_at=recordedAt,
        latitude=488_566_000,
        longitude=-23_522_000,
        field_numbers=[8, 14, 4999],
        field_values=[Value(int_value=12_000), Value(bool_value=True), Value(string_value="x")],
    )


class EncodeTests(SynchronousTestCase):
    """
    L{TrackEncoder.encode}.
    """

    def encode(self, *tracks: Track, **options: Any) -> tuple[list[cloudnext_pb2.Event], list[RefusedTrack]]:
        """
        Encode a batch of stream 9 that begins at index 100.
        """
        arguments = {"stream": 9, "firstIndex": 100, "missingBefore": 0, "nowMs": NOW, **options}
        maxRecord = arguments.pop("maxRecord", 1_000_000)
        records, refused, size = makeEncoder(maxRecord).encode(
            tracks,
            [track.SerializeToString() for track in tracks],
            [track.recorded_at for track in tracks],
            **arguments,
        )
        self.assertEqual(size, sum(len(record.value) for record in records))
        return [cloudnext_pb2.Event.FromString(record.value) for record in records], refused

    def test_everyFieldOfTheEvent(self) -> None:
        """
        The event says where the track comes from, names it, carries it, and labels its fields in their order.
        """
        track = makeTrack()
        (event,), refused = self.encode(track)
        self.assertEqual(refused, [])
        self.assertEqual(
            event,
            cloudnext_pb2.Event(
                id=trackId(track.recorded_at, streamSalt(9), 100),
                account="acme",
                asset="350000000000001",
                connection_id=77,
                link_epoch=5123456789,
                instance="host-0",
                protocol=cloudnext_pb2.PROTOCOL_MD30,
                event_time=track.recorded_at,
                ingest_time=NOW,
                stream=9,
                index=100,
                track=track,
                field_labels=[
                    cloudnext_pb2.FieldLabel(name="GPS_SPEED", type=cloudnext_pb2.FIELD_TYPE_INT),
                    cloudnext_pb2.FieldLabel(name="DIO_IGNITION", type=cloudnext_pb2.FIELD_TYPE_BOOL),
                    cloudnext_pb2.FieldLabel(),
                ],
            ),
        )

    def test_namedByFingerprints(self) -> None:
        """
        Without an index, the fingerprint names the track, on whichever link it comes; positions are those in the batch.
        """
        tracks = [makeTrack(), Track(recorded_at=5), makeTrack(NOW - 2000)]
        records, refused, _ = makeEncoder().encode(
            tracks,
            [track.SerializeToString() for track in tracks],
            [track.recorded_at for track in tracks],
            0,
            0,
            0,
            NOW,
            fingerprints=[0xFEDCBA9876543210, 1, 2],
        )
        names = [dict(record.headers)["ce_id"] for record in records]
        self.assertEqual(
            names,
            [b"acme/350000000000001/md21/fedcba9876543210", b"acme/350000000000001/md21/0000000000000002"],
        )
        events = [cloudnext_pb2.Event.FromString(record.value) for record in records]
        self.assertEqual(
            [(event.id, event.stream, event.index, event.unindexed) for event in events],
            [
                (trackId(NOW - 1000, 0, 0xFEDCBA9876543210), 0, 0, True),
                (trackId(NOW - 2000, 0, 2), 0, 0, True),
            ],
        )
        self.assertEqual([(one.position, one.code) for one in refused], [(1, "BAD_TIME")])

    def test_keyAndHeaders(self) -> None:
        """
        The record is keyed by the box, and its headers are CloudEvents' in binary mode.
        """
        track = makeTrack(1_790_000_000_007)
        (record,), _, _ = makeEncoder().encode(
            [track], [track.SerializeToString()], [1_790_000_000_007], 9, 100, 0, NOW
        )
        self.assertEqual(record.key, b"acme/350000000000001")
        self.assertEqual(
            dict(record.headers),
            {
                "ce_type": b"cloudnext.v1.Track",
                "ce_source": b"/binaryserver/host-0",
                "content-type": b"application/protobuf",
                "ce_id": b"acme/350000000000001/9/100",
                "ce_time": b"2026-09-21T14:13:20.007Z",
            },
        )

    def test_indicesAreConsecutiveAndDuplicatesSkipped(self) -> None:
        """
        A partly duplicate batch gives the events of its tail, with their own indices.
        """
        events, _ = self.encode(*(makeTrack(NOW - 5000 + n) for n in range(4)), skip=2)
        self.assertEqual([(event.index, event.event_time) for event in events], [(102, NOW - 4998), (103, NOW - 4997)])

    def test_holeIsMarkedOnce(self) -> None:
        """
        Only the first event behind the hole says how many indices are missing.
        """
        events, _ = self.encode(makeTrack(), makeTrack(), missingBefore=300)
        self.assertEqual([event.missing_before for event in events], [300, 0])

    def test_unindexed(self) -> None:
        """
        Without a stream the event is marked, and named by its link and its place on it.
        """
        body = makeTrack().SerializeToString()
        records, _, _ = makeEncoder().encode([makeTrack(), makeTrack()], [body, body], [NOW, NOW], 0, 5, 0, NOW)
        events = [cloudnext_pb2.Event.FromString(record.value) for record in records]
        self.assertEqual([(event.stream, event.index, event.unindexed) for event in events], [(0, 0, True)] * 2)
        self.assertEqual(len({event.id for event in events}), 2)
        self.assertEqual(
            [dict(record.headers)["ce_id"] for record in records],
            [b"acme/350000000000001/link/77/5", b"acme/350000000000001/link/77/6"],
        )

    def test_absurdTracksAreToldApart(self) -> None:
        """
        A batch loses only the tracks that cannot be true; the others keep their indices.
        """
        early, future = makeTrack(EPOCH_2010_MS - 1), makeTrack(NOW + MAX_FUTURE_MS + 1)
        north, half, lonely = makeTrack(), makeTrack(), makeTrack()
        north.latitude = 900_000_001
        half.ClearField("longitude")
        lonely.field_numbers.append(3)
        events, refused = self.encode(early, makeTrack(), future, north, half, lonely, makeTrack())
        self.assertEqual([event.index for event in events], [101, 106])
        self.assertEqual(
            [(one.position, one.code) for one in refused],
            [(0, "BAD_TIME"), (2, "BAD_TIME"), (3, "BAD_POSITION"), (4, "BAD_POSITION"), (5, "BAD_FIELDS")],
        )

    def test_positionIsOptional(self) -> None:
        """
        No position at all, and the point where both are 0, are both fine.
        """
        nowhere, origin = makeTrack(), makeTrack()
        nowhere.ClearField("latitude")
        nowhere.ClearField("longitude")
        origin.latitude = origin.longitude = 0
        events, refused = self.encode(nowhere, origin)
        self.assertEqual(refused, [])
        self.assertEqual([event.track.HasField("latitude") for event in events], [False, True])

    def test_tooLargeForARecord(self) -> None:
        """
        What the bus could never take is refused before it holds up others.
        """
        large = makeTrack()
        large.field_values[2].string_value = "x" * 2000
        events, refused = self.encode(makeTrack(), large, maxRecord=2048)
        self.assertEqual(len(events), 1)
        self.assertEqual([(one.position, one.code) for one in refused], [(1, "RECORD_TOO_LARGE")])

    def test_unknownFieldsAreKept(self) -> None:
        """
        What a newer box says beside what we know reaches the cloud, and cannot pass for anything of the envelope.
        """
        raw = makeTrack().SerializeToString() + b"\xa2\x01\x03abc"
        (event,), _ = self.encode(Track.FromString(raw))
        self.assertIn(b"\xa2\x01\x03abc", event.track.SerializeToString())
        self.assertEqual(len(event.field_labels), 3)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 2**64 - 1), st.integers(0, 2**63), st.lists(st.integers(0, 10**9), min_size=1, max_size=30))
    def test_anyIndexAndTimes(self, stream: int, first: int, ages: list[int]) -> None:
        """
        Marks and times come through whatever they are.
        """
        tracks = [makeTrack(NOW - age) for age in ages]
        events, refused = self.encode(*tracks, stream=stream, firstIndex=first)
        self.assertEqual(refused, [])
        self.assertEqual([event.index for event in events], list(range(first, first + len(ages))))
        self.assertEqual([event.event_time for event in events], [NOW - age for age in ages])
        self.assertEqual({event.stream for event in events}, {stream})


class LabelsTests(SynchronousTestCase):
    """
    L{FieldLabels}.
    """

    def test_madeOnceForASet(self) -> None:
        """
        The dictionary is asked once for each set of fields, in one order.
        """
        directory = Dictionary()
        labels = FieldLabels(directory, "acme")
        first = labels.make((8, 14))
        self.assertEqual(directory.asked, 2)
        self.assertIs(labels.get((8, 14)), first)
        self.assertIsNone(labels.get((14, 8)))

    def test_hostileSetsDoNotGrowTheCache(self) -> None:
        """
        Sets that no box would send twice are forgotten.
        """
        labels = FieldLabels(Dictionary(), "acme")
        for number in range(10_000):
            labels.make((number,))
        labels.make(tuple(range(1000)))
        self.assertIsNone(labels.get(tuple(range(1000))))
        self.assertLess(sum(labels.get((number,)) is not None for number in range(10_000)), 4097)


class IdTests(SynchronousTestCase):
    """
    L{binaryserver.ids}.
    """

    def test_idsGrowAndCarryTheWorker(self) -> None:
        """
        Even within one ms, past the counter's end, and when the clock goes back.
        """
        times = iter([NOW] * 600 + [NOW - 5000] * 10)
        ids = IdSource(16_383, lambda: next(times))
        given_ = [ids.next() for _ in range(610)]
        self.assertEqual(given_, sorted(set(given_)))
        self.assertEqual({one & 0x3FFF for one in given_}, {16_383})
        self.assertEqual(given_[0] >> 22, NOW - EPOCH_2010_MS)

    def test_trackIdIsTheTracks(self) -> None:
        """
        The same track has the same id; its time can be read back.
        """
        one = trackId(NOW, streamSalt(9), 100)
        self.assertEqual(one, trackId(NOW, streamSalt(9), 100))
        self.assertEqual(one >> 22, NOW - EPOCH_2010_MS)
        self.assertEqual(len({trackId(NOW, streamSalt(9), index) for index in range(1000)}), 1000)
        self.assertNotEqual(one, trackId(NOW, streamSalt(10), 100))


class CloudTimeTests(SynchronousTestCase):
    """
    L{cloudTime}.
    """

    def test_beforeAndAfter(self) -> None:
        """
        RFC 3339 in UTC, with ms.
        """
        self.assertEqual(cloudTime(EPOCH_2010_MS), b"2010-01-01T00:00:00.000Z")
        self.assertEqual(cloudTime(EPOCH_2010_MS + 1_999), b"2010-01-01T00:00:01.999Z")


class VarintTests(SynchronousTestCase):
    """
    L{varint}.
    """

    @given(st.integers(0, 2**64 - 1))
    def test_asProtobufReadsIt(self, value: int) -> None:
        """
        Protobuf's own parser reads the value back.
        """
        event = cloudnext_pb2.Event.FromString(b"\x68" + varint(value))
        self.assertEqual(event.missing_before, value)
