"""
The control packets of MQTT 3.1.1 as values, and their making, in both directions.

What only passes between codec and connection is defined here; packets that a server's owner gets to see are the
events of L{binaryserver.mqtt.events}. The C{encode...} functions take the fields of a packet in their order and make
the whole of it; they raise C{ValueError} for values that it cannot hold, as this is then our own mistake. The other
way is L{binaryserver.mqtt.parsers}.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

from binaryserver.errors import PeerError
from binaryserver.mqtt.events import Connect, Disconnect, Puback, Publish, Pubrel, Subscribe, Unsubscribe, Will
from binaryserver.mqtt.topics import checkFilter, checkName


class PacketType(IntEnum):
    """
    The high four bits of a packet's first byte.
    """

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14


class ConnectCode(IntEnum):
    """
    The return codes of CONNACK.
    """

    ACCEPTED = 0
    UNACCEPTABLE_PROTOCOL = 1
    IDENTIFIER_REJECTED = 2
    SERVER_UNAVAILABLE = 3
    BAD_CREDENTIALS = 4
    NOT_AUTHORIZED = 5


SUBSCRIPTION_REFUSED: Final = 0x80
"""The return code in SUBACK of a filter that was not granted."""


class Connack(NamedTuple):
    """
    @ivar code: a L{ConnectCode}; what a server sent beyond them is refused
    """

    sessionPresent: bool
    code: int


class Pubrec(NamedTuple):
    """
    The receiver has a QoS 2 PUBLISH.
    """

    packetId: int


class Pubcomp(NamedTuple):
    """
    The receiver has forgotten a QoS 2 packet id.
    """

    packetId: int


class Suback(NamedTuple):
    """
    @ivar codes: for each filter, in their order, the granted QoS or L{SUBSCRIPTION_REFUSED}
    """

    packetId: int
    codes: tuple[int, ...]


class Unsuback(NamedTuple):
    """
    The server has dropped the filters of an UNSUBSCRIBE.
    """

    packetId: int


class Pingreq(NamedTuple):
    """
    The client asks whether the link is alive.
    """


class Pingresp(NamedTuple):
    """
    The server says that it is.
    """


Packet: TypeAlias = (
    Connect
    | Connack
    | Publish
    | Puback
    | Pubrec
    | Pubrel
    | Pubcomp
    | Subscribe
    | Suback
    | Unsubscribe
    | Unsuback
    | Pingreq
    | Pingresp
    | Disconnect
)


PROTOCOL_LEVEL: Final = 4
"""MQTT 3.1.1's [MQTT-3.1.2-2]."""
PINGREQ: Final = b"\xc0\x00"
PINGRESP: Final = b"\xd0\x00"
DISCONNECT: Final = b"\xe0\x00"


def _encodeString(text: str) -> bytes:
    raw = text.encode("utf-8")
    if "\0" in text:
        raise ValueError("U+0000 cannot be sent")
    return _encodeBytes(raw)


def _encodeName(topic: str) -> bytes:
    try:
        return _encodeString(checkName(topic))
    except PeerError as error:
        raise ValueError(str(error)) from None


def _encodeFilter(topicFilter: str) -> bytes:
    try:
        return _encodeString(checkFilter(topicFilter))
    except PeerError as error:
        raise ValueError(str(error)) from None


def _encodeBytes(raw: bytes) -> bytes:
    if len(raw) > 65535:
        raise ValueError(f"{len(raw)} bytes do not fit into a field of at most 65535")
    return len(raw).to_bytes(2, "big") + raw


def _packetId(packetId: int) -> bytes:
    if not 0 < packetId <= 65535:
        raise ValueError(f"{packetId} is not a packet id")
    return packetId.to_bytes(2, "big")


def _packet(first: int, *parts: bytes) -> bytes:
    length = sum(map(len, parts))
    if length > 268_435_455:
        raise ValueError(f"{length} bytes do not fit into a packet")
    header = bytearray((first,))
    while length > 127:
        header.append(length & 127 | 128)
        length >>= 7
    header.append(length)
    return b"".join((header, *parts))


def encodeConnect(
    clientId: str,
    cleanSession: bool = True,
    keepAlive: int = 60,
    username: str | None = None,
    password: bytes | None = None,
    will: Will | None = None,
) -> bytes:
    """
    @param keepAlive: s, 0: none
    @raise ValueError: a password without a user name [MQTT-3.1.2-22], or a value that no CONNECT can hold
    """
    if password is not None and username is None:
        raise ValueError("a password needs a user name [MQTT-3.1.2-22]")
    if not clientId and not cleanSession:
        raise ValueError("a session to be kept needs a client id [MQTT-3.1.3-7]")
    if not 0 <= keepAlive <= 65535 or (will is not None and not 0 <= will.qos <= 2):
        raise ValueError(f"no CONNECT has keep-alive {keepAlive} s or that will's QoS")
    flags = cleanSession << 1
    fields = [_encodeString(clientId)]
    if will is not None:
        flags |= 0x04 | will.qos << 3 | will.retain << 5
        fields += (_encodeName(will.topic), _encodeBytes(will.payload))
    if username is not None:
        flags |= 0x80
        fields.append(_encodeString(username))
    if password is not None:
        flags |= 0x40
        fields.append(_encodeBytes(password))
    head = b"\x00\x04MQTT" + bytes((PROTOCOL_LEVEL, flags)) + keepAlive.to_bytes(2, "big")
    return _packet(0x10, head, *fields)


def encodeConnack(sessionPresent: bool, code: int) -> bytes:
    """
    @raise ValueError: a session present along with a refusal [MQTT-3.2.2-4]
    """
    if sessionPresent and code:
        raise ValueError("a refusal has no session present [MQTT-3.2.2-4]")
    return bytes((0x20, 2, sessionPresent, code))


def encodePublish(
    topic: str, payload: bytes, qos: int = 0, packetId: int = 0, dup: bool = False, retain: bool = False
) -> bytes:
    """
    @param packetId: 1 to 65535 with QoS 1 and 2, else 0 [MQTT-2.3.1-5]
    @raise ValueError: a value that no PUBLISH can hold
    """
    if not 0 <= qos <= 2 or (dup and not qos) or (packetId and not qos):
        raise ValueError(f"no PUBLISH has QoS {qos}, dup {dup} and packet id {packetId}")
    first = 0x30 | dup << 3 | qos << 1 | retain
    return _packet(first, _encodeName(topic), _packetId(packetId) if qos else b"", payload)


def encodePuback(packetId: int) -> bytes:
    """
    One PUBACK; L{encodePubacks} makes many.
    """
    return b"\x40\x02" + _packetId(packetId)


def encodePubacks(packetIds: Sequence[int]) -> bytes:
    """
    A PUBACK for each packet id, in that order [MQTT-4.6.0-2]. Fast: the ids come out of parsed packets unchecked.
    """
    return struct.pack(f">{len(packetIds)}I", *[0x40020000 | packetId for packetId in packetIds])


def encodePubrec(packetId: int) -> bytes:
    """
    See L{Pubrec}.
    """
    return b"\x50\x02" + _packetId(packetId)


def encodePubrel(packetId: int) -> bytes:
    """
    See L{Pubrel}.
    """
    return b"\x62\x02" + _packetId(packetId)


def encodePubcomp(packetId: int) -> bytes:
    """
    See L{Pubcomp}.
    """
    return b"\x70\x02" + _packetId(packetId)


def encodeSubscribe(packetId: int, filters: Iterable[tuple[str, int]]) -> bytes:
    """
    @param filters: pairs of topic filter and requested QoS; at least one [MQTT-3.8.3-3]
    """
    pairs = tuple(filters)
    if not pairs or any(not 0 <= qos <= 2 for _, qos in pairs):
        raise ValueError("a SUBSCRIBE needs a filter, and a QoS from 0 to 2 with each [MQTT-3.8.3-3], [MQTT-3-8.3-4]")
    fields = [_encodeFilter(topicFilter) + bytes((qos,)) for topicFilter, qos in pairs]
    return _packet(0x82, _packetId(packetId), *fields)


def encodeSuback(packetId: int, codes: Iterable[int]) -> bytes:
    """
    @param codes: as L{Suback.codes}
    """
    returned = bytes(codes)
    if not returned or any(code > 2 and code != SUBSCRIPTION_REFUSED for code in returned):
        raise ValueError(f"no SUBACK has the return codes {tuple(returned)} [MQTT-3.9.3-2]")
    return _packet(0x90, _packetId(packetId), returned)


def encodeUnsubscribe(packetId: int, filters: Iterable[str]) -> bytes:
    """
    @param filters: topic filters; at least one [MQTT-3.10.3-2]
    """
    fields = [_encodeFilter(topicFilter) for topicFilter in filters]
    if not fields:
        raise ValueError("an UNSUBSCRIBE needs a filter [MQTT-3.10.3-2]")
    return _packet(0xA2, _packetId(packetId), *fields)


def encodeUnsuback(packetId: int) -> bytes:
    """
    See L{Unsuback}.
    """
    return b"\xb0\x02" + _packetId(packetId)
