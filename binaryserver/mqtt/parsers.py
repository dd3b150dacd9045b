"""
From bytes to control packets of MQTT 3.1.1, in both directions.

A parser takes C{(first, data, start, end)}: the first byte of a packet's fixed header, and where in C{data} that which
follows the fixed header lies. It gives the packet or raises a L{PeerError}, never anything else. L{FROM_CLIENT} and
L{FROM_SERVER} tell which first bytes each side may send, and the parsers of those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from binaryserver.errors import MalformedPacket, PeerError, ProtocolViolation
from binaryserver.mqtt.events import Connect, Disconnect, Puback, Publish, Pubrel, Subscribe, Unsubscribe, Will
from binaryserver.mqtt.packets import (
    PROTOCOL_LEVEL,
    SUBSCRIPTION_REFUSED,
    Connack,
    ConnectCode,
    Packet,
    PacketType,
    Pingreq,
    Pingresp,
    Pubcomp,
    Pubrec,
    Suback,
    Unsuback,
)
from binaryserver.mqtt.topics import TopicNames, checkFilter, checkName, decodeString

Parser: TypeAlias = Callable[[int, bytes, int, int], Packet]
Parsers: TypeAlias = Mapping[int, Parser]
"""By the first byte."""

topicNames: Final = TopicNames()
"""Remembers the outcome of checks and nothing else, so that all links may share it."""


class ConnectRefused(ProtocolViolation):
    """
    A CONNECT that MQTT says how to refuse.

    @ivar code: the L{ConnectCode} for the CONNACK that goes out before the link is closed
    """

    def __init__(self, message: str, clause: str, code: ConnectCode) -> None:
        super().__init__(message, clause)
        self.code = code


def _readBytes(data: bytes, position: int, end: int) -> tuple[bytes, int]:
    """
    Read a field with its length before it.

    @return: the field, and where the next one starts
    """
    start = position + 2
    if start > end:
        raise MalformedPacket("a packet ends within a field's length")
    stop = start + (data[position] << 8 | data[position + 1])
    if stop > end:
        raise MalformedPacket("a packet ends within a field")
    return data[start:stop], stop


def _readId(data: bytes, start: int, end: int) -> int:
    if start + 2 > end:
        raise MalformedPacket("a packet ends within its packet id")
    packetId = data[start] << 8 | data[start + 1]
    if not packetId:
        raise MalformedPacket("a packet id is 0", "MQTT-2.3.1-1")
    return packetId


def _parseConnect(first: int, data: bytes, start: int, end: int) -> Connect:
    name, position = _readBytes(data, start, end)
    if name != b"MQTT":
        raise MalformedPacket("the protocol's name is not MQTT", "MQTT-3.1.2-1")
    if position + 1 > end:
        raise MalformedPacket("a CONNECT ends before its protocol level", "MQTT-3.1.4-1")
    if data[position] != PROTOCOL_LEVEL:
        # Looked at before all that follows, which another level may order otherwise.
        raise ConnectRefused(
            f"protocol level {data[position]} is not spoken here", "MQTT-3.1.2-2", ConnectCode.UNACCEPTABLE_PROTOCOL
        )
    if position + 4 > end:
        raise MalformedPacket("a CONNECT ends before its payload", "MQTT-3.1.4-1")
    flags = data[position + 1]
    if flags & 0x01:
        raise MalformedPacket("the reserved flag of a CONNECT is set", "MQTT-3.1.2-3")
    if not flags & 0x04:
        if flags & 0x18:
            raise MalformedPacket("a CONNECT without a will has a will QoS", "MQTT-3.1.2-13")
        if flags & 0x20:
            raise MalformedPacket("a CONNECT without a will has it retained", "MQTT-3.1.2-15")
    elif flags & 0x18 == 0x18:
        raise MalformedPacket("a will has QoS 3", "MQTT-3.1.2-14")
    if flags & 0xC0 == 0x40:
        raise MalformedPacket("a CONNECT has a password and no user name", "MQTT-3.1.2-22")
    keepAlive = data[position + 2] << 8 | data[position + 3]
    raw, position = _readBytes(data, position + 4, end)
    clientId = decodeString(raw)
    will = username = password = None
    if flags & 0x04:
        raw, position = _readBytes(data, position, end)
        topic = checkName(decodeString(raw))
        payload, position = _readBytes(data, position, end)
        will = Will(topic, payload, flags >> 3 & 3, bool(flags & 0x20))
    if flags & 0x80:
        raw, position = _readBytes(data, position, end)
        username = decodeString(raw)
    if flags & 0x40:
        password, position = _readBytes(data, position, end)
    if position != end:
        raise MalformedPacket("a CONNECT goes on after its last field", "MQTT-3.1.4-1")
    cleanSession = bool(flags & 0x02)
    if not clientId and not cleanSession:
        raise ConnectRefused("a session to be kept has no client id", "MQTT-3.1.3-8", ConnectCode.IDENTIFIER_REJECTED)
    return Connect(clientId, cleanSession, keepAlive, username, password, will)


def _parseConnack(first: int, data: bytes, start: int, end: int) -> Connack:
    if end - start != 2:
        raise MalformedPacket("a CONNACK is not four bytes long")
    present, code = data[start], data[start + 1]
    if present > 1:
        raise MalformedPacket("reserved flags of a CONNACK are set")
    if code > ConnectCode.NOT_AUTHORIZED:
        raise MalformedPacket("the return code of a CONNACK is reserved")
    if present and code:
        raise MalformedPacket("a CONNACK refuses with a session present", "MQTT-3.2.2-4")
    return Connack(bool(present), code)


def _parsePublish(first: int, data: bytes, start: int, end: int) -> Publish:
    qos = first >> 1 & 3
    dup = bool(first & 8)
    if qos == 3:
        raise MalformedPacket("a PUBLISH has QoS 3", "MQTT-3.3.1-4")
    if dup and not qos:
        raise MalformedPacket("a PUBLISH of QoS 0 is marked as repeated", "MQTT-3.3.1-2")
    raw, position = _readBytes(data, start, end)
    topic = topicNames[raw]
    packetId = 0
    if qos:
        packetId = _readId(data, position, end)
        position += 2
    return Publish(topic, data[position:end], qos, packetId, dup, bool(first & 1))


def _parseSubscribe(first: int, data: bytes, start: int, end: int) -> Subscribe:
    packetId = _readId(data, start, end)
    position = start + 2
    if position == end:
        raise ProtocolViolation("a SUBSCRIBE has no topic filter", "MQTT-3.8.3-3")
    filters = []
    while position < end:
        raw, position = _readBytes(data, position, end)
        topicFilter = checkFilter(decodeString(raw))
        if position == end:
            raise MalformedPacket("a SUBSCRIBE ends before a requested QoS", "MQTT-3.8.3-3")
        qos = data[position]
        if qos > 2:
            raise MalformedPacket("a requested QoS is not 0, 1 or 2", "MQTT-3-8.3-4")
        filters.append((topicFilter, qos))
        position += 1
    return Subscribe(packetId, tuple(filters))


def _parseSuback(first: int, data: bytes, start: int, end: int) -> Suback:
    packetId = _readId(data, start, end)
    codes = tuple(data[start + 2 : end])
    if not codes:
        raise MalformedPacket("a SUBACK has no return code", "MQTT-3.8.4-5")
    if any(code > 2 and code != SUBSCRIPTION_REFUSED for code in codes):
        raise MalformedPacket("a return code of a SUBACK is reserved", "MQTT-3.9.3-2")
    return Suback(packetId, codes)


def _parseUnsubscribe(first: int, data: bytes, start: int, end: int) -> Unsubscribe:
    packetId = _readId(data, start, end)
    position = start + 2
    if position == end:
        raise ProtocolViolation("an UNSUBSCRIBE has no topic filter", "MQTT-3.10.3-2")
    filters = []
    while position < end:
        raw, position = _readBytes(data, position, end)
        filters.append(checkFilter(decodeString(raw)))
    return Unsubscribe(packetId, tuple(filters))


def _onlyId(kind: Callable[[int], Packet]) -> Parser:
    """
    The parser of a packet that is its packet id and nothing else.
    """

    def parse(first: int, data: bytes, start: int, end: int) -> Packet:
        if end - start != 2:
            raise MalformedPacket("a packet that is two bytes and a packet id has another length")
        return kind(_readId(data, start, end))

    return parse


def _empty(kind: Callable[[], Packet]) -> Parser:
    """
    The parser of a packet with nothing in it.
    """

    def parse(first: int, data: bytes, start: int, end: int) -> Packet:
        if start != end:
            raise MalformedPacket("a packet that is two bytes has another length")
        return kind()

    return parse


_FLAG_CLAUSES: Final = {
    PacketType.PUBREL: "MQTT-3.6.1-1",
    PacketType.SUBSCRIBE: "MQTT-3.8.1-1",
    PacketType.UNSUBSCRIBE: "MQTT-3.10.1-1",
    PacketType.DISCONNECT: "MQTT-3.14.1-1",
}
_PUBLISH: Final[dict[int, Parser]] = dict.fromkeys(range(0x30, 0x40), _parsePublish)
_ACKNOWLEDGEMENTS: Final[dict[int, Parser]] = {
    0x40: _onlyId(Puback),
    0x50: _onlyId(Pubrec),
    0x62: _onlyId(Pubrel),
    0x70: _onlyId(Pubcomp),
}
FIRST_FROM_CLIENT: Final[Parsers] = {0x10: _parseConnect}
"""What the first packet on a link may be [MQTT-3.1.0-1]."""
FROM_CLIENT: Final[Parsers] = {
    0x10: _parseConnect,
    **_PUBLISH,
    **_ACKNOWLEDGEMENTS,
    0x82: _parseSubscribe,
    0xA2: _parseUnsubscribe,
    0xC0: _empty(Pingreq),
    0xE0: _empty(Disconnect),
}
FROM_SERVER: Final[Parsers] = {
    0x20: _parseConnack,
    **_PUBLISH,
    **_ACKNOWLEDGEMENTS,
    0x90: _parseSuback,
    0xB0: _onlyId(Unsuback),
    0xD0: _empty(Pingresp),
}


def unexpected(first: int, parsers: Parsers) -> PeerError:
    """
    Why a packet may not start with C{first}, which is none of C{parsers}.
    """
    code = first >> 4
    if code in (0, 15):
        return MalformedPacket(f"packet type {code} is reserved")
    kind = PacketType(code)
    if parsers is FIRST_FROM_CLIENT and kind is not PacketType.CONNECT:
        return ProtocolViolation(f"the first packet is a {kind.name}, not a CONNECT", "MQTT-3.1.0-1")
    if any(known >> 4 == code for known in parsers):
        return MalformedPacket(
            f"reserved flags of a {kind.name} are not as they must be", _FLAG_CLAUSES.get(kind, "MQTT-2.2.2-2")
        )
    return ProtocolViolation(f"this side of a link does not send {kind.name}", "MQTT-4.8.0-1")
