"""
Requests and responses of the versions that Kafka 3.9 and Kafka 4 both take, on pykafka's protocol classes.

pykafka 2.8.0 has Produce 0, Fetch 0 to 2, ListOffsets 0 (its 1 does not parse) and CreateTopics 0, all gone in Kafka 4,
and neither DescribeConfigs nor InitProducerId. Its Metadata 4 and ApiVersions 0 serve as they are.

Every response raises L{BadKafkaBytes} where its bytes cannot be read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from binaryserver.bus.pykafka_import import (
    ApiVersionsRequest,
    ApiVersionsResponse,
    MetadataRequestV4,
    MetadataResponseV4,
    Request,
    Response,
    unpackFrom,
)
from binaryserver.bus.pykafka_records import BadKafkaBytes

_T = TypeVar("_T")

_CLIENT_ID = b"binaryserver"


class TopicPartition(NamedTuple):
    """
    A partition of a topic.
    """

    topic: str
    partition: int


def parseWith(parse: Callable[[memoryview], _T], data: memoryview) -> _T:
    """
    Parse a response.

    @param parse: a response class, or another callable
    @raise BadKafkaBytes: it could not
    """
    try:
        return parse(data)
    except (struct.error, IndexError, ValueError, TypeError, AttributeError) as error:
        raise BadKafkaBytes(f"a broker's answer cannot be read: {error}") from error


def packString(text: str) -> bytes:
    """
    A string as Kafka has it.
    """
    encoded = text.encode()
    return struct.pack("!h", len(encoded)) + encoded


def packArray(items: Iterable[bytes]) -> bytes:
    """
    An array as Kafka has it, of items that are bytes already.
    """
    parts = list(items)
    return struct.pack("!i", len(parts)) + b"".join(parts)


def byTopic(partitions: Mapping[TopicPartition, _T]) -> dict[str, list[tuple[int, _T]]]:
    """
    What is known of partitions, sorted by their topics.
    """
    topics: dict[str, list[tuple[int, _T]]] = {}
    for (topic, partition), value in partitions.items():
        topics.setdefault(topic, []).append((partition, value))
    return topics


class _Named:
    """
    Our client id in pykafka's requests, for the broker's logs and quotas.
    """

    CLIENT_ID = _CLIENT_ID
    HEADER_LEN = 14 + len(_CLIENT_ID)


class BodyRequest(_Named, Request):
    """
    A request whose body is bytes already.
    """

    API_VERSION = 0

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __len__(self) -> int:
        return self.HEADER_LEN + len(self._body)

    def get_bytes(self) -> bytearray:
        """
        See pykafka's C{Request.get_bytes}.
        """
        output = bytearray(len(self))
        self._write_header(output, api_version=self.API_VERSION)
        output[self.HEADER_LEN :] = self._body
        return output


class VersionsRequest(_Named, ApiVersionsRequest):
    """
    Which requests the broker takes (ApiVersions 0).
    """


class VersionsResponse(ApiVersionsResponse):
    """
    @ivar api_versions: by API key: key, least and greatest version
    """

    api_versions: dict[int, tuple[int, int, int]]


class MetadataRequest(_Named, MetadataRequestV4):
    """
    Brokers, and partitions of topics with their leaders (Metadata 4). Never creates a topic.
    """

    def __init__(self, topics: Iterable[str]) -> None:
        super().__init__([topic.encode() for topic in topics], allow_topic_autocreation=False)

    def _topics_len(self) -> int:
        # pykafka takes none for all; here none is none.
        return len(self.topics)


class MetadataResponse(MetadataResponseV4):
    """
    @ivar brokers: by id: with C{host} and C{port}
    @ivar topics: by name: with C{err} and C{partitions}, by number, with C{leader}
    @ivar controller_id: the broker to ask for topics
    """

    brokers: dict[int, Any]
    topics: dict[bytes, Any]
    controller_id: int


class ProduceRequest(BodyRequest):
    """
    Append one batch to each of some partitions, acknowledged by all in-sync replicas (Produce 3).
    """

    API_KEY = 0
    API_VERSION = 3

    def __init__(self, batches: Mapping[TopicPartition, bytes], timeoutMs: int) -> None:
        """
        @param timeoutMs: ms that the leader may wait for the replicas
        """
        topics = (
            packString(topic)
            + packArray(struct.pack("!ii", partition, len(batch)) + batch for partition, batch in partitions)
            for topic, partitions in byTopic(batches).items()
        )
        # No transaction; acks -1: all in-sync replicas.
        super().__init__(struct.pack("!hhi", -1, -1, timeoutMs) + packArray(topics))


class ProduceResponse(Response):
    """
    @ivar errors: error code by partition
    """

    API_KEY = 0
    API_VERSION = 3

    def __init__(self, data: memoryview) -> None:
        topics, _throttle = unpackFrom("[S [ihqq]] i", data)
        self.errors = {
            TopicPartition(str(topic, "utf-8"), partition): error
            for topic, partitions in topics
            for partition, error, _offset, _appended in partitions
        }


class FetchRequest(BodyRequest):
    """
    Read on from offsets (Fetch 4).
    """

    API_KEY = 1
    API_VERSION = 4

    def __init__(
        self, offsets: Mapping[TopicPartition, int], waitMs: int, maxBytes: int, maxPartitionBytes: int
    ) -> None:
        """
        @param offsets: the first offset wanted, by partition; those that come first are served first
        @param waitMs: ms that the broker may wait for records
        @param maxBytes: bytes of all partitions together; one batch comes even where it is larger
        """
        topics = (
            packString(topic)
            + packArray(struct.pack("!iqi", partition, offset, maxPartitionBytes) for partition, offset in partitions)
            for topic, partitions in byTopic(offsets).items()
        )
        # Replica -1: a client. At least one byte. Isolation level 0: also what a transaction has not committed.
        super().__init__(struct.pack("!iiiib", -1, waitMs, 1, maxBytes, 0) + packArray(topics))


class FetchResponse(Response):
    """
    @ivar partitions: error code and bytes of record batches, by partition
    """

    API_KEY = 1
    API_VERSION = 4

    def __init__(self, data: memoryview) -> None:
        _throttle, topics = unpackFrom("i [S [ihqq [qq] Y]]", data)
        self.partitions: dict[TopicPartition, tuple[int, bytes]] = {
            TopicPartition(str(topic, "utf-8"), partition): (error, records or b"")
            for topic, partitions in topics
            for partition, error, _highWatermark, _stable, _aborted, records in partitions
        }


EARLIEST = -2
LATEST = -1


class ListOffsetsRequest(BodyRequest):
    """
    The offset of a partition's first record, or that behind its last (ListOffsets 1).
    """

    API_KEY = 2
    API_VERSION = 1

    def __init__(self, times: Mapping[TopicPartition, int]) -> None:
        """
        @param times: L{EARLIEST} or L{LATEST}, by partition
        """
        topics = (
            packString(topic) + packArray(struct.pack("!iq", partition, time) for partition, time in partitions)
            for topic, partitions in byTopic(times).items()
        )
        super().__init__(struct.pack("!i", -1) + packArray(topics))


class ListOffsetsResponse(Response):
    """
    @ivar partitions: error code and offset, by partition
    """

    API_KEY = 2
    API_VERSION = 1

    def __init__(self, data: memoryview) -> None:
        topics = unpackFrom("[S [ihqq]]", data)
        self.partitions: dict[TopicPartition, tuple[int, int]] = {
            TopicPartition(str(topic, "utf-8"), partition): (error, offset)
            for topic, partitions in topics
            for partition, error, _time, offset in partitions
        }


class CreateTopicsRequest(BodyRequest):
    """
    Make topics, with the broker's defaults (CreateTopics 2).
    """

    API_KEY = 19
    API_VERSION = 2

    def __init__(self, topics: Sequence[str], partitions: int, replication: int, timeoutMs: int) -> None:
        made = (packString(topic) + struct.pack("!ihii", partitions, replication, 0, 0) for topic in topics)
        super().__init__(packArray(made) + struct.pack("!ib", timeoutMs, 0))


class CreateTopicsResponse(Response):
    """
    @ivar errors: error code and the broker's words, by topic
    """

    API_KEY = 19
    API_VERSION = 2

    def __init__(self, data: memoryview) -> None:
        _throttle, topics = unpackFrom("i [S h S]", data)
        self.errors: dict[str, tuple[int, str]] = {
            str(topic, "utf-8"): (error, str(message or b"", "utf-8")) for topic, error, message in topics
        }


class InitProducerIdRequest(BodyRequest):
    """
    An id for an idempotent producer (InitProducerId 0).
    """

    API_KEY = 22
    API_VERSION = 0

    def __init__(self) -> None:
        # No transactional id, and so a timeout that nothing reads.
        super().__init__(struct.pack("!hi", -1, 1000))


class InitProducerIdResponse(Response):
    """
    @ivar error: code
    @ivar producerId: the id
    @ivar epoch: its epoch
    """

    API_KEY = 22
    API_VERSION = 0

    def __init__(self, data: memoryview) -> None:
        self.error: int
        self.producerId: int
        self.epoch: int
        _throttle, self.error, self.producerId, self.epoch = unpackFrom("ihqh", data)


class DescribeConfigsRequest(BodyRequest):
    """
    Some settings of topics (DescribeConfigs 1).
    """

    API_KEY = 32
    API_VERSION = 1

    def __init__(self, topics: Iterable[str], names: Sequence[str]) -> None:
        # Resource type 2: topic. No synonyms.
        wanted = (b"\x02" + packString(topic) + packArray(packString(name) for name in names) for topic in topics)
        super().__init__(packArray(wanted) + b"\0")


class DescribeConfigsResponse(Response):
    """
    @ivar settings: name and value of settings, by topic; none of topics that the broker does not let be described
    """

    API_KEY = 32
    API_VERSION = 1

    def __init__(self, data: memoryview) -> None:
        _throttle, resources = unpackFrom("i [h S b S [S S b b b [S S b]]]", data)
        self.settings: dict[str, dict[str, str]] = {
            str(topic, "utf-8"): {str(entry[0], "utf-8"): str(entry[1] or b"", "utf-8") for entry in entries}
            for error, _message, _type, topic, entries in resources
            if error == 0
        }


NEEDED: Sequence[tuple[type[Any], str]] = (
    (ProduceRequest, "Produce"),
    (FetchRequest, "Fetch"),
    (ListOffsetsRequest, "ListOffsets"),
    (MetadataRequest, "Metadata"),
    (CreateTopicsRequest, "CreateTopics"),
    (InitProducerIdRequest, "InitProducerId"),
    (DescribeConfigsRequest, "DescribeConfigs"),
)
"""The requests that are sent, but for those of groups, to be checked against what the broker takes."""


def missingVersions(versions: VersionsResponse, needed: Sequence[tuple[type[Any], str]]) -> list[str]:
    """
    The requests that a broker does not take, e.g. C{"Produce 3"}.
    """
    missing = []
    for request, name in needed:
        _key, least, greatest = versions.api_versions.get(request.API_KEY, (0, 1, 0))
        if not least <= request.API_VERSION <= greatest:
            missing.append(f"{name} {request.API_VERSION}")
    return missing
