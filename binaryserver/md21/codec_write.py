"""
The writing of each PDU, in the order of C{MD-Data}'s alternatives.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final

from binaryserver.md21 import values
from binaryserver.md21.codec_trackwriter import writeTrackingData
from binaryserver.md21.uper import Writer


def _transport(writer: Writer, pdu: values.Transport) -> None:
    if (pdu.pdu is None) != (pdu.sequence == 0):
        raise ValueError("a datagram has a number if and only if it carries a PDU")
    writer.flag(False)
    writer.flag(pdu.pdu is not None)
    _fixed(writer, pdu.token, values.TOKEN_SIZE)
    writer.ranged(pdu.sequence, 0, 0xFFFFFFFF)
    writer.ranged(len(pdu.acks), 0, 31)
    for number in pdu.acks:
        writer.ranged(number, 0, 0xFFFFFFFF)
    if pdu.pdu is not None:
        _sized(writer, pdu.pdu, 1, 65_280)


def _header(writer: Writer, pdu: values.Header) -> None:
    writer.flag(False)
    writer.flag(pdu.secret is not None)
    writer.flag(pdu.reason is not None)
    writer.ranged(pdu.version, 0, 255)
    writer.text(pdu.asset, 1, 64)
    writer.text(pdu.account, 1, 64)
    if pdu.secret is not None:
        writer.utf8(pdu.secret, 0, 255)
    writer.flag(pdu.tls)
    if pdu.reason is not None:
        _openEnum(writer, pdu.reason)
    writer.flag(False)
    for capability in pdu.capabilities:
        writer.flag(capability)


def _headerAck(writer: Writer, pdu: values.HeaderAck) -> None:
    writer.flag(False)
    writer.flag(pdu.udp is not None)
    _openEnum(writer, pdu.status)
    if pdu.udp is not None:
        writer.flag(False)
        writer.text(pdu.udp.host, 1, 255)
        writer.ranged(pdu.udp.port, 1, 65_535)
        _fixed(writer, pdu.udp.token, values.TOKEN_SIZE)


def _disconnect(writer: Writer, pdu: values.Disconnect) -> None:
    writer.flag(False)
    _openEnum(writer, pdu.reason)


def _ping(writer: Writer, pdu: values.Ping) -> None:
    writer.flag(False)
    writer.ranged(pdu.number, 0, 0xFFFF)
    writer.flag(pdu.reply)


def _baseValues(writer: Writer, pdu: values.BaseValues) -> None:
    # of the CHOICE: its extension bit, the first alternative; of the SEQUENCE: its extension bit
    writer.bits(0b000, 3)
    writer.ranged(pdu.revision, 0, 0xFFFFFFFF)
    _channels(writer, pdu.channels, 0)
    writer.bits(pdu.wantAck, 3)
    writer.ranged(pdu.pingInterval, 0, 0xFFFF)


def _baseValueAck(writer: Writer, pdu: values.BaseValueAck) -> None:
    writer.bits(0b010, 3)
    writer.ranged(pdu.revision, 0, 0xFFFFFFFF)


def _channels(writer: Writer, channels: tuple[values.Channel, ...], low: int) -> None:
    writer.ranged(len(channels), low, 255)
    for number, name in channels:
        writer.ranged(number, 1, 255)
        writer.text(name, 1, 64)


def _message(writer: Writer, pdu: values.Message) -> None:
    if (pdu.channelName is None) != (pdu.channel != 0):
        raise ValueError("a message names its channel if and only if it goes to channel 0")
    writer.flag(False)
    for optional in (pdu.channelName, pdu.recordedAt, pdu.expiresAt, pdu.serverId):
        writer.flag(optional is not None)
    writer.ranged(pdu.temporaryId, 0, 0xFFFF)
    writer.ranged(pdu.channel, 0, 255)
    if pdu.channelName is not None:
        writer.text(pdu.channelName, 1, 64)
    for moment in (pdu.recordedAt, pdu.expiresAt):
        if moment is not None:
            writer.ranged(moment - values.EPOCH_MS, 0, (1 << 42) - 1)
    if pdu.serverId is not None:
        writer.ranged(pdu.serverId, 0, (1 << 64) - 1)
    writer.flag(pdu.wantAck)
    _sized(writer, pdu.payload, 0, values.MAX_PAYLOAD)


def _messageAck(writer: Writer, pdu: values.MessageAck) -> None:
    writer.flag(False)
    writer.flag(pdu.serverId is not None)
    writer.bits(pdu.status, 2)
    writer.ranged(pdu.temporaryId, 0, 0xFFFF)
    if pdu.serverId is not None:
        writer.ranged(pdu.serverId, 0, (1 << 64) - 1)
    writer.flag(pdu.application)


def _reconfigureMsg(writer: Writer, pdu: values.ReconfigureMsg) -> None:
    writer.flag(False)
    _channels(writer, pdu.channels, 1)


def _trackingAck(writer: Writer, pdu: values.TrackingAck) -> None:
    writer.flag(False)


def _reconfigureTrk(writer: Writer, pdu: values.ReconfigureTrk) -> None:
    writer.flag(False)
    writer.flag(pdu.interval is not None)
    writer.bits(pdu.wantAck, 3)
    if pdu.interval is not None:
        writer.ranged(pdu.interval, 0, 86_400)


def _fileStart(writer: Writer, pdu: values.FileStart) -> None:
    writer.flag(False)
    writer.ranged(pdu.fileId, 0, 0xFFFF)
    writer.utf8(pdu.fileName, 1, 255)
    writer.ranged(pdu.size, 0, 0xFFFFFFFF)
    _fixed(writer, pdu.sha256, 32)


def _filePart(writer: Writer, pdu: values.FilePart) -> None:
    writer.flag(False)
    writer.ranged(pdu.fileId, 0, 0xFFFF)
    writer.ranged(pdu.offset, 0, 0xFFFFFFFF)
    _sized(writer, pdu.data, 1, values.MAX_PART)


def _fileAck(writer: Writer, pdu: values.FileAck) -> None:
    writer.flag(False)
    writer.ranged(pdu.fileId, 0, 0xFFFF)
    writer.ranged(pdu.offset, 0, 0xFFFFFFFF)
    _openEnum(writer, pdu.status)


def _openEnum(writer: Writer, value: IntEnum) -> None:
    writer.flag(False)
    writer.ranged(value, 0, len(type(value)) - 1)


def _fixed(writer: Writer, octets: bytes, size: int) -> None:
    if len(octets) != size:
        raise ValueError(f"{len(octets)} bytes instead of {size}")
    writer.octets(octets)


def _sized(writer: Writer, octets: bytes, low: int, high: int) -> None:
    writer.ranged(len(octets), low, high)
    writer.octets(octets)


# Each function takes the values of its own type only: what a mapping from types cannot say.
WRITERS: Final[dict[type, tuple[int, Callable[[Writer, Any], None]]]] = {
    values.Transport: (0, _transport),
    values.Header: (1, _header),
    values.HeaderAck: (2, _headerAck),
    values.Disconnect: (3, _disconnect),
    values.Ping: (4, _ping),
    values.BaseValues: (5, _baseValues),
    values.BaseValueAck: (5, _baseValueAck),
    values.Message: (6, _message),
    values.MessageAck: (7, _messageAck),
    values.ReconfigureMsg: (8, _reconfigureMsg),
    values.TrackingData: (9, writeTrackingData),
    values.TrackingAck: (10, _trackingAck),
    values.ReconfigureTrk: (11, _reconfigureTrk),
    values.FileStart: (12, _fileStart),
    values.FilePart: (13, _filePart),
    values.FileAck: (14, _fileAck),
}
"""The number of the alternative, and its function."""
