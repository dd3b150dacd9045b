"""
Tests for L{binaryserver.transcode.cloudconnect} and L{binaryserver.transcode.cloudconnect_reading}.
"""

from __future__ import annotations

from typing import Any

import msgpack
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.errors import RejectedData
from binaryserver.model import BoxKey, Record
from binaryserver.proto import cloudnext_pb2, md30_pb2
from binaryserver.proto.cloudnext_pb2 import Event, FieldLabel
from binaryserver.proto.md30_pb2 import Track, Value
from binaryserver.transcode.cloudconnect import encodeEvent, rawValue
from binaryserver.transcode.cloudconnect_layout import RESERVED, Kind
from binaryserver.transcode.cloudconnect_reading import decodeEvent
from binaryserver.transcode.envelope import Envelope
from binaryserver.transcode.events import messageRecord, presenceRecord
from tests.transcode.test_tracks import NOW, makeEncoder, makeTrack

BOX = BoxKey("acme", "350000000000001")
ENVELOPE = Envelope(BOX, 1 << 63, 5_123_456_789, "host-0", cloudnext_pb2.PROTOCOL_MD30)

uint64 = st.integers(0, 2**64 - 1)
times = st.one_of(st.integers(1_262_304_000_000, 4_000_000_000_000), uint64)
texts = st.text(max_size=12)
values = st.one_of(
    st.builds(Value, int_value=st.integers(-(2**63), 2**63 - 1)),
    st.builds(Value, bool_value=st.booleans()),
    st.builds(Value, string_value=texts),
    st.builds(Value, double_value=st.floats()),
    st.builds(Value, bytes_value=st.binary(max_size=12)),
    st.just(Value()),
)
tracks = st.builds(
    Track,
    recorded_at=st.integers(-(2**63), 2**63 - 1),
    latitude=st.none() | st.integers(-900_000_000, 900_000_000),
    longitude=st.none() | st.integers(-1_800_000_000, 1_800_000_000),
    field_numbers=st.lists(st.integers(0, 2**32 - 1), max_size=6),
    field_values=st.lists(values, max_size=6),
)
messages = st.builds(
    cloudnext_pb2.Message,
    id=texts,
    channel=texts,
    payload=st.binary(max_size=40),
    ack_of=texts | uint64.map(str),
    ack_status=st.integers(0, 5),
)
presences = st.builds(
    cloudnext_pb2.Presence,
    type=st.integers(0, 7),
    reason=texts,
    reason_from_box=st.booleans(),
    peer_address=texts,
    detail=texts,
)
bodies: dict[Kind, Any] = {Kind.track: tracks, Kind.message: messages, Kind.presence: presences}
commons = st.fixed_dictionaries(
    {},
    optional={
        "id": uint64,
        "account": texts,
        "asset": texts,
        "connection_id": uint64,
        "link_epoch": uint64,
        "instance": texts,
        "protocol": st.integers(0, 4),
        "event_time": times,
        "ingest_time": times,
        "stream": uint64,
        "index": uint64,
        "unindexed": st.booleans(),
        "missing_before": uint64,
        "field_labels": st.lists(st.builds(FieldLabel, name=texts, type=st.integers(0, 7)), max_size=6),
    },
)
headers = st.lists(st.tuples(texts, st.binary(max_size=12)), max_size=4)


@st.composite
def anyRecord(draw: Any) -> tuple[Kind, Record]:
    """
    Any event that protobuf can have, with any key and headers, and perhaps with what this version does not know.
    """
    kind = draw(st.sampled_from(list(Kind)))
    event = Event(**draw(commons), **{kind.value: draw(bodies[kind])})
    value = event.SerializeToString() + draw(st.sampled_from([b"", b"\xfa\x3e\x01x", b"\x80\x06\x05"]))
    key = draw(st.binary(max_size=10) | st.just(f"{event.account}/{event.asset}".encode()))
    return kind, Record(key, value, draw(headers))


def trackRecords(*tracks: Track, stream: int = 7, firstIndex: int = 5, missing: int = 0) -> list[Record]:
    """
    As the gateway makes them.
    """
    made, refused, _ = makeEncoder().encode(
        tracks,
        [track.SerializeToString() for track in tracks],
        [track.recorded_at for track in tracks],
        stream,
        firstIndex,
        missing,
        NOW,
    )
    assert not refused
    return made


def message(**values: Any) -> md30_pb2.Message:
    """
    One of a box.
    """
    return md30_pb2.Message(id="m-1", channel="config", payload=b"\x00\xff", recorded_at=NOW - 5, **values)


def unpack(packed: bytes) -> Any:
    """
    As an agent reads it.
    """
    return msgpack.unpackb(packed)


class RoundTripTests(SynchronousTestCase):
    """
    What was made of a record gives that record, to the byte.
    """

    def roundTrip(self, kind: Kind, record: Record, isPlain: bool = True) -> Any:
        """
        There and back.

        @param isPlain: the record needs no copy of itself
        """
        packed = encodeEvent(kind, record)
        decoded = decodeEvent(packed)
        self.assertEqual(decoded.kind, kind)
        self.assertEqual(decoded.record.key, record.key)
        self.assertEqual(decoded.record.value, record.value)
        self.assertEqual(list(decoded.record.headers), list(record.headers))
        self.assertFalse(decoded.shared)
        document = unpack(packed)
        rest = document["meta"][RESERVED]
        self.assertEqual(isPlain, "event" not in rest and "headers" not in rest and "key" not in rest)
        return document

    @settings(max_examples=300, deadline=None)
    @given(anyRecord())
    def test_anyEvent(self, made: tuple[Kind, Record]) -> None:
        """
        Any event, key and headers, also those that the gateway would never publish.
        """
        kind, record = made
        decoded = decodeEvent(encodeEvent(kind, record))
        self.assertEqual(decoded.kind, kind)
        self.assertEqual((decoded.record.key, decoded.record.value), (record.key, record.value))
        self.assertEqual(list(decoded.record.headers), [tuple(header) for header in record.headers])

    @settings(max_examples=60, deadline=None)
    @given(st.lists(tracks, min_size=1, max_size=4), uint64, st.integers(0, 2**40), st.integers(0, 3))
    def test_gatewaysTracks(self, made: list[Track], stream: int, first: int, missing: int) -> None:
        """
        Whatever the gateway publishes of tracks is told without a second copy of the event.
        """
        for track in made:
            track.recorded_at = NOW - track.recorded_at % 1_000_000
            count = min(len(track.field_numbers), len(track.field_values))
            del track.field_numbers[count:], track.field_values[count:]
            if track.HasField("latitude") != track.HasField("longitude"):
                track.ClearField("latitude")
                track.ClearField("longitude")
        for record in trackRecords(*made, stream=stream, firstIndex=first, missing=missing):
            self.roundTrip(Kind.track, record)

    def test_unknownFieldOfTrack(self) -> None:
        """
        What a box of a later version sends in a track is kept.
        """
        track = Track.FromString(makeTrack().SerializeToString() + b"\xfa\x3e\x01x")
        self.roundTrip(Kind.track, trackRecords(track)[0])

    def test_otherWireForm(self) -> None:
        """
        A track in another wire form than ours (here: its fields in another order) is kept as the box sent it.
        """
        body = b"\x10\x02\x18\x04" + Track(recorded_at=NOW).SerializeToString()
        record = trackRecords(Track.FromString(body))[0]
        plain = Track.FromString(body).SerializeToString()
        self.assertNotEqual(body, plain)
        self.roundTrip(Kind.track, record._replace(value=record.value.replace(plain, body)), isPlain=False)

    def test_messages(self) -> None:
        """
        Messages with and without an index, and application acks.
        """
        for each in (
            message(),
            message(stream=9, index=2**64 - 1),
            message(ack_of="downlink/0/17", ack_status=md30_pb2.ACK_STATUS_OK),
        ):
            self.roundTrip(Kind.message, messageRecord(ENVELOPE, 77, each, 3, NOW))

    def test_presences(self) -> None:
        """
        Every type of presence.
        """
        number: Any
        for name, number in cloudnext_pb2.PresenceType.items():
            record = presenceRecord(ENVELOPE, 2**63, number, NOW, "192.0.2.1", "SOCKET_CLOSED", True, "why")
            document = self.roundTrip(Kind.presence, record)
            self.assertEqual(document["payload"]["type"], name.removeprefix("PRESENCE_TYPE_").lower())

    def test_shared(self) -> None:
        """
        That an event is CloudNext's, too, is told, and changes nothing else.
        """
        record = trackRecords(makeTrack())[0]
        decoded = decodeEvent(encodeEvent(Kind.track, record, shared=True))
        self.assertTrue(decoded.shared)
        self.assertEqual(decoded.record, record)


class ShapeTests(SynchronousTestCase):
    """
    The examples of C{docs/cloudconnect.md}.
    """

    def test_track(self) -> None:
        """
        A track: ids as numbers and texts, times in s and ms, position in degrees and in 1e-5 of them, fields by name.
        """
        track = Track(
            recorded_at=NOW - 1500,
            latitude=488_566_140,
            longitude=-23_522_190,
            field_numbers=[8, 14, 4711],
            field_values=[Value(int_value=12_000), Value(bool_value=True), Value(string_value="x")],
        )
        document = unpack(encodeEvent(Kind.track, trackRecords(track)[0]))
        event = Event.FromString(trackRecords(track)[0].value)
        rest = document["meta"].pop(RESERVED)
        self.assertEqual(document["meta"], {"account": "acme", "event": "track"})
        self.assertEqual(
            document["payload"],
            {
                "id": event.id,
                "id_str": str(event.id),
                "asset": "350000000000001",
                "connection_id": 77,
                "connection_id_str": "77",
                "index": 5,
                "index_str": "5",
                "recorded_at": (NOW - 1500) // 1000,
                "recorded_at_ms": NOW - 1500,
                "received_at": NOW // 1000,
                "received_at_ms": NOW,
                "loc": [-2.352219, 48.856614],
                "latitude": 4885661,
                "longitude": -235222,
                "fields": {"GPS_SPEED": b"\x00\x00\x2e\xe0", "DIO_IGNITION": b"\x01", "4711": b"x"},
            },
        )
        self.assertEqual(
            {name: value for name, value in rest.items() if name not in ("track", "labels")},
            {"link_epoch": 5123456789, "instance": "host-0", "protocol": 1, "stream": 7},
        )
        self.assertEqual(rest["track"], track.SerializeToString())

    def test_trackWithoutPosition(self) -> None:
        """
        No position: no C{loc}; no index: no C{index}, and its C{ce_id} is kept.
        """
        record = trackRecords(Track(recorded_at=NOW), stream=0, firstIndex=3)[0]
        document = unpack(encodeEvent(Kind.track, record))
        for name in ("loc", "latitude", "longitude", "index", "index_str"):
            self.assertNotIn(name, document["payload"])
        self.assertEqual(document["payload"]["fields"], {})
        self.assertEqual(document["meta"][RESERVED]["ce_id"], b"acme/350000000000001/link/77/3")
        self.assertIs(document["meta"][RESERVED]["unindexed"], True)

    def test_message(self) -> None:
        """
        A message, and one that answers another.
        """
        document = unpack(encodeEvent(Kind.message, messageRecord(ENVELOPE, 77, message(ack_of="12"), 0, NOW)))
        self.assertEqual(
            document,
            {
                "meta": {
                    "account": "acme",
                    "event": "message",
                    RESERVED: {
                        "link_epoch": 5_123_456_789,
                        "instance": "host-0",
                        "protocol": 1,
                        "unindexed": True,
                        "message_id": "m-1",
                        "ack_status": 0,
                    },
                },
                "payload": {
                    "id": 77,
                    "id_str": "77",
                    "asset": "350000000000001",
                    "connection_id": 2**63,
                    "connection_id_str": str(2**63),
                    "recorded_at": (NOW - 5) // 1000,
                    "recorded_at_ms": NOW - 5,
                    "received_at": NOW // 1000,
                    "received_at_ms": NOW,
                    "type": "ack",
                    "sender": "350000000000001",
                    "recipient": "@@server@@",
                    "channel": "config",
                    "payload": b"\x00\xff",
                    "parent_id": 12,
                    "parent_id_str": "12",
                },
            },
        )
        plain = unpack(encodeEvent(Kind.message, messageRecord(ENVELOPE, 77, message(), 0, NOW)))["payload"]
        self.assertEqual(plain["type"], "message")
        self.assertNotIn("parent_id_str", plain)

    def test_presence(self) -> None:
        """
        A presence.
        """
        record = presenceRecord(
            ENVELOPE, 77, cloudnext_pb2.PRESENCE_TYPE_DISCONNECT, NOW, "192.0.2.1", "PPP_LOST", True, "said goodbye"
        )
        self.assertEqual(
            unpack(encodeEvent(Kind.presence, record)),
            {
                "meta": {
                    "account": "acme",
                    "event": "presence",
                    RESERVED: {
                        "link_epoch": 5_123_456_789,
                        "instance": "host-0",
                        "protocol": 1,
                        "ingest_time": NOW,
                        "index": 0,
                        "reason_from_box": True,
                        "peer_address": "192.0.2.1",
                        "detail": "said goodbye",
                    },
                },
                "payload": {
                    "id": 77,
                    "id_str": "77",
                    "asset": "350000000000001",
                    "connection_id": 2**63,
                    "connection_id_str": str(2**63),
                    "time": NOW // 1000,
                    "time_ms": NOW,
                    "type": "disconnect",
                    "reason": "PPP_LOST",
                    "bs": "host-0",
                },
            },
        )

    def test_rawValues(self) -> None:
        """
        Values in the bytes that CloudConnect has them in.
        """
        for value, raw in (
            (Value(int_value=1), b"\x00\x00\x00\x01"),
            (Value(int_value=-1), b"\xff\xff\xff\xff"),
            (Value(int_value=2**31 - 1), b"\x7f\xff\xff\xff"),
            (Value(int_value=2**31), b"\x00\x00\x00\x00\x80\x00\x00\x00"),
            (Value(int_value=-(2**31) - 1), b"\xff\xff\xff\xff\x7f\xff\xff\xff"),
            (Value(bool_value=False), b"\x00"),
            (Value(string_value="é"), "é".encode()),
            (Value(double_value=1.0), b"\x3f\xf0\x00\x00\x00\x00\x00\x00"),
            (Value(bytes_value=b"\x00x"), b"\x00x"),
            (Value(), b""),
        ):
            self.assertEqual(rawValue(value), raw)


_HOSTILE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


class MalformedTests(SynchronousTestCase):
    """
    Nothing that stands in a list raises anything but L{RejectedData}.
    """

    def rejected(self, packed: bytes) -> None:
        """
        It is.
        """
        error = self.assertRaises(RejectedData, decodeEvent, packed)
        self.assertEqual(error.code, "DECODE")

    def documents(self) -> list[Any]:
        """
        A good one of each kind.
        """
        return [
            unpack(encodeEvent(Kind.track, trackRecords(makeTrack())[0])),
            unpack(encodeEvent(Kind.message, messageRecord(ENVELOPE, 1, message(ack_of="x"), 0, NOW))),
            unpack(
                encodeEvent(Kind.presence, presenceRecord(ENVELOPE, 1, cloudnext_pb2.PRESENCE_TYPE_CONNECT, NOW, "p"))
            ),
            unpack(encodeEvent(Kind.track, Record(b"k", Event(track=Track()).SerializeToString(), [("x", b"y")]))),
        ]

    @given(st.binary(max_size=60))
    def test_anyBytes(self, data: bytes) -> None:
        """
        Bytes of any kind.
        """
        self.rejected(data)

    def test_truncated(self) -> None:
        """
        A good one, cut anywhere, or with a byte too many.
        """
        for document in self.documents():
            packed = msgpack.packb(document)
            for length in range(0, len(packed), 3):
                self.rejected(packed[:length])
            self.rejected(packed + b"\x00")

    @settings(max_examples=300, deadline=None)
    @given(st.data())
    def test_anyValueInAnyPlace(self, data: st.DataObject) -> None:
        """
        One value of a good one replaced by any other, or missing: it is rejected, or still an event.
        """
        document = data.draw(st.sampled_from(self.documents()))
        places = [document, document["meta"], document["payload"], document["meta"][RESERVED]]
        place = data.draw(st.sampled_from(places))
        name = data.draw(st.sampled_from(sorted(place)))
        if data.draw(st.booleans()):
            place[name] = data.draw(_HOSTILE)
        else:
            del place[name]
        try:
            decoded = decodeEvent(msgpack.packb(document))
        except RejectedData:
            return
        self.assertEqual(Event.FromString(decoded.record.value).WhichOneof("body"), decoded.kind.value)

    def test_otherBox(self) -> None:
        """
        An event that is not of the account and asset that stand beside it.
        """
        record = trackRecords(makeTrack())[0]
        for place, name in (("meta", "account"), ("payload", "asset")):
            document = unpack(encodeEvent(Kind.track, record))
            document["meta"][RESERVED]["event"] = record.value
            document[place][name] = "another"
            self.rejected(msgpack.packb(document))

    def test_deep(self) -> None:
        """
        Lists in lists without end.
        """
        self.rejected(b"\x91" * 100_000)
        self.rejected(b"\x81\xa4meta" * 100_000)

    def test_notOurs(self) -> None:
        """
        An event that the gateway did not make says nothing of what CloudNext needs.
        """
        self.rejected(
            msgpack.packb({"meta": {"account": "acme", "event": "track"}, "payload": {"asset": "x", "id": 1}})
        )

    def test_encodeWhatIsNone(self) -> None:
        """
        What has no form in CloudConnect is refused.
        """
        status = Event(message_status=cloudnext_pb2.MessageStatus()).SerializeToString()
        for value in (b"\xff", b"", status, Event(track=Track()).SerializeToString()):
            self.assertRaises(RejectedData, encodeEvent, Kind.presence, Record(b"k", value))
