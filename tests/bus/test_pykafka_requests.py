"""
L{binaryserver.bus.pykafka_requests} and L{binaryserver.bus.pykafka_reader.decodeFetch}: answers that cannot be read.
"""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.bus.pykafka_reader import decodeFetch
from binaryserver.bus.pykafka_records import BadKafkaBytes, Producer, encodeBatch
from binaryserver.bus.pykafka_requests import (
    CreateTopicsRequest,
    CreateTopicsResponse,
    DescribeConfigsRequest,
    DescribeConfigsResponse,
    FetchRequest,
    FetchResponse,
    InitProducerIdRequest,
    InitProducerIdResponse,
    ListOffsetsRequest,
    ListOffsetsResponse,
    MetadataRequest,
    MetadataResponse,
    ProduceRequest,
    ProduceResponse,
    TopicPartition,
    VersionsRequest,
    VersionsResponse,
    parseWith,
)
from binaryserver.model import Record

RESPONSES: tuple[Any, ...] = (
    CreateTopicsResponse,
    DescribeConfigsResponse,
    FetchResponse,
    InitProducerIdResponse,
    ListOffsetsResponse,
    MetadataResponse,
    ProduceResponse,
    VersionsResponse,
)

place = TopicPartition("topic", 4)


def fetchAnswer(error: int, batches: bytes, partition: int = 4) -> bytes:
    """
    An answer to a fetch of one partition.
    """
    return (
        struct.pack("!iih", 0, 1, 5)
        + b"topic"
        + struct.pack("!iihqqii", 1, partition, error, 9, 9, -1, len(batches))
        + batches
    )


class RequestTests(SynchronousTestCase):
    """
    Requests as bytes.
    """

    def test_headers(self) -> None:
        """
        Every request starts with its length, key, version, correlation id and our name.
        """
        requests: tuple[tuple[Any, int, int], ...] = (
            (ProduceRequest({place: b"batch"}, 1000), 0, 3),
            (FetchRequest({place: 7}, 400, 1000, 100), 1, 4),
            (ListOffsetsRequest({place: -1}), 2, 1),
            (MetadataRequest(["topic"]), 3, 4),
            (VersionsRequest(), 18, 0),
            (CreateTopicsRequest(["topic"], 3, 2, 1000), 19, 2),
            (InitProducerIdRequest(), 22, 0),
            (DescribeConfigsRequest(["topic"], ["a"]), 32, 1),
        )
        for request, key, version in requests:
            data = bytes(request.get_bytes())
            self.assertEqual(len(data), len(request))
            wanted = struct.pack("!ihhih", len(data) - 4, key, version, 0, 12) + b"binaryserver"
            self.assertEqual(data[: len(wanted)], wanted)

    def test_produce(self) -> None:
        """
        Partitions of one topic stand together.
        """
        batches = {TopicPartition("a", 1): b"x", TopicPartition("b", 0): b"yy", TopicPartition("a", 2): b"z"}
        body = bytes(ProduceRequest(batches, 1000).get_bytes())[26:]
        self.assertEqual(
            body,
            struct.pack("!hhii", -1, -1, 1000, 2)
            + b"\0\x01a"
            + struct.pack("!iii", 2, 1, 1)
            + b"x"
            + struct.pack("!ii", 2, 1)
            + b"z"
            + b"\0\x01b"
            + struct.pack("!iii", 1, 0, 2)
            + b"yy",
        )

    def test_metadataOfNone(self) -> None:
        """
        No topics are none, not all.
        """
        self.assertEqual(bytes(MetadataRequest([]).get_bytes())[26:], b"\0\0\0\0\0")


class ResponseTests(SynchronousTestCase):
    """
    Answers as bytes.
    """

    @settings(max_examples=300)
    @given(st.sampled_from(RESPONSES), st.binary(max_size=200))
    def test_garbage(self, response: Any, data: bytes) -> None:
        """
        Any bytes give an answer of that kind or a typed error.
        """
        try:
            answer = parseWith(response, memoryview(data))
        except BadKafkaBytes:
            return
        self.assertIsInstance(answer, response)

    @given(st.data())
    def test_truncatedFetch(self, data: st.DataObject) -> None:
        """
        An answer to a fetch that is cut off anywhere is a typed error.
        """
        whole = fetchAnswer(0, encodeBatch([Record(b"k", b"v")] * 3, 5, Producer()))
        cut = data.draw(st.integers(0, len(whole) - 1))
        self.assertRaises(
            BadKafkaBytes, parseWith, lambda answer: decodeFetch(answer, {place: 0}), memoryview(whole[:cut])
        )

    @settings(max_examples=200)
    @given(st.data())
    def test_damagedFetch(self, data: st.DataObject) -> None:
        """
        An answer to a fetch with any byte changed gives records of that partition or a typed error.
        """
        whole = bytearray(fetchAnswer(0, encodeBatch([Record(b"k", b"v")] * 3, 5, Producer())))
        where = data.draw(st.integers(0, len(whole) - 1))
        whole[where] ^= data.draw(st.integers(1, 255))
        try:
            fetched = parseWith(lambda answer: decodeFetch(answer, {place: 0}), memoryview(bytes(whole)))
        except BadKafkaBytes:
            return
        self.assertLessEqual(set(fetched), {place})
        self.assertTrue(all(record.value == b"v" for record in fetched[place].records) if fetched else True)

    def test_fetch(self) -> None:
        """
        A fetch gives records and the offset to go on from; or the broker's error and the offset asked for.
        """
        batch = encodeBatch([Record(b"k", b"v")] * 3, 5, Producer())
        fetched = decodeFetch(memoryview(fetchAnswer(0, batch)), {place: 1})[place]
        self.assertEqual((fetched.error, [one.offset for one in fetched.records], fetched.following), (0, [1, 2], 3))
        fetched = decodeFetch(memoryview(fetchAnswer(6, b"")), {place: 1})[place]
        self.assertEqual(fetched, (6, [], 1))

    def test_fetchOfAnother(self) -> None:
        """
        A partition that was not asked for is a typed error.
        """
        self.assertRaises(BadKafkaBytes, decodeFetch, memoryview(fetchAnswer(0, b"", 5)), {place: 0})

    def test_fetchedNull(self) -> None:
        """
        Null for records is none.
        """
        answer = fetchAnswer(0, b"")[:-4] + struct.pack("!i", -1)
        self.assertEqual(decodeFetch(memoryview(answer), {place: 8})[place], (0, [], 8))
