from binaryserver.proto import md30_pb2 as _md30_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Protocol(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROTOCOL_UNSPECIFIED: _ClassVar[Protocol]
    PROTOCOL_MD30: _ClassVar[Protocol]
    PROTOCOL_MD21: _ClassVar[Protocol]

class FieldType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FIELD_TYPE_UNSPECIFIED: _ClassVar[FieldType]
    FIELD_TYPE_INT: _ClassVar[FieldType]
    FIELD_TYPE_BOOL: _ClassVar[FieldType]
    FIELD_TYPE_STRING: _ClassVar[FieldType]
    FIELD_TYPE_DOUBLE: _ClassVar[FieldType]
    FIELD_TYPE_BYTES: _ClassVar[FieldType]

class PresenceType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRESENCE_TYPE_UNSPECIFIED: _ClassVar[PresenceType]
    PRESENCE_TYPE_CONNECT: _ClassVar[PresenceType]
    PRESENCE_TYPE_RECONNECT: _ClassVar[PresenceType]
    PRESENCE_TYPE_DISCONNECT: _ClassVar[PresenceType]
    PRESENCE_TYPE_FAILED_CONNECT: _ClassVar[PresenceType]
    PRESENCE_TYPE_DECLARE_ASSET: _ClassVar[PresenceType]

class DeliveryStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DELIVERY_STATUS_UNSPECIFIED: _ClassVar[DeliveryStatus]
    DELIVERY_STATUS_QUEUED: _ClassVar[DeliveryStatus]
    DELIVERY_STATUS_SENT: _ClassVar[DeliveryStatus]
    DELIVERY_STATUS_DELIVERED: _ClassVar[DeliveryStatus]
    DELIVERY_STATUS_ACKED: _ClassVar[DeliveryStatus]
    DELIVERY_STATUS_REFUSED: _ClassVar[DeliveryStatus]
    DELIVERY_STATUS_EXPIRED: _ClassVar[DeliveryStatus]
    DELIVERY_STATUS_REJECTED: _ClassVar[DeliveryStatus]
PROTOCOL_UNSPECIFIED: Protocol
PROTOCOL_MD30: Protocol
PROTOCOL_MD21: Protocol
FIELD_TYPE_UNSPECIFIED: FieldType
FIELD_TYPE_INT: FieldType
FIELD_TYPE_BOOL: FieldType
FIELD_TYPE_STRING: FieldType
FIELD_TYPE_DOUBLE: FieldType
FIELD_TYPE_BYTES: FieldType
PRESENCE_TYPE_UNSPECIFIED: PresenceType
PRESENCE_TYPE_CONNECT: PresenceType
PRESENCE_TYPE_RECONNECT: PresenceType
PRESENCE_TYPE_DISCONNECT: PresenceType
PRESENCE_TYPE_FAILED_CONNECT: PresenceType
PRESENCE_TYPE_DECLARE_ASSET: PresenceType
DELIVERY_STATUS_UNSPECIFIED: DeliveryStatus
DELIVERY_STATUS_QUEUED: DeliveryStatus
DELIVERY_STATUS_SENT: DeliveryStatus
DELIVERY_STATUS_DELIVERED: DeliveryStatus
DELIVERY_STATUS_ACKED: DeliveryStatus
DELIVERY_STATUS_REFUSED: DeliveryStatus
DELIVERY_STATUS_EXPIRED: DeliveryStatus
DELIVERY_STATUS_REJECTED: DeliveryStatus

class Event(_message.Message):
    __slots__ = ("id", "account", "asset", "connection_id", "link_epoch", "instance", "protocol", "event_time", "ingest_time", "stream", "index", "unindexed", "missing_before", "track", "message", "presence", "message_status", "field_labels")
    ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    ASSET_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_ID_FIELD_NUMBER: _ClassVar[int]
    LINK_EPOCH_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    INGEST_TIME_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    UNINDEXED_FIELD_NUMBER: _ClassVar[int]
    MISSING_BEFORE_FIELD_NUMBER: _ClassVar[int]
    TRACK_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_STATUS_FIELD_NUMBER: _ClassVar[int]
    FIELD_LABELS_FIELD_NUMBER: _ClassVar[int]
    id: int
    account: str
    asset: str
    connection_id: int
    link_epoch: int
    instance: str
    protocol: Protocol
    event_time: int
    ingest_time: int
    stream: int
    index: int
    unindexed: bool
    missing_before: int
    track: _md30_pb2.Track
    message: Message
    presence: Presence
    message_status: MessageStatus
    field_labels: _containers.RepeatedCompositeFieldContainer[FieldLabel]
    def __init__(self, id: _Optional[int] = ..., account: _Optional[str] = ..., asset: _Optional[str] = ..., connection_id: _Optional[int] = ..., link_epoch: _Optional[int] = ..., instance: _Optional[str] = ..., protocol: _Optional[_Union[Protocol, str]] = ..., event_time: _Optional[int] = ..., ingest_time: _Optional[int] = ..., stream: _Optional[int] = ..., index: _Optional[int] = ..., unindexed: _Optional[bool] = ..., missing_before: _Optional[int] = ..., track: _Optional[_Union[_md30_pb2.Track, _Mapping]] = ..., message: _Optional[_Union[Message, _Mapping]] = ..., presence: _Optional[_Union[Presence, _Mapping]] = ..., message_status: _Optional[_Union[MessageStatus, _Mapping]] = ..., field_labels: _Optional[_Iterable[_Union[FieldLabel, _Mapping]]] = ...) -> None: ...

class FieldLabel(_message.Message):
    __slots__ = ("name", "type")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: FieldType
    def __init__(self, name: _Optional[str] = ..., type: _Optional[_Union[FieldType, str]] = ...) -> None: ...

class Message(_message.Message):
    __slots__ = ("id", "channel", "payload", "ack_of", "ack_status")
    ID_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    ACK_OF_FIELD_NUMBER: _ClassVar[int]
    ACK_STATUS_FIELD_NUMBER: _ClassVar[int]
    id: str
    channel: str
    payload: bytes
    ack_of: str
    ack_status: _md30_pb2.AckStatus
    def __init__(self, id: _Optional[str] = ..., channel: _Optional[str] = ..., payload: _Optional[bytes] = ..., ack_of: _Optional[str] = ..., ack_status: _Optional[_Union[_md30_pb2.AckStatus, str]] = ...) -> None: ...

class Presence(_message.Message):
    __slots__ = ("type", "reason", "reason_from_box", "peer_address", "detail")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REASON_FROM_BOX_FIELD_NUMBER: _ClassVar[int]
    PEER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    type: PresenceType
    reason: str
    reason_from_box: bool
    peer_address: str
    detail: str
    def __init__(self, type: _Optional[_Union[PresenceType, str]] = ..., reason: _Optional[str] = ..., reason_from_box: _Optional[bool] = ..., peer_address: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class Reject(_message.Message):
    __slots__ = ("source", "account", "asset", "code", "reason", "payload", "payload_size", "link_epoch", "instance", "ingest_time")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    ASSET_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_SIZE_FIELD_NUMBER: _ClassVar[int]
    LINK_EPOCH_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    INGEST_TIME_FIELD_NUMBER: _ClassVar[int]
    source: str
    account: str
    asset: str
    code: str
    reason: str
    payload: bytes
    payload_size: int
    link_epoch: int
    instance: str
    ingest_time: int
    def __init__(self, source: _Optional[str] = ..., account: _Optional[str] = ..., asset: _Optional[str] = ..., code: _Optional[str] = ..., reason: _Optional[str] = ..., payload: _Optional[bytes] = ..., payload_size: _Optional[int] = ..., link_epoch: _Optional[int] = ..., instance: _Optional[str] = ..., ingest_time: _Optional[int] = ...) -> None: ...

class DownlinkMessage(_message.Message):
    __slots__ = ("id", "account", "asset", "channel", "payload", "expires_at", "no_queue", "want_ack", "correlation_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    ASSET_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    NO_QUEUE_FIELD_NUMBER: _ClassVar[int]
    WANT_ACK_FIELD_NUMBER: _ClassVar[int]
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    account: str
    asset: str
    channel: str
    payload: bytes
    expires_at: int
    no_queue: bool
    want_ack: bool
    correlation_id: str
    def __init__(self, id: _Optional[str] = ..., account: _Optional[str] = ..., asset: _Optional[str] = ..., channel: _Optional[str] = ..., payload: _Optional[bytes] = ..., expires_at: _Optional[int] = ..., no_queue: _Optional[bool] = ..., want_ack: _Optional[bool] = ..., correlation_id: _Optional[str] = ...) -> None: ...

class MessageStatus(_message.Message):
    __slots__ = ("id", "message_id", "correlation_id", "status", "reason", "channel", "attempts", "queued_at", "sent_at", "delivered_at", "expires_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_AT_FIELD_NUMBER: _ClassVar[int]
    SENT_AT_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_AT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    id: int
    message_id: str
    correlation_id: str
    status: DeliveryStatus
    reason: str
    channel: str
    attempts: int
    queued_at: int
    sent_at: int
    delivered_at: int
    expires_at: int
    def __init__(self, id: _Optional[int] = ..., message_id: _Optional[str] = ..., correlation_id: _Optional[str] = ..., status: _Optional[_Union[DeliveryStatus, str]] = ..., reason: _Optional[str] = ..., channel: _Optional[str] = ..., attempts: _Optional[int] = ..., queued_at: _Optional[int] = ..., sent_at: _Optional[int] = ..., delivered_at: _Optional[int] = ..., expires_at: _Optional[int] = ...) -> None: ...

class DirectoryChange(_message.Message):
    __slots__ = ("account", "asset")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    ASSET_FIELD_NUMBER: _ClassVar[int]
    account: str
    asset: str
    def __init__(self, account: _Optional[str] = ..., asset: _Optional[str] = ...) -> None: ...
