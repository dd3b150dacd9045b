"""
Packets for the tests of L{binaryserver.mqtt}: a table of them by their bytes, and hypothesis strategies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from hypothesis import strategies as st

from binaryserver.mqtt import packets
from binaryserver.mqtt.connection import Connection
from binaryserver.mqtt.events import Connect, Disconnect, Puback, Publish, Pubrel, Subscribe, Unsubscribe, Will
from binaryserver.mqtt.packets import (
    Connack,
    Packet,
    Pingreq,
    Pingresp,
    Pubcomp,
    Pubrec,
    Suback,
    Unsuback,
)

FROM_CLIENT_TABLE: Final[tuple[tuple[str, Packet], ...]] = (
    ("100f 0004 4d515454 04 02 003c 0003 626f78", Connect("box", True, 60, None, None, None)),
    ("100c 0004 4d515454 04 02 0000 0000", Connect("", True, 0, None, None, None)),
    (
        "101a 0004 4d515454 04 c0 ffff 0003 626f78 0004 61636d65 0003 00ff00",
        Connect("box", False, 65535, "acme", b"\x00\xff\x00", None),
    ),
    (
        "101d 0004 4d515454 04 36 000a 0003 626f78 0001 77 0009 434f4c445f424f4f54",
        Connect("box", True, 10, None, None, Will("w", b"COLD_BOOT", 2, True)),
    ),
    (
        "1012 0004 4d515454 04 04 000a 0001 62 0001 77 0000",
        Connect("b", False, 10, None, None, Will("w", b"", 0, False)),
    ),
    (
        "1010 0004 4d515454 04 82 000a 0002 c3a9 0000",
        Connect("\u00e9", True, 10, "", None, None),
    ),
    ("3003 0001 74", Publish("t", b"", 0, 0, False, False)),
    ("3104 0001 74 78", Publish("t", b"x", 0, 0, False, True)),
    ("3208 0001 74 0001 616263", Publish("t", b"abc", 1, 1, False, False)),
    ("3205 0001 74 ffff", Publish("t", b"", 1, 65535, False, False)),
    ("3a06 0001 74 0100 00", Publish("t", b"\x00", 1, 256, True, False)),
    ("3406 0001 74 0007 78", Publish("t", b"x", 2, 7, False, False)),
    ("3d06 0001 74 0007 78", Publish("t", b"x", 2, 7, True, True)),
    ("320b 0006 e28293 efbbbf 0001 78", Publish("\u2093\ufeff", b"x", 1, 1, False, False)),
    ("4002 0102", Puback(258)),
    ("5002 0001", Pubrec(1)),
    ("6202 0007", Pubrel(7)),
    ("7002 ffff", Pubcomp(65535)),
    ("8206 0001 0001 64 01", Subscribe(1, (("d", 1),))),
    ("820d 000a 0001 23 02 0004 692f2b2f 00", Subscribe(10, (("#", 2), ("i/+/", 0)))),
    ("a205 0001 0001 64", Unsubscribe(1, ("d",))),
    ("a208 0002 0001 64 0001 69", Unsubscribe(2, ("d", "i"))),
    ("c000", Pingreq()),
    ("e000", Disconnect()),
)
"""Every packet that a client sends, in hex and as a value."""

FROM_SERVER_TABLE: Final[tuple[tuple[str, Packet], ...]] = (
    ("2002 00 00", Connack(False, 0)),
    ("2002 01 00", Connack(True, 0)),
    ("2002 00 05", Connack(False, 5)),
    ("3003 0001 69", Publish("i", b"", 0, 0, False, False)),
    ("3a08 0001 64 0001 616263", Publish("d", b"abc", 1, 1, True, False)),
    ("4002 0001", Puback(1)),
    ("5002 0001", Pubrec(1)),
    ("6202 0001", Pubrel(1)),
    ("7002 0001", Pubcomp(1)),
    ("9003 0001 01", Suback(1, (1,))),
    ("9006 0001 00 01 02 80", Suback(1, (0, 1, 2, 128))),
    ("b002 0001", Unsuback(1)),
    ("d000", Pingresp()),
)
"""Every packet that a server sends."""

ENCODERS: Final[dict[type, Callable[..., bytes]]] = {
    Connect: packets.encodeConnect,
    Connack: packets.encodeConnack,
    Publish: packets.encodePublish,
    Puback: packets.encodePuback,
    Pubrec: packets.encodePubrec,
    Pubrel: packets.encodePubrel,
    Pubcomp: packets.encodePubcomp,
    Subscribe: packets.encodeSubscribe,
    Suback: packets.encodeSuback,
    Unsubscribe: packets.encodeUnsubscribe,
    Unsuback: packets.encodeUnsuback,
    Pingreq: lambda: packets.PINGREQ,
    Pingresp: lambda: packets.PINGRESP,
    Disconnect: lambda: packets.DISCONNECT,
}


def encode(packet: Packet) -> bytes:
    """
    Any packet's bytes.
    """
    return ENCODERS[type(packet)](*packet)


def opened(now: float = 0.0, keepAlive: int = 0, **settings: Any) -> Connection:
    """
    A connection that has accepted a client, with its CONNACK sent.
    """
    connection = Connection(now, **settings)
    connection.receiveData(packets.encodeConnect("box", keepAlive=keepAlive), now)
    connection.accept(False, keepAlive, now=now)
    connection.dataToSend()
    return connection


TEXT: Final = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
NAMES: Final = st.text(
    st.characters(codec="utf-8", exclude_characters="\0+#"), min_size=1, max_size=12
) | st.sampled_from(("t", "tj", "boxes/123456789012345/tracks", "/", "$x"))
FILTERS: Final = st.lists(
    st.just("+") | st.text(st.characters(codec="utf-8", exclude_characters="\0+#/"), max_size=5),
    min_size=1,
    max_size=4,
).flatmap(
    lambda levels: st.sampled_from([text for text in ("/".join(levels), "/".join([*levels, "#"]), "#", "+") if text])
)
IDS: Final = st.integers(1, 65535)
BLOBS: Final = st.binary(max_size=40) | st.integers(90, 300).map(bytes)
_wills: Final = st.builds(Will, NAMES, BLOBS, st.integers(0, 2), st.booleans())
_users: Final = st.tuples(st.none(), st.none()) | st.tuples(TEXT, st.none() | BLOBS)
CONNECTS: Final = st.builds(
    lambda clientId, clean, keepAlive, user, will: Connect(
        clientId, clean or not clientId, keepAlive, user[0], user[1], will
    ),
    TEXT,
    st.booleans(),
    st.integers(0, 65535),
    _users,
    st.none() | _wills,
)
PUBLISHES: Final = st.builds(
    lambda topic, payload, qos, packetId, dup, retain: Publish(
        topic, payload, qos, packetId if qos else 0, dup and qos > 0, retain
    ),
    NAMES,
    BLOBS,
    st.integers(0, 2),
    IDS,
    st.booleans(),
    st.booleans(),
)
_acknowledgements: Final = (
    st.builds(Puback, IDS) | st.builds(Pubrec, IDS) | st.builds(Pubrel, IDS) | st.builds(Pubcomp, IDS)
)
AFTER_CONNECT: Final[st.SearchStrategy[Packet]] = (
    PUBLISHES
    | _acknowledgements
    | st.builds(
        Subscribe,
        IDS,
        st.lists(st.tuples(FILTERS, st.integers(0, 2)), min_size=1, max_size=4).map(lambda pairs: tuple(pairs)),
    )
    | st.builds(Unsubscribe, IDS, st.lists(FILTERS, min_size=1, max_size=4).map(lambda names: tuple(names)))
    | st.just(Pingreq())
    | st.just(Disconnect())
)
"""What a client sends once it is connected."""
SERVED: Final[st.SearchStrategy[Packet]] = (
    PUBLISHES
    | _acknowledgements
    | st.builds(lambda code: Connack(False, code), st.integers(0, 5))
    | st.just(Connack(True, 0))
    | st.builds(
        Suback, IDS, st.lists(st.sampled_from((0, 1, 2, 128)), min_size=1, max_size=5).map(lambda codes: tuple(codes))
    )
    | st.builds(Unsuback, IDS)
    | st.just(Pingresp())
)
"""What a server sends."""


def held(connection: Connection) -> int:
    """
    Bytes that a connection holds of what has arrived and is not read yet.
    """
    return len(connection._framing.partial or b"")
