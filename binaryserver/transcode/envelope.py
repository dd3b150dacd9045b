"""
What all events of one link have in common, and the CloudEvents headers of their records.
"""

from __future__ import annotations

from datetime import UTC, datetime

from binaryserver.model import BoxKey
from binaryserver.proto import cloudnext_pb2
from binaryserver.transcode.wire import VARINT, lengthDelimited, tag, varint

CONTENT_TYPE = ("content-type", b"application/protobuf")
SPEC_VERSION = ("ce_specversion", b"1.0")

_MAX_CACHED_SECONDS = 4096
seconds: dict[int, bytes] = {}
"""The texts that L{cloudTime} has made, by the Unix second."""
MILLISECONDS = [b".%03dZ" % number for number in range(1000)]
"""What follows them."""


def cloudTime(unixMs: int) -> bytes:
    """
    A time as CloudEvents write it: RFC 3339 in UTC.

    Fleets record by the second and at about the same time, so the text up to the second is kept.
    """
    second, ms = divmod(unixMs, 1000)
    text = seconds.get(second)
    if text is None:
        if len(seconds) >= _MAX_CACHED_SECONDS:
            seconds.clear()
        text = seconds[second] = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
    return text + MILLISECONDS[ms]


class Envelope:
    """
    The fields that say where an event comes from: account, asset, connection id, link epoch, instance, protocol.

    @ivar head: bytes, those fields of a C{cloudnext.v1.Event}; what is joined behind them are the event's other fields
    @ivar key: bytes, the key of the link's records
    @ivar idPrefix: bytes, what C{ce_id} begins with: C{ACCOUNT/ASSET/}
    @ivar source: the C{ce_source} header
    """

    __slots__ = ("box", "connectionId", "head", "idPrefix", "instance", "key", "linkEpoch", "source")

    def __init__(
        self, box: BoxKey, connectionId: int, linkEpoch: int, instance: str, protocol: cloudnext_pb2.Protocol
    ) -> None:
        self.box = box
        self.connectionId = connectionId
        self.instance = instance
        self.linkEpoch = linkEpoch
        self.key = box.busKey
        self.idPrefix = self.key + b"/"
        self.source = ("ce_source", f"/binaryserver/{instance}".encode())
        event = cloudnext_pb2.Event
        self.head = b"".join(
            (
                lengthDelimited(event.ACCOUNT_FIELD_NUMBER, box.account.encode()),
                lengthDelimited(event.ASSET_FIELD_NUMBER, box.asset.encode()),
                tag(event.CONNECTION_ID_FIELD_NUMBER, 1) + connectionId.to_bytes(8, "little"),
                tag(event.LINK_EPOCH_FIELD_NUMBER, VARINT) + varint(linkEpoch),
                lengthDelimited(event.INSTANCE_FIELD_NUMBER, instance.encode()),
                tag(event.PROTOCOL_FIELD_NUMBER, VARINT) + varint(int(protocol)),
            )
        )

    def headers(self, kind: tuple[str, bytes], eventId: bytes, unixMs: int) -> list[tuple[str, bytes]]:
        """
        The CloudEvents headers of one record.

        @param kind: the C{ce_type} header
        @param eventId: the C{ce_id}
        """
        return [SPEC_VERSION, kind, self.source, CONTENT_TYPE, ("ce_id", eventId), ("ce_time", cloudTime(unixMs))]
