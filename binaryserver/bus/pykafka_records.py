"""
Kafka's record batches of magic 2, the only form that Kafka 4 takes: bytes to records and back.

pykafka knows the forms of magic 0 and 1 alone. The layout is that of the protocol guide
(U{https://kafka.apache.org/documentation/#recordbatch}): a header of 61 bytes, checked by CRC-32C from its attributes
on, then records of zigzag varints.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import google_crc32c

from binaryserver.errors import BusError
from binaryserver.model import Record, StoredRecord

BATCH_HEADER = 61
"""Bytes before the first record of a batch."""

MAX_INFLATED = 64 * 1024 * 1024
"""The most bytes that one compressed batch may unpack to."""

_MAGIC = 2
_START = struct.Struct("!qiibI")
"""Base offset, length from the next field on, leader epoch, magic, CRC-32C: the checksum covers what follows."""
_REST = struct.Struct("!hiqqqhii")
"""Attributes, last offset delta, first and greatest timestamp, producer id and epoch, base sequence, record count."""
_LENGTH_AFTER = 12
"""The length field counts from here on."""

_CODECS = {1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}
_CODEC_BITS = 0x07
_APPEND_TIME = 0x08
_CONTROL = 0x20


class BadKafkaBytes(BusError):
    """
    A broker sent bytes that cannot be read as what they should be.
    """


class Producer(NamedTuple):
    """
    Who an idempotent batch is from: the broker drops a batch that it has already, by these.

    @ivar id: as given by the cluster; -1 for a batch without
    @ivar epoch: as given with it
    @ivar sequence: the number of the batch's first record among all of that producer and partition
    """

    id: int = -1
    epoch: int = -1
    sequence: int = -1


def varint(number: int) -> bytes:
    """
    A signed number as zigzag varint.
    """
    rest = (number << 1) ^ (number >> 63)
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


_SMALL = tuple(varint(number) for number in range(2048))
"""Nearly every number in a batch is one of these."""


def _length(number: int) -> bytes:
    return _SMALL[number] if number < 2048 else varint(number)


def recordSize(record: Record) -> int:
    """
    Bytes of key, value and headers of a record: what L{IBus.maxRecord} is about.
    """
    size = len(record.key) + len(record.value)
    for name, value in record.headers:
        size += len(name) + len(value)
    return size


def encodeBatch(records: Sequence[Record], nowMs: int, producer: Producer) -> bytes:
    """
    One uncompressed batch.

    @param nowMs: Unix ms, the timestamp of every record
    """
    parts: list[bytes] = [b""]
    for offset, (key, value, headers) in enumerate(records):
        # Attributes and the difference to the batch's timestamp are 0.
        body = b"".join(
            (b"\0\0", _length(offset), _length(len(key)), key, _length(len(value)), value, _length(len(headers)))
        )
        if headers:
            fields = [body]
            for name, content in headers:
                named = name.encode()
                fields += (_length(len(named)), named, _length(len(content)), content)
            body = b"".join(fields)
        parts.append(_length(len(body)))
        parts.append(body)
    count = len(records)
    parts[0] = _REST.pack(0, count - 1, nowMs, nowMs, *producer, count)
    checked = b"".join(parts)
    length = len(checked) + _START.size - _LENGTH_AFTER
    return _START.pack(0, length, -1, _MAGIC, google_crc32c.value(checked)) + checked


def decodeBatches(topic: str, partition: int, data: bytes, fromOffset: int) -> tuple[list[StoredRecord], int]:
    """
    The records of the batches that a fetch brought. A last batch that was cut off is left for the next fetch.

    @param fromOffset: the offset asked for; earlier records of its batch are left out
    @return: the records, and the offset to go on from
    @raise BadKafkaBytes: they are no batches, or of a form that is not read here
    """
    records: list[StoredRecord] = []
    position = 0
    following = fromOffset
    where = f"{topic}/{partition} at offset {fromOffset}"
    while len(data) - position >= _START.size:
        base, length, _, magic, crc = _START.unpack_from(data, position)
        if magic != _MAGIC:
            raise BadKafkaBytes(f"records of format {magic} in {where} cannot be read, only those of format {_MAGIC}")
        end = position + _LENGTH_AFTER + length
        if length < BATCH_HEADER - _LENGTH_AFTER:
            raise BadKafkaBytes(f"a batch in {where} says it has {length} bytes")
        if end > len(data):
            break
        checked = data[position + _START.size : end]
        if google_crc32c.value(checked) != crc:
            raise BadKafkaBytes(f"a batch in {where} does not match its checksum")
        try:
            following = max(following, _decodeBatch(topic, partition, base, checked, fromOffset, records))
        except (struct.error, IndexError, ValueError, zlib.error) as error:
            raise BadKafkaBytes(f"a batch in {where} cannot be read: {error}") from error
        position = end
    return records, following


def _decodeBatch(
    topic: str, partition: int, base: int, checked: bytes, fromOffset: int, records: list[StoredRecord]
) -> int:
    """
    Append the records of one batch; give the offset behind it.
    """
    attributes, lastDelta, first, greatest, _, _, _, count = _REST.unpack_from(checked)
    following: int = base + lastDelta + 1
    if attributes & _CONTROL:
        # The mark of a transaction's end is no record of anybody's.
        return following
    body = checked[_REST.size :]
    codec = attributes & _CODEC_BITS
    if codec:
        body = _inflate(codec, body)
    cursor = _Cursor(body)
    for _ in range(count):
        end = cursor.number() + cursor.position
        cursor.position += 1
        timestamp = greatest if attributes & _APPEND_TIME else first + cursor.number()
        if attributes & _APPEND_TIME:
            cursor.number()
        offset = base + cursor.number()
        key = cursor.string()
        value = cursor.string()
        headers = tuple((cursor.string().decode("utf-8", "replace"), cursor.string()) for _ in range(cursor.number()))
        if cursor.position != end:
            raise ValueError("a record's length is wrong")
        if offset >= fromOffset:
            records.append(StoredRecord(topic, partition, offset, timestamp, key, value, headers))
    return following


def _inflate(codec: int, body: bytes) -> bytes:
    if codec != 1:
        raise BadKafkaBytes(
            f"records compressed with {_CODECS.get(codec, f'codec {codec}')} cannot be read here; "
            "uncompressed and gzip can, or use kafka: instead of pykafka:"
        )
    inflater = zlib.decompressobj(wbits=31)
    inflated = inflater.decompress(body, MAX_INFLATED)
    if inflater.unconsumed_tail:
        raise ValueError(f"more than {MAX_INFLATED} bytes unpacked")
    return inflated


class _Cursor:
    """
    Reads a batch's records from front to end.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def number(self) -> int:
        """
        A zigzag varint of up to 64 bits.
        """
        data = self._data
        position = self.position
        byte = data[position]
        position += 1
        rest = byte & 0x7F
        shift = 7
        while byte & 0x80:
            if shift > 63:
                raise ValueError("a varint does not end")
            byte = data[position]
            position += 1
            rest |= (byte & 0x7F) << shift
            shift += 7
        self.position = position
        return (rest >> 1) ^ -(rest & 1)

    def string(self) -> bytes:
        """
        Bytes with their length before them; none stands for null.
        """
        length = self.number()
        if length < 0:
            if length < -1:
                raise ValueError("a negative length")
            return b""
        end = self.position + length
        if end > len(self._data):
            raise ValueError("a length beyond the end")
        found = self._data[self.position : end]
        self.position = end
        return found
