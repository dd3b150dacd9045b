"""
What the sans-IO connection tells its owner (L{binaryserver.md21.connection}), beside the PDUs that it passes on as they
are: L{Header}, L{MessageAck}, L{Disconnect}.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from binaryserver.errors import PeerError
from binaryserver.md21.files import FileReceived
from binaryserver.md21.values import Disconnect, Header, Message, MessageAck, Reason, TrackingData


class Block(NamedTuple):
    """
    A block of tracks.

    @ivar pdu: bytes, the block as it came
    @ivar byDatagram: its ack is to go by datagram, too: each way counts its own
    """

    data: TrackingData
    pdu: bytes
    byDatagram: bool = False


class BoxMessage(NamedTuple):
    """
    A message of the box.

    @ivar channel: its name, 1 to 64 characters of printable ASCII
    """

    message: Message
    channel: str


class Broken(NamedTuple):
    """
    The box broke a rule, or was too slow: the link is to be closed. No event follows.

    @ivar reason: what the box is told, where it is told anything
    """

    error: PeerError
    reason: Reason = Reason.PROTOCOL_ERROR


Event: TypeAlias = Header | Block | BoxMessage | MessageAck | FileReceived | Disconnect | Broken
