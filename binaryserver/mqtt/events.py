"""
What the sans-IO connection tells its owner (L{binaryserver.mqtt.connection}).
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from binaryserver.errors import PeerError


class Will(NamedTuple):
    """
    The last will of a CONNECT.
    """

    topic: str
    payload: bytes
    qos: int
    retain: bool


class Connect(NamedTuple):
    """
    A well-formed CONNECT that the owner answers with C{accept} or C{refuse}.

    @ivar clientId: may be empty
    @ivar keepAlive: s, 0: none
    """

    clientId: str
    cleanSession: bool
    keepAlive: int
    username: str | None
    password: bytes | None
    will: Will | None


class Publish(NamedTuple):
    """
    @ivar topic: as it came; valid UTF-8 and without wildcards
    @ivar packetId: 0 with QoS 0
    """

    topic: str
    payload: bytes
    qos: int
    packetId: int
    dup: bool
    retain: bool


class Subscribe(NamedTuple):
    """
    @ivar filters: pairs of topic filter and requested QoS, in their order
    """

    packetId: int
    filters: tuple[tuple[str, int], ...]


class Unsubscribe(NamedTuple):
    """
    @ivar filters: topic filters
    """

    packetId: int
    filters: tuple[str, ...]


class Puback(NamedTuple):
    """
    The client has a QoS 1 PUBLISH of ours.
    """

    packetId: int


class Pubrel(NamedTuple):
    """
    The client released a QoS 2 packet id; the owner answers with PUBCOMP once that is noted.
    """

    packetId: int


class Disconnect(NamedTuple):
    """
    The client leaves in good order: its will is void [MQTT-3.1.2-10]. No event follows.
    """


class Broken(NamedTuple):
    """
    The client broke a rule, or was too slow: the link is to be closed. No event follows.
    """

    error: PeerError


Event: TypeAlias = Connect | Publish | Subscribe | Unsubscribe | Puback | Pubrel | Disconnect | Broken
