"""
L{binaryserver.bus.pykafka_records}: batches to bytes and back.
"""

from __future__ import annotations

import struct
import zlib

import google_crc32c
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.bus.pykafka_records import (
    MAX_INFLATED,
    BadKafkaBytes,
    Producer,
    decodeBatches,
    encodeBatch,
    recordSize,
    varint,
)
from binaryserver.model import Record, StoredRecord

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
records = st.lists(
    st.builds(
        Record,
        st.binary(max_size=40),
        st.binary(max_size=300),
        st.lists(st.tuples(text, st.binary(max_size=40)), max_size=4).map(tuple),
    ),
    min_size=1,
    max_size=30,
)


def sealed(batch: bytes, attributes: int | None = None, body: bytes | None = None, magic: int = 2) -> bytes:
    """
    A batch changed, with length and checksum put right.
    """
    checked = bytearray(batch[21:])
    if attributes is not None:
        checked[:2] = struct.pack("!h", attributes)
    if body is not None:
        checked[40:] = body
    crc: int = google_crc32c.value(bytes(checked))
    return batch[:8] + struct.pack("!iibI", len(checked) + 9, -1, magic, crc) + bytes(checked)


class EncodeTests(SynchronousTestCase):
    """
    L{encodeBatch}.
    """

    def test_layout(self) -> None:
        """
        One record, byte for byte as the protocol guide lays it out.
        """
        batch = encodeBatch([Record(b"key", b"value", (("h", b"x"),))], 0x0102030405060708, Producer(7, 1, 9))
        self.assertEqual(batch[:8], bytes(8), "base offset")
        self.assertEqual(batch[8:12], struct.pack("!i", len(batch) - 12), "length")
        self.assertEqual(batch[12:17], b"\xff\xff\xff\xff\x02", "leader epoch, magic")
        self.assertEqual(batch[17:21], struct.pack("!I", google_crc32c.value(batch[21:])), "checksum")
        self.assertEqual(batch[21:27], bytes(6), "attributes, last offset delta")
        self.assertEqual(batch[27:43], bytes(range(1, 9)) * 2, "timestamps")
        self.assertEqual(batch[43:61], struct.pack("!qhii", 7, 1, 9, 1), "producer, count")
        self.assertEqual(batch[61:], b"\x24\x00\x00\x00\x06key\x0avalue\x02\x02h\x02x")

    def test_varint(self) -> None:
        """
        Zigzag, as in protobuf's sint64.
        """
        for number, wanted in ((0, "00"), (-1, "01"), (1, "02"), (63, "7e"), (64, "8001"), (-65, "8101")):
            self.assertEqual(varint(number).hex(), wanted)
        self.assertEqual(varint(2**63 - 1).hex(), "fe" + "ff" * 8 + "01")

    def test_recordSize(self) -> None:
        """
        Key, value and headers count.
        """
        self.assertEqual(recordSize(Record(b"ab", b"cde", (("f", b"gh"),))), 8)


class DecodeTests(SynchronousTestCase):
    """
    L{decodeBatches}.
    """

    @given(st.lists(records, min_size=1, max_size=4), st.integers(0, 2**41))
    def test_roundTrip(self, batches: list[list[Record]], nowMs: int) -> None:
        """
        What was encoded is decoded, over several batches.
        """
        data = b""
        base = 0
        wanted = []
        for batch in batches:
            data += struct.pack("!q", base) + encodeBatch(batch, nowMs, Producer())[8:]
            wanted += [StoredRecord("t", 3, base + n, nowMs, *record) for n, record in enumerate(batch)]
            base += len(batch)
        self.assertEqual(decodeBatches("t", 3, data, 0), (wanted, base))
        middle = base // 2
        self.assertEqual(decodeBatches("t", 3, data, middle), (wanted[middle:], base))

    @given(records, st.data())
    def test_truncated(self, batch: list[Record], data: st.DataObject) -> None:
        """
        A batch that is cut off is left for the next time.
        """
        encoded = encodeBatch(batch, 5, Producer())
        cut = data.draw(st.integers(0, len(encoded) - 1))
        second = struct.pack("!q", len(batch)) + encoded[8:cut] if cut >= 8 else encoded[:cut]
        found, following = decodeBatches("t", 0, encoded + second, 0)
        self.assertEqual(([one.value for one in found], following), ([one.value for one in batch], len(batch)))

    @settings(max_examples=300)
    @given(records, st.data())
    def test_bitFlips(self, batch: list[Record], data: st.DataObject) -> None:
        """
        Behind the offset and length, no changed byte goes unnoticed but in the leader's epoch, which nobody reads.
        """
        encoded = bytearray(encodeBatch(batch, 5, Producer()))
        where = data.draw(st.integers(16, len(encoded) - 1))
        encoded[where] ^= data.draw(st.integers(1, 255))
        self.assertRaises(BadKafkaBytes, decodeBatches, "t", 0, bytes(encoded), 0)

    @settings(max_examples=300)
    @given(st.binary(max_size=300))
    def test_garbage(self, data: bytes) -> None:
        """
        Any bytes give records or a typed error.
        """
        try:
            found, following = decodeBatches("t", 0, data, 0)
        except BadKafkaBytes:
            return
        self.assertEqual((found, following), ([], 0))

    @settings(max_examples=300)
    @given(st.binary(max_size=100), st.integers(-3, 100))
    def test_garbageWithGoodChecksum(self, body: bytes, count: int) -> None:
        """
        A sealed batch with any bytes in place of records gives a typed error, or records that fit into these bytes.
        """
        head = encodeBatch([Record(b"", b"")], 5, Producer())
        head = head[:57] + struct.pack("!i", count) + head[61:]
        try:
            found, _ = decodeBatches("t", 0, sealed(head, body=body), -(2**62))
        except BadKafkaBytes:
            return
        self.assertEqual(len(found), max(count, 0))
        self.assertLessEqual(sum(len(one.key) + len(one.value) for one in found), len(body))

    def test_controlBatch(self) -> None:
        """
        A transaction's end mark is passed over.
        """
        encoded = sealed(encodeBatch([Record(b"\0\0\0\0", b"")], 5, Producer()), attributes=0x20)
        self.assertEqual(decodeBatches("t", 0, encoded, 0), ([], 1))

    def test_appendTime(self) -> None:
        """
        Where the broker stamps records, its time counts.
        """
        encoded = bytearray(encodeBatch([Record(b"k", b"v")], 5, Producer()))
        encoded[35:43] = struct.pack("!q", 99)
        found, _ = decodeBatches("t", 0, sealed(bytes(encoded), attributes=0x08), 0)
        self.assertEqual(found[0].timestamp, 99)

    def test_gzip(self) -> None:
        """
        Batches compressed with gzip are read.
        """
        encoded = encodeBatch([Record(b"k", b"v" * 100)], 5, Producer())
        squeezed = sealed(encoded, attributes=1, body=zlib.compress(encoded[61:], wbits=31))
        self.assertEqual(decodeBatches("t", 0, squeezed, 0), decodeBatches("t", 0, encoded, 0))

    def test_gzipBroken(self) -> None:
        """
        What is not gzip, ends too early or unpacks to too much is a typed error.
        """
        encoded = encodeBatch([Record(b"k", b"v" * 100)], 5, Producer())
        whole = zlib.compress(encoded[61:], wbits=31)
        for body in (b"", b"no gzip", whole[:-20], zlib.compress(bytes(MAX_INFLATED + 1), wbits=31)):
            self.assertRaises(BadKafkaBytes, decodeBatches, "t", 0, sealed(encoded, attributes=1, body=body), 0)

    def test_otherCodecs(self) -> None:
        """
        A codec that is not read here is named.
        """
        encoded = encodeBatch([Record(b"k", b"v")], 5, Producer())
        for codec, name in ((2, "snappy"), (3, "lz4"), (4, "zstd"), (7, "codec 7")):
            error = self.assertRaises(BadKafkaBytes, decodeBatches, "t", 0, sealed(encoded, attributes=codec), 0)
            self.assertIn(name, str(error))

    def test_oldFormat(self) -> None:
        """
        Records of before Kafka 0.11 are named as such.
        """
        encoded = sealed(encodeBatch([Record(b"k", b"v")], 5, Producer()), magic=1)
        error = self.assertRaises(BadKafkaBytes, decodeBatches, "t", 0, encoded, 0)
        self.assertIn("format 1", str(error))
