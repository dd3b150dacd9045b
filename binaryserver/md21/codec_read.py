"""
The reading of each PDU, in the order of C{MD-Data}'s alternatives.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Final, TypeVar

from binaryserver.md21 import values
from binaryserver.md21.codec_tracks import readTrackingData
from binaryserver.md21.uper import Reader, refuse

_E = TypeVar("_E", bound=IntEnum)


def _transport(reader: Reader) -> values.Transport:
    later = reader.flag()
    carries = reader.flag()
    token = reader.octets(values.TOKEN_SIZE)
    sequence = reader.bits(32)
    acks = tuple(reader.bits(32) for _ in range(reader.ranged(0, 31)))
    pdu = reader.octets(reader.ranged(1, 65_280)) if carries else None
    if later:
        reader.skipExtensions()
    if carries != (sequence > 0):
        refuse("a datagram whose number says otherwise about a PDU in it")
    return values.Transport(token, sequence, acks, pdu)


def _header(reader: Reader) -> values.Header:
    later = reader.flag()
    hasSecret = reader.flag()
    hasReason = reader.flag()
    version = reader.bits(8)
    asset = reader.text(1, 64)
    account = reader.text(1, 64)
    secret = reader.utf8(0, 255) if hasSecret else None
    tls = reader.flag()
    reason = _openEnum(reader, values.Reason) if hasReason else None
    capabilities = _capabilities(reader)
    if later:
        reader.skipExtensions()
    return values.Header(version, asset, account, secret, tls, reason, capabilities)


def _capabilities(reader: Reader) -> values.Capabilities:
    later = reader.flag()
    capabilities = values.Capabilities(reader.flag(), reader.flag(), reader.flag())
    if later:
        reader.skipExtensions()
    return capabilities


def _headerAck(reader: Reader) -> values.HeaderAck:
    later = reader.flag()
    hasUdp = reader.flag()
    status = _openEnum(reader, values.HeaderStatus)
    udp = _udpOffer(reader) if hasUdp else None
    if later:
        reader.skipExtensions()
    return values.HeaderAck(status, udp)


def _udpOffer(reader: Reader) -> values.UdpOffer:
    later = reader.flag()
    offer = values.UdpOffer(reader.text(1, 255), reader.ranged(1, 65_535), reader.octets(values.TOKEN_SIZE))
    if later:
        reader.skipExtensions()
    return offer


def _disconnect(reader: Reader) -> values.Disconnect:
    later = reader.flag()
    reason = _openEnum(reader, values.Reason)
    if later:
        reader.skipExtensions()
    return values.Disconnect(reason)


def _ping(reader: Reader) -> values.Ping:
    later = reader.flag()
    ping = values.Ping(reader.bits(16), reader.flag())
    if later:
        reader.skipExtensions()
    return ping


def _baseValue(reader: Reader) -> values.BaseValues | values.BaseValueAck:
    if reader.flag():
        refuse("a base value of a later version")
    if reader.flag():
        later = reader.flag()
        ack = values.BaseValueAck(reader.bits(32))
        if later:
            reader.skipExtensions()
        return ack
    later = reader.flag()
    revision = reader.bits(32)
    channels = tuple(_channel(reader) for _ in range(reader.ranged(0, 255)))
    found = values.BaseValues(revision, channels, values.WantAck(reader.bits(3)), reader.bits(16))
    if later:
        reader.skipExtensions()
    return found


def _channel(reader: Reader) -> values.Channel:
    return values.Channel(reader.ranged(1, 255), reader.text(1, 64))


def _message(reader: Reader) -> values.Message:
    later = reader.flag()
    hasName = reader.flag()
    hasTime = reader.flag()
    hasExpiry = reader.flag()
    hasServerId = reader.flag()
    temporaryId = reader.bits(16)
    channel = reader.bits(8)
    name = reader.text(1, 64) if hasName else None
    recordedAt = reader.bits(42) + values.EPOCH_MS if hasTime else None
    expiresAt = reader.bits(42) + values.EPOCH_MS if hasExpiry else None
    serverId = reader.bits(64) if hasServerId else None
    wantAck = reader.flag()
    payload = reader.octets(reader.ranged(0, values.MAX_PAYLOAD))
    if later:
        reader.skipExtensions()
    if hasName != (channel == 0):
        refuse("a message that names its channel twice or not at all")
    return values.Message(temporaryId, channel, name, payload, recordedAt, expiresAt, serverId, wantAck)


def _messageAck(reader: Reader) -> values.MessageAck:
    later = reader.flag()
    hasServerId = reader.flag()
    status = _closedEnum(reader, values.MessageStatus)
    temporaryId = reader.bits(16)
    serverId = reader.bits(64) if hasServerId else None
    application = reader.flag()
    if later:
        reader.skipExtensions()
    return values.MessageAck(status, temporaryId, serverId, application)


def _reconfigureMsg(reader: Reader) -> values.ReconfigureMsg:
    later = reader.flag()
    channels = tuple(_channel(reader) for _ in range(reader.ranged(1, 255)))
    if later:
        reader.skipExtensions()
    return values.ReconfigureMsg(channels)


def _trackingAck(reader: Reader) -> values.TrackingAck:
    if reader.flag():
        reader.skipExtensions()
    return values.TrackingAck()


def _reconfigureTrk(reader: Reader) -> values.ReconfigureTrk:
    later = reader.flag()
    hasInterval = reader.flag()
    wantAck = values.WantAck(reader.bits(3))
    interval = reader.ranged(0, 86_400) if hasInterval else None
    if later:
        reader.skipExtensions()
    return values.ReconfigureTrk(wantAck, interval)


def _fileStart(reader: Reader) -> values.FileStart:
    later = reader.flag()
    start = values.FileStart(reader.bits(16), reader.utf8(1, 255), reader.bits(32), reader.octets(32))
    if later:
        reader.skipExtensions()
    return start


def _filePart(reader: Reader) -> values.FilePart:
    later = reader.flag()
    part = values.FilePart(reader.bits(16), reader.bits(32), reader.octets(reader.ranged(1, values.MAX_PART)))
    if later:
        reader.skipExtensions()
    return part


def _fileAck(reader: Reader) -> values.FileAck:
    later = reader.flag()
    ack = values.FileAck(reader.bits(16), reader.bits(32), _openEnum(reader, values.FileStatus))
    if later:
        reader.skipExtensions()
    return ack


def _openEnum(reader: Reader, kind: type[_E]) -> _E:
    if reader.flag():
        refuse(f"a {kind.__name__} of a later version")
    return _closedEnum(reader, kind)


def _closedEnum(reader: Reader, kind: type[_E]) -> _E:
    return kind(reader.ranged(0, len(kind) - 1))


READERS: Final[tuple[Callable[[Reader], values.Pdu], ...]] = (
    _transport,
    _header,
    _headerAck,
    _disconnect,
    _ping,
    _baseValue,
    _message,
    _messageAck,
    _reconfigureMsg,
    readTrackingData,
    _trackingAck,
    _reconfigureTrk,
    _fileStart,
    _filePart,
    _fileAck,
)
"""By the number of the alternative."""
