"""
The way back: C{cloudnext.v1.DownlinkMessage} to C{md30.v1.Message}, and what became of it to the events of C{statuses}.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError

from binaryserver.errors import RejectedData
from binaryserver.model import BoxKey, DownlinkMessage, FinalStatus, MailboxEntry, Record, StoredRecord
from binaryserver.proto import cloudnext_pb2, md30_pb2
from binaryserver.transcode.envelope import CONTENT_TYPE, SPEC_VERSION, cloudTime
from binaryserver.transcode.events import isName

QUEUED = cloudnext_pb2.DELIVERY_STATUS_QUEUED
SENT = cloudnext_pb2.DELIVERY_STATUS_SENT
DELIVERED = cloudnext_pb2.DELIVERY_STATUS_DELIVERED

_FINAL = {
    FinalStatus.acked: cloudnext_pb2.DELIVERY_STATUS_ACKED,
    FinalStatus.refused: cloudnext_pb2.DELIVERY_STATUS_REFUSED,
    FinalStatus.expired: cloudnext_pb2.DELIVERY_STATUS_EXPIRED,
    FinalStatus.rejected: cloudnext_pb2.DELIVERY_STATUS_REJECTED,
}
_NAMES = {
    number: name.removeprefix("DELIVERY_STATUS_").lower().encode()
    for name, number in cloudnext_pb2.DeliveryStatus.items()
}
_TYPE = ("ce_type", b"cloudnext.v1.MessageStatus")
_MAX_ID = 128
_URL_SAFE = str.maketrans("-_", "+/")
_MAX_AHEAD_MS = 366 * 86_400_000


class RejectedMessage(RejectedData):
    """
    A record of C{downlink} that cannot be put into a mailbox.

    @ivar message: what is to be put into the mailbox in its place, to end as rejected; L{None}: its box or its id is
        not known, so that no status can be told
    """

    def __init__(self, code: str, text: str, message: DownlinkMessage | None) -> None:
        super().__init__(code, text)
        self.message = message


def decodeDownlink(
    record: StoredRecord,
    read: cloudnext_pb2.DownlinkMessage,
    real: Callable[[BoxKey], BoxKey],
    expiry: Callable[[str], int],
    maxPayload: int,
    nowMs: int,
) -> DownlinkMessage:
    """
    The message of one record, with what its sender left out filled in.

    @param read: as it stands there: L{readDownlink}
    @param real: gives the box that is known downstream by a name, or raises L{RejectedMessage}
    @param expiry: gives the ms after which a message on a channel expires if its sender does not say
    @param maxPayload: bytes
    @raise RejectedMessage: it is none, or one that no box may have
    """
    # By the record's own time, so that it is judged alike however often it is read.
    sentMs = record.timestamp if 0 < record.timestamp < nowMs else nowMs
    id_ = read.id or f"{record.topic}/{record.partition}/{record.offset}"
    box = real(BoxKey(read.account, read.asset))
    if len(id_.encode()) > _MAX_ID:
        raise RejectedMessage("BAD_ID", f"an id of more than {_MAX_ID} bytes", None)
    message = DownlinkMessage(
        box,
        id_,
        read.channel,
        read.payload,
        read.correlation_id,
        read.expires_at or sentMs + expiry(read.channel),
        read.no_queue,
        read.want_ack,
        nowMs,
    )
    if not isName(read.channel):
        code, text = "BAD_CHANNEL", "the channel is no [A-Za-z0-9._-]{1,64}"
        message = message._replace(channel="")
    elif len(read.correlation_id.encode()) > _MAX_ID:
        code, text = "BAD_ID", f"a correlation id of more than {_MAX_ID} bytes"
        message = message._replace(correlationId="")
    elif len(read.payload) > maxPayload:
        code, text = "MESSAGE_TOO_LARGE", f"a payload of {len(read.payload)} bytes, {maxPayload} at most"
    elif not 0 < message.expiresAt < sentMs + _MAX_AHEAD_MS:
        code, text = "BAD_EXPIRY", "expires_at is not within 366 days of the record"
    else:
        return message
    # What is only remembered is remembered as long as any other.
    message = message._replace(payload=b"", expiresAt=sentMs + expiry(""), rejected=code)
    raise RejectedMessage(code, text, message)


def readDownlink(record: StoredRecord) -> cloudnext_pb2.DownlinkMessage:
    """
    The message of one record as it stands there; JSON where the record's C{content-type} says C{application/json}.

    @raise RejectedMessage: it is none
    """
    isJson = any(
        name.lower() == "content-type" and value.split(b";")[0].strip().lower() == b"application/json"
        for name, value in record.headers
    )
    return _fromJson(record.value) if isJson else _fromProtobuf(record.value)


def _fromProtobuf(value: bytes) -> cloudnext_pb2.DownlinkMessage:
    try:
        return cloudnext_pb2.DownlinkMessage.FromString(value)
    except DecodeError as error:
        hint = "; JSON is to have the header content-type: application/json" if value[:1] == b"{" else ""
        raise RejectedMessage("DECODE", f"the record is no cloudnext.v1.DownlinkMessage{hint}", None) from error


def _fromJson(value: bytes) -> cloudnext_pb2.DownlinkMessage:
    try:
        parsed: Any = json.loads(value)
        # The parser passes over what is no base64, and does without its padding.
        payload = parsed.get("payload", "").translate(_URL_SAFE)
        b64decode(payload + "=" * (-len(payload) % 4), validate=True)
        return ParseDict(parsed, cloudnext_pb2.DownlinkMessage())
    except Exception as error:
        # Of any type, and not repeated in its own words: see codecs.JsonCodec.
        kind = type(error).__name__
        raise RejectedMessage(
            "DECODE", f"the record is no cloudnext.v1.DownlinkMessage in JSON ({kind})", None
        ) from error


def boxMessage(message: DownlinkMessage) -> bytes:
    """
    What the box is sent: one C{md30.v1.Message}.
    """
    return md30_pb2.Message(
        id=message.id,
        channel=message.channel,
        payload=message.payload,
        recorded_at=message.queuedAt,
        want_ack=message.wantAck,
        expires_at=message.expiresAt,
    ).SerializeToString()


def finalStatusRecord(entry: MailboxEntry, box: BoxKey, instance: str, nowMs: int) -> Record:
    """
    The event of a final status.

    @param entry: with its C{final}
    @param box: as for L{statusRecord}
    """
    final = entry.final
    assert final is not None
    return statusRecord(entry, box, _FINAL[final.status], final.at, instance, nowMs, final.reason)


def statusRecord(
    entry: MailboxEntry,
    box: BoxKey,
    status: cloudnext_pb2.DeliveryStatus,
    at: int,
    instance: str,
    nowMs: int,
    reason: str = "",
) -> Record:
    """
    The event of one status of a message. Its id is derived from box, message id and status (of C{sent}, the attempt
    too), so that a repeat has the same.

    @param box: whose message it is, as it is known downstream
    @param at: Unix ms, when it came to have it
    """
    message = entry.message
    key = box.busKey
    eventName = b"%b/message/%b/%b" % (key, message.id.encode(), _NAMES[status])
    if status == SENT and entry.attempts > 1:
        eventName += b"/%d" % entry.attempts
    eventId = int.from_bytes(blake2b(eventName, digest_size=8).digest(), "little")
    value = cloudnext_pb2.Event(
        id=eventId,
        account=box.account,
        asset=box.asset,
        instance=instance,
        event_time=at,
        ingest_time=nowMs,
        message_status=cloudnext_pb2.MessageStatus(
            id=eventId,
            message_id=message.id,
            correlation_id=message.correlationId,
            status=status,
            reason=reason,
            channel=message.channel,
            attempts=entry.attempts,
            queued_at=message.queuedAt,
            sent_at=entry.sentAt,
            delivered_at=entry.deliveredAt,
            expires_at=message.expiresAt,
        ),
    ).SerializeToString()
    source = ("ce_source", b"/binaryserver/" + instance.encode())
    return Record(
        key,
        value,
        [SPEC_VERSION, _TYPE, source, CONTENT_TYPE, ("ce_id", eventName), ("ce_time", cloudTime(at))],
    )
