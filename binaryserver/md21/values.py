"""
The PDUs of MD21 as values: what C{proto/md21.asn1} defines, with the epoch, the differences and the columns worked out.

Times are Unix ms, positions 1e-5 degrees. What a field of a value may be is what the module says of the component of
that name; L{binaryserver.md21.codec.encode} raises C{ValueError} for more. Enumerations count as those of the module.
All are tuples: tell them apart by their types, as those of two types may be equal, and a L{TrackingAck} is empty, so
false.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

EPOCH: Final = 1_262_304_000
"""2010-01-01 00:00:00 UTC, Unix seconds: MD21's times count from here."""

EPOCH_MS: Final = EPOCH * 1000
"""The same, Unix ms."""

TOKEN_SIZE: Final = 32
"""Bytes of a UDP token."""

MAX_PDU: Final = 0xFFFF
"""The most bytes that a PDU has."""

MAX_PAYLOAD: Final = 64_000
"""The most bytes of a message's payload."""

MAX_PART: Final = 32_768
"""The most bytes that one part of a file has."""

MAX_TRACKS: Final = 256
"""The most tracks of a block."""

FieldValue: TypeAlias = int | bool | str | float | bytes
"""What a field holds: an int is of 64 bits at most, text and bytes have at most 255 characters or bytes."""


class WantAck(IntEnum):
    """
    Whether a tracking block is acked, and after how many seconds without its ack the box sends it again.
    """

    NONE = 0
    ALL_0 = 1
    ALL_10 = 2
    ALL_30 = 3
    ALL_60 = 4
    ALL_100 = 5
    ALL_200 = 6
    ALL_300 = 7


class HeaderStatus(IntEnum):
    """
    The server's answer to a header.
    """

    OK = 0
    TLS_ACCEPTED = 1
    UNKNOWN_ASSET = 2
    UNKNOWN_ACCOUNT = 3
    BAD_SECRET = 4
    TLS_REQUIRED = 5
    TLS_UNAVAILABLE = 6
    UNSUPPORTED_VERSION = 7
    SERVER_BUSY = 8
    SERVER_CLOSING = 9
    ADDRESS_REFUSED = 10
    TRANSPORT_REFUSED = 11


class Reason(IntEnum):
    """
    Why a link came or went. The names are those of presences (but PROTOCOL_ERROR).
    """

    COLD_BOOT = 0
    SUSPEND_BOOT = 1
    IDLE_OUT = 2
    PPP_LOST = 3
    MODEM_RESET = 4
    SIM_ERROR = 5
    ROAMING = 6
    CONNECTION_LOST = 7
    NEW_CONFIG = 8
    WRITE_ERROR = 9
    READ_ERROR = 10
    CLOSED_BY_SERVER = 11
    SOCKET_CLOSED = 12
    NETWORK_ERROR = 13
    CLIENT_DISCONNECT = 14
    NETWORK_ACTIVITY_TIMEOUT = 15
    MESSAGE_ACK_TIMEOUT = 16
    BASEVALUE_ACK_TIMEOUT = 17
    UNKNOWN_CHANNEL = 18
    UNKNOWN_DYNAMIC_CHANNEL = 19
    SERVER_SHUTDOWN = 20
    AUTH_FAILED_ASSET = 21
    AUTH_FAILED_ACCOUNT = 22
    AUTH_FAILED_IP = 23
    AUTH_FAILED_TRANSPORT = 24
    TAKEOVER = 25
    PROTOCOL_ERROR = 26


class MessageStatus(IntEnum):
    """
    What became of a message.
    """

    ACK = 0
    NACK = 1
    BAD_CHANNEL = 2


class FileStatus(IntEnum):
    """
    The receiver's answer to the start or a part of a file; all but OK end the transfer.
    """

    OK = 0
    COMPLETE = 1
    REFUSED = 2
    TOO_LARGE = 3
    BAD_OFFSET = 4
    BAD_HASH = 5
    UNKNOWN_FILE = 6
    ABORTED = 7


class Transport(NamedTuple):
    """
    A datagram.

    @ivar token: L{TOKEN_SIZE} bytes
    @ivar sequence: the datagram's number, from 1; 0: it carries no PDU
    @ivar acks: the numbers of up to 31 datagrams that the sender has
    @ivar pdu: one PDU, encoded, at most 65,280 bytes; C{None} if and only if C{sequence} is 0
    """

    token: bytes
    sequence: int
    acks: tuple[int, ...] = ()
    pdu: bytes | None = None


class Capabilities(NamedTuple):
    """
    @ivar udp: the box would use UDP
    @ivar dynamicChannels: it understands L{ReconfigureMsg} and channel 0
    @ivar files: it takes and sends files
    """

    udp: bool = False
    dynamicChannels: bool = False
    files: bool = False


class Header(NamedTuple):
    """
    The box says who it is.

    @ivar version: the version of the protocol, 0 to 255
    @ivar asset: the box, 1 to 64 characters of printable ASCII
    @ivar account: its account, likewise
    @ivar secret: the box's password, at most 255 characters
    @ivar tls: the box asks for TLS
    @ivar reason: why it comes, or why its last link ended
    """

    version: int
    asset: str
    account: str
    secret: str | None = None
    tls: bool = False
    reason: Reason | None = None
    capabilities: Capabilities = Capabilities()


class UdpOffer(NamedTuple):
    """
    @ivar host: where the box's datagrams go: an IP address as text or a host name, 1 to 255 characters of ASCII
    @ivar port: 1 to 65535
    @ivar token: L{TOKEN_SIZE} bytes
    """

    host: str
    port: int
    token: bytes


class HeaderAck(NamedTuple):
    """
    The server's answer to L{Header}.
    """

    status: HeaderStatus
    udp: UdpOffer | None = None


class Disconnect(NamedTuple):
    """
    The last PDU of a link.
    """

    reason: Reason


class Ping(NamedTuple):
    """
    @ivar number: 0 to 65535
    @ivar reply: this answers the ping of that number
    """

    number: int
    reply: bool = False


class Channel(NamedTuple):
    """
    An entry of the dynamic table.

    @ivar number: 1 to 255
    @ivar name: 1 to 64 characters of printable ASCII
    """

    number: int
    name: str


class BaseValues(NamedTuple):
    """
    What the sender works with (C{basevalue}, alternative C{values}).

    @ivar revision: 32 bits, grows with each change
    @ivar channels: the sender's whole dynamic table, at most 255
    @ivar pingInterval: seconds of silence before the sender pings, 0 to 65535; 0: never
    """

    revision: int
    channels: tuple[Channel, ...] = ()
    wantAck: WantAck = WantAck.NONE
    pingInterval: int = 0


class BaseValueAck(NamedTuple):
    """
    The receiver has taken over L{BaseValues} (C{basevalue}, alternative C{ack}).
    """

    revision: int


class Message(NamedTuple):
    """
    @ivar temporaryId: the sender's, on this link, 1 to 65535; 0: none
    @ivar channel: a number of the receiver's dynamic table, or 0
    @ivar channelName: with channel 0 only, and then always: 1 to 64 characters of printable ASCII
    @ivar payload: at most L{MAX_PAYLOAD} bytes
    @ivar recordedAt: Unix ms
    @ivar expiresAt: Unix ms
    @ivar serverId: 64 bits; names a downlink message beyond this link
    @ivar wantAck: the sender waits for the application's ack
    """

    temporaryId: int
    channel: int
    channelName: str | None
    payload: bytes
    recordedAt: int | None = None
    expiresAt: int | None = None
    serverId: int | None = None
    wantAck: bool = False


class MessageAck(NamedTuple):
    """
    @ivar temporaryId: of the message that is acked; 0: C{serverId} names it
    @ivar serverId: 64 bits
    @ivar application: the receiver's application answers, not its link
    """

    status: MessageStatus
    temporaryId: int
    serverId: int | None = None
    application: bool = False


class ReconfigureMsg(NamedTuple):
    """
    Numbers for channels, 1 to 255 of them.
    """

    channels: tuple[Channel, ...]


class Track(NamedTuple):
    """
    @ivar recordedAt: Unix ms, a whole second
    @ivar latitude: 1e-5 degrees, or C{None}: no position
    @ivar longitude: likewise; both or neither are C{None}
    @ivar fields: (number, value), in the order of their numbers, each once
    """

    recordedAt: int
    latitude: int | None
    longitude: int | None
    fields: tuple[tuple[int, FieldValue], ...] = ()


class TrackingData(NamedTuple):
    """
    A block of 1 to L{MAX_TRACKS} tracks.
    """

    wantAck: WantAck
    tracks: tuple[Track, ...]


class TrackingAck(NamedTuple):
    """
    The server has the oldest block of this link that wanted an ack and has none yet.
    """


class ReconfigureTrk(NamedTuple):
    """
    @ivar interval: seconds between two tracks, 0 to 86,400; C{None}: as it is
    """

    wantAck: WantAck
    interval: int | None = None


class FileStart(NamedTuple):
    """
    @ivar fileId: 16 bits, the sender's
    @ivar fileName: 1 to 255 characters
    @ivar size: bytes, below 2**32
    @ivar sha256: 32 bytes
    """

    fileId: int
    fileName: str
    size: int
    sha256: bytes


class FilePart(NamedTuple):
    """
    @ivar offset: of the part's first byte in the file
    @ivar data: 1 to L{MAX_PART} bytes
    """

    fileId: int
    offset: int
    data: bytes


class FileAck(NamedTuple):
    """
    @ivar offset: how many bytes of the file the receiver has
    """

    fileId: int
    offset: int
    status: FileStatus


Pdu: TypeAlias = (
    Transport
    | Header
    | HeaderAck
    | Disconnect
    | Ping
    | BaseValues
    | BaseValueAck
    | Message
    | MessageAck
    | ReconfigureMsg
    | TrackingData
    | TrackingAck
    | ReconfigureTrk
    | FileStart
    | FilePart
    | FileAck
)
