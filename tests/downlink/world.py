"""
A gateway with its consumer, and boxes that listen.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from binaryserver.downlink.consumer import DownlinkConsumer
from binaryserver.downlink.expiry import ChannelExpiry
from binaryserver.gateway import Limits
from binaryserver.interfaces import ISessionStore
from binaryserver.model import BoxKey, MailboxEntry, MailboxLimits, StoredRecord
from binaryserver.proto import cloudnext_pb2, md30_pb2
from binaryserver.session.registry import NoPeers
from tests.harness import ASSET, Box, HandBus, World, publish, text, varint

BOX = BoxKey("dev", ASSET)


class Delivered(NamedTuple):
    """
    A PUBLISH of the downlink, as a box reads it.
    """

    topic: str
    qos: int
    dup: bool
    packetId: int
    message: md30_pb2.Message


class DownlinkWorld(World):
    """
    One gateway, whose consumer is fed by C{bring}.
    """

    def __init__(
        self,
        store: ISessionStore | None = None,
        bus: HandBus | None = None,
        limits: MailboxLimits = MailboxLimits(1000, 1 << 20),  # noqa: B008
        channels: tuple[str, ...] = (),
        maxPayload: int = 4096,
        linkLimits: Limits | None = None,
        **options: Any,
    ) -> None:
        World.__init__(self, linkLimits, store, bus, **options)
        expiry = ChannelExpiry(3600, channels)
        self.consumer = DownlinkConsumer(self.gateway, NoPeers(), "group", limits, maxPayload, expiry)
        self.consumer.begin()

    def turn(self) -> None:
        """
        Let everything happen that needs next to no time: calls of the session store are some ms apart.
        """
        for _ in range(12):
            self.clock.advance(0.005)

    def bring(self, *messages: cloudnext_pb2.DownlinkMessage | StoredRecord) -> None:
        """
        Records for the consumer, and a turn.
        """
        self.bus.consumer.bring(*messages)
        self.turn()

    def mail(self) -> list[MailboxEntry]:
        """
        What stands in the box's mailbox.
        """
        entries: list[MailboxEntry] = []
        self.store.mailbox(BOX).addCallback(entries.extend)
        return entries

    def statuses(self, id_: str | None = None) -> list[str]:
        """
        The statuses told so far, in their order: of one message, or C{ID STATUS REASON} of all.
        """
        told = []
        for event in self.bus.events("statuses"):
            status = event.message_status
            name = cloudnext_pb2.DeliveryStatus.Name(status.status).removeprefix("DELIVERY_STATUS_").lower()
            words = f"{name} {status.reason}".strip()
            if id_ is None:
                told.append(f"{status.message_id} {words}")
            elif status.message_id == id_:
                told.append(words)
        return told


def message(id_: str = "m1", **fields: Any) -> cloudnext_pb2.DownlinkMessage:
    """
    A message for the box.
    """
    given = {"account": "dev", "asset": ASSET, "channel": "config", "payload": id_.encode(), **fields}
    return cloudnext_pb2.DownlinkMessage(id=id_, **given)


def listening(world: World, asset: str = ASSET, topic: str = "d", qos: int = 1, clean: bool = True) -> Box:
    """
    A box that is connected and subscribed.
    """
    box = world.box(asset, clean=clean)
    subscribe(box, topic, qos)
    return box


def subscribe(box: Box, topic: str = "d", qos: int = 1) -> None:
    """
    SUBSCRIBE, and see it granted.
    """
    body = struct.pack(">H", 77) + text(topic) + bytes((qos,))
    box.link.dataReceived(b"\x82" + varint(len(body)) + body)
    (packet,) = box.received()
    assert packet[0] == 0x90, packet
    box.world.turn()


def delivered(box: Box) -> list[Delivered]:
    """
    What the box was sent since last asked; nothing else may have come.
    """
    return [read(packet) for packet in box.received()]


def read(packet: bytes) -> Delivered:
    """
    One PUBLISH.
    """
    assert packet[0] & 0xF0 == 0x30, packet
    qos, dup = packet[0] >> 1 & 3, bool(packet[0] & 8)
    at = 2 if packet[1] < 128 else 3
    length = struct.unpack(">H", packet[at : at + 2])[0]
    topic = packet[at + 2 : at + 2 + length].decode()
    at += 2 + length
    packetId = 0
    if qos:
        packetId = struct.unpack(">H", packet[at : at + 2])[0]
        at += 2
    return Delivered(topic, qos, dup, packetId, md30_pb2.Message.FromString(packet[at:]))


def puback(*packetIds: int) -> bytes:
    """
    PUBACKs.
    """
    return b"".join(b"\x40\x02" + struct.pack(">H", packetId) for packetId in packetIds)


def answer(id_: str, status: md30_pb2.AckStatus = md30_pb2.ACK_STATUS_OK, packetId: int = 9, **fields: Any) -> bytes:
    """
    The PUBLISH of an application's answer.
    """
    ack = md30_pb2.Message(channel="config", ack_of=id_, ack_status=status, **fields)
    return publish("m", ack.SerializeToString(), packetId)
