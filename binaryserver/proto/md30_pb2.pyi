from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AckStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACK_STATUS_UNSPECIFIED: _ClassVar[AckStatus]
    ACK_STATUS_OK: _ClassVar[AckStatus]
    ACK_STATUS_NO_LISTENER: _ClassVar[AckStatus]
    ACK_STATUS_NOT_UNDERSTOOD: _ClassVar[AckStatus]
ACK_STATUS_UNSPECIFIED: AckStatus
ACK_STATUS_OK: AckStatus
ACK_STATUS_NO_LISTENER: AckStatus
ACK_STATUS_NOT_UNDERSTOOD: AckStatus

class TrackBatch(_message.Message):
    __slots__ = ("stream", "first_index", "tracks")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    FIRST_INDEX_FIELD_NUMBER: _ClassVar[int]
    TRACKS_FIELD_NUMBER: _ClassVar[int]
    stream: int
    first_index: int
    tracks: _containers.RepeatedCompositeFieldContainer[Track]
    def __init__(self, stream: _Optional[int] = ..., first_index: _Optional[int] = ..., tracks: _Optional[_Iterable[_Union[Track, _Mapping]]] = ...) -> None: ...

class Track(_message.Message):
    __slots__ = ("recorded_at", "latitude", "longitude", "field_numbers", "field_values")
    RECORDED_AT_FIELD_NUMBER: _ClassVar[int]
    LATITUDE_FIELD_NUMBER: _ClassVar[int]
    LONGITUDE_FIELD_NUMBER: _ClassVar[int]
    FIELD_NUMBERS_FIELD_NUMBER: _ClassVar[int]
    FIELD_VALUES_FIELD_NUMBER: _ClassVar[int]
    recorded_at: int
    latitude: int
    longitude: int
    field_numbers: _containers.RepeatedScalarFieldContainer[int]
    field_values: _containers.RepeatedCompositeFieldContainer[Value]
    def __init__(self, recorded_at: _Optional[int] = ..., latitude: _Optional[int] = ..., longitude: _Optional[int] = ..., field_numbers: _Optional[_Iterable[int]] = ..., field_values: _Optional[_Iterable[_Union[Value, _Mapping]]] = ...) -> None: ...

class Value(_message.Message):
    __slots__ = ("int_value", "bool_value", "string_value", "double_value", "bytes_value")
    INT_VALUE_FIELD_NUMBER: _ClassVar[int]
    BOOL_VALUE_FIELD_NUMBER: _ClassVar[int]
    STRING_VALUE_FIELD_NUMBER: _ClassVar[int]
    DOUBLE_VALUE_FIELD_NUMBER: _ClassVar[int]
    BYTES_VALUE_FIELD_NUMBER: _ClassVar[int]
    int_value: int
    bool_value: bool
    string_value: str
    double_value: float
    bytes_value: bytes
    def __init__(self, int_value: _Optional[int] = ..., bool_value: _Optional[bool] = ..., string_value: _Optional[str] = ..., double_value: _Optional[float] = ..., bytes_value: _Optional[bytes] = ...) -> None: ...

class Message(_message.Message):
    __slots__ = ("id", "channel", "payload", "recorded_at", "stream", "index", "ack_of", "ack_status", "want_ack", "expires_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    RECORDED_AT_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ACK_OF_FIELD_NUMBER: _ClassVar[int]
    ACK_STATUS_FIELD_NUMBER: _ClassVar[int]
    WANT_ACK_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    channel: str
    payload: bytes
    recorded_at: int
    stream: int
    index: int
    ack_of: str
    ack_status: AckStatus
    want_ack: bool
    expires_at: int
    def __init__(self, id: _Optional[str] = ..., channel: _Optional[str] = ..., payload: _Optional[bytes] = ..., recorded_at: _Optional[int] = ..., stream: _Optional[int] = ..., index: _Optional[int] = ..., ack_of: _Optional[str] = ..., ack_status: _Optional[_Union[AckStatus, str]] = ..., want_ack: _Optional[bool] = ..., expires_at: _Optional[int] = ...) -> None: ...

class IndexNotice(_message.Message):
    __slots__ = ("stream", "last_index")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    stream: int
    last_index: int
    def __init__(self, stream: _Optional[int] = ..., last_index: _Optional[int] = ...) -> None: ...
