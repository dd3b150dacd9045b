"""
The events that are not tracks: uplink messages, presences, and what goes to C{rejects}.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from binaryserver.directory.records import PrivacyPolicy
from binaryserver.errors import RejectedData
from binaryserver.model import EPOCH_2010_MS, BoxKey, Record, StoredRecord
from binaryserver.proto import cloudnext_pb2, md30_pb2
from binaryserver.transcode.envelope import CONTENT_TYPE, SPEC_VERSION, Envelope, cloudTime
from binaryserver.transcode.privacy import LEFT_OUT
from binaryserver.transcode.tracks import MAX_FUTURE_MS

_MESSAGE = ("ce_type", b"cloudnext.v1.Message")
_PRESENCE = ("ce_type", b"cloudnext.v1.Presence")
_REJECT = ("ce_type", b"cloudnext.v1.Reject")

_NAME_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
_MAX_NAME = 64
_MAX_MESSAGE_ID = 128
_MAX_KEY = 1024
_MAX_REASON = 512

_NO_POLICY = PrivacyPolicy()

# What a reject's record has beside the payload: its other fields, the key and the headers.
_REJECT_OVERHEAD = 2048


def isName(text: str) -> bool:
    """
    Whether a text may name an account, an asset or a channel: C{[A-Za-z0-9._-]{1,64}}.
    """
    return 0 < len(text) <= _MAX_NAME and _NAME_CHARACTERS.issuperset(text)


def decodeMessage(payload: bytes, maxRecord: int) -> md30_pb2.Message:
    """
    An uplink message of a box.

    @param payload: bytes, one C{md30.v1.Message}
    @param maxRecord: bytes, the most that one record may have
    @raise RejectedData: it cannot be decoded, or names no channel
    """
    try:
        message = md30_pb2.Message.FromString(payload)
    except DecodeError as error:
        raise RejectedData("DECODE", "the payload is no md30.v1.Message") from error
    if not isName(message.channel) and (message.channel or not message.ack_of):
        raise RejectedData("BAD_CHANNEL", "the message's channel is no [A-Za-z0-9._-]{1,64}")
    if max(len(message.id.encode()), len(message.ack_of.encode())) > _MAX_MESSAGE_ID:
        raise RejectedData("BAD_ID", "an id of more than 128 bytes")
    if len(payload) + _REJECT_OVERHEAD > maxRecord:
        raise RejectedData("RECORD_TOO_LARGE", f"the message has {len(payload)} bytes")
    return message


def messageRecord(
    envelope: Envelope, eventId: int, message: md30_pb2.Message, missingBefore: int, nowMs: int
) -> Record:
    """
    The event of an uplink message. A box without a clock gets the gateway's time.
    """
    plausible = EPOCH_2010_MS <= message.recorded_at <= nowMs + MAX_FUTURE_MS
    eventTime = message.recorded_at if plausible else nowMs
    fields = cloudnext_pb2.Event(
        id=eventId,
        event_time=eventTime,
        ingest_time=nowMs,
        stream=message.stream,
        index=message.index if message.stream else 0,
        unindexed=not message.stream,
        missing_before=missingBefore,
        message=cloudnext_pb2.Message(
            id=message.id,
            channel=message.channel,
            payload=message.payload,
            ack_of=message.ack_of,
            ack_status=message.ack_status,
        ),
    )
    name = b"%d/%d" % (message.stream, message.index) if message.stream else b"event/%d" % eventId
    return Record(
        envelope.key,
        envelope.head + fields.SerializeToString(),
        envelope.headers(_MESSAGE, envelope.idPrefix + name, eventTime),
    )


def presenceRecord(
    envelope: Envelope,
    eventId: int,
    kind: cloudnext_pb2.PresenceType,
    nowMs: int,
    peer: str,
    reason: str = "",
    fromBox: bool = False,
    detail: str = "",
) -> Record:
    """
    The event of a box's coming or going.

    @param reason: a name of docs/md30.md
    @param fromBox: the reason is the box's own
    """
    fields = cloudnext_pb2.Event(
        id=eventId,
        event_time=nowMs,
        ingest_time=nowMs,
        presence=cloudnext_pb2.Presence(
            type=kind, reason=reason, reason_from_box=fromBox, peer_address=peer, detail=detail
        ),
    )
    return Record(
        envelope.key,
        envelope.head + fields.SerializeToString(),
        envelope.headers(_PRESENCE, envelope.idPrefix + b"event/%d" % eventId, nowMs),
    )


def rejectRecord(
    envelope: Envelope,
    eventId: int,
    source: str,
    code: str,
    reason: str,
    payload: bytes,
    nowMs: int,
    maxRecord: int,
    policy: PrivacyPolicy = _NO_POLICY,
) -> Record:
    """
    What could not be taken, with its bytes, cut to what one record may hold.

    @param source: where it came from, e.g. C{"md30:t"}
    @param policy: if it says anything, the bytes are left out: nobody can tell what stands in them
    """
    kept, why = (payload, "") if policy.isNone else (b"", LEFT_OUT)
    reject = cloudnext_pb2.Reject(
        source=source,
        account=envelope.box.account,
        asset=envelope.box.asset,
        code=code,
        reason=reason[:_MAX_REASON] + why,
        payload=kept[: max(0, maxRecord - _REJECT_OVERHEAD)],
        payload_size=len(payload),
        link_epoch=envelope.linkEpoch,
        instance=envelope.instance,
        ingest_time=nowMs,
    )
    return Record(
        envelope.key,
        reject.SerializeToString(),
        envelope.headers(_REJECT, envelope.idPrefix + b"event/%d" % eventId, nowMs),
    )


def downlinkRejectRecord(
    record: StoredRecord,
    box: BoxKey | None,
    source: str,
    code: str,
    reason: str,
    instance: str,
    nowMs: int,
    maxRecord: int,
    isPrivate: bool = False,
) -> Record:
    """
    A record of C{downlink} that cannot be used, with its bytes, cut to what one record may hold. Its key is kept.

    @param box: whom it is for, as far as that is known; with C{isPrivate} what may be told of it, and its key
    @param source: where it stood: C{TOPIC/PARTITION/OFFSET}, by which a repeat can be told
    @param isPrivate: its account has a privacy policy, or may have one: its bytes and its key are left out
    """
    value, key, why = record.value, record.key[:_MAX_KEY], ""
    if isPrivate:
        value, key, why = b"", box.busKey if box is not None else b"", LEFT_OUT
    reject = cloudnext_pb2.Reject(
        source=source,
        account=box.account if box is not None else "",
        asset=box.asset if box is not None else "",
        code=code,
        reason=reason[:_MAX_REASON] + why,
        payload=value[: max(0, maxRecord - _REJECT_OVERHEAD)],
        payload_size=len(record.value),
        instance=instance,
        ingest_time=nowMs,
    )
    headers = [
        SPEC_VERSION,
        _REJECT,
        ("ce_source", b"/binaryserver/" + instance.encode()),
        CONTENT_TYPE,
        ("ce_id", source.encode()),
        ("ce_time", cloudTime(nowMs)),
    ]
    return Record(key, reject.SerializeToString(), headers)
