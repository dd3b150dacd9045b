"""
Events as the gateway publishes them, for the tests of the Shovel.
"""

from __future__ import annotations

from binaryserver.model import BoxKey, Record
from binaryserver.proto import cloudnext_pb2, md30_pb2
from binaryserver.proto.md30_pb2 import Track, Value
from binaryserver.transcode.cloudconnect_layout import Kind
from binaryserver.transcode.envelope import Envelope
from binaryserver.transcode.events import messageRecord, presenceRecord
from binaryserver.transcode.labels import FieldLabels
from binaryserver.transcode.tracks import TrackEncoder
from tests.transcode.test_tracks import Dictionary

NOW = 1_790_000_000_000


def envelope(asset: str = "box-1", account: str = "acme") -> Envelope:
    """
    Of a link of a box.
    """
    return Envelope(BoxKey(account, asset), 77, 5_123_456_789, "host-0", cloudnext_pb2.PROTOCOL_MD30)


def trackRecords(first: int, count: int, asset: str = "box-1", account: str = "acme", size: int = 0) -> list[Record]:
    """
    Tracks of one box, with the indices from C{first} on.

    @param size: bytes of a field of each
    """
    encoder = TrackEncoder(envelope(asset, account), FieldLabels(Dictionary(), account), 100_000_000)
    tracks = [
        Track(
            recorded_at=NOW - 100_000 + index,
            latitude=488_566_140,
            longitude=-23_522_190 + index,
            field_numbers=[8, 14, 4711],
            field_values=[Value(int_value=index), Value(bool_value=True), Value(bytes_value=bytes(size))],
        )
        for index in range(first, first + count)
    ]
    bodies, times = [track.SerializeToString() for track in tracks], [track.recorded_at for track in tracks]
    return encoder.encode(tracks, bodies, times, 7, first, 0, NOW)[0]


def messageOf(index: int, asset: str = "box-1", account: str = "acme") -> Record:
    """
    A message of a box.
    """
    message = md30_pb2.Message(
        id=f"m-{index}", channel="c", payload=b"\x00\xff", recorded_at=NOW, stream=3, index=index
    )
    return messageRecord(envelope(asset, account), 1000 + index, message, 0, NOW)


def presenceOf(number: int, asset: str = "box-1", account: str = "acme") -> Record:
    """
    A presence of a box.
    """
    kind = cloudnext_pb2.PRESENCE_TYPE_CONNECT
    return presenceRecord(envelope(asset, account), 2000 + number, kind, NOW, "192.0.2.1")


def recordsOf(kind: Kind, count: int, asset: str = "box-1", account: str = "acme") -> list[Record]:
    """
    Events of one box and kind.
    """
    if kind is Kind.track:
        return trackRecords(0, count, asset, account)
    make = messageOf if kind is Kind.message else presenceOf
    return [make(number, asset, account) for number in range(count)]


def idOf(record: Record) -> bytes:
    """
    Its C{ce_id}.
    """
    return dict(record.headers)["ce_id"]
