"""
Requests and responses of consumer groups, of the versions that Kafka 3.9 and Kafka 4 both take, on pykafka's protocol
classes: pykafka 2.8.0's own are of versions that Kafka 4 has dropped. And what members tell each other inside them.

Every response raises L{BadKafkaBytes} where its bytes cannot be read.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from binaryserver.bus.pykafka_import import Response, unpackFrom
from binaryserver.bus.pykafka_requests import BodyRequest, TopicPartition, byTopic, packArray, packString

PROTOCOL = "range"
"""The one assignor that is spoken here, as every other client does too."""
_PROTOCOL_TYPE = "consumer"
_KEEP = -1
"""Retention of offsets: the broker's."""


def _bytes(data: bytes) -> bytes:
    return struct.pack("!i", len(data)) + data


class Membership(NamedTuple):
    """
    Who is asking.

    @ivar group: its name
    @ivar generation: number of the assignment; -1 before the first
    @ivar member: the id that the broker gave; empty before the first
    """

    group: str
    generation: int = -1
    member: str = ""

    @property
    def packed(self) -> bytes:
        """
        As most requests have it.
        """
        return packString(self.group) + struct.pack("!i", self.generation) + packString(self.member)


class FindCoordinatorRequest(BodyRequest):
    """
    Which broker a group is led by (FindCoordinator 0).
    """

    API_KEY = 10

    def __init__(self, group: str) -> None:
        super().__init__(packString(group))


class FindCoordinatorResponse(Response):
    """
    @ivar error: code
    @ivar host: of the broker
    @ivar port: of the broker
    """

    API_KEY = 10

    def __init__(self, data: memoryview) -> None:
        self.error: int
        self.port: int
        self.error, _node, host, self.port = unpackFrom("h i S i", data)
        self.host = str(host, "utf-8")


class JoinGroupRequest(BodyRequest):
    """
    Come into a group, or come again after a change (JoinGroup 4). Answered once all members have come; but the first
    time at once, with an id to come again with, so that a member always has one to leave by.
    """

    API_KEY = 11
    API_VERSION = 4

    def __init__(self, who: Membership, topics: Collection[str], sessionMs: int, rebalanceMs: int) -> None:
        """
        @param sessionMs: ms without a heartbeat after which the member is dead
        @param rebalanceMs: ms that the broker waits for other members to come again
        """
        subscription = struct.pack("!h", 0) + packArray(map(packString, sorted(topics))) + _bytes(b"")
        super().__init__(
            packString(who.group)
            + struct.pack("!ii", sessionMs, rebalanceMs)
            + packString(who.member)
            + packString(_PROTOCOL_TYPE)
            + packArray([packString(PROTOCOL) + _bytes(subscription)])
        )


class JoinGroupResponse(Response):
    """
    @ivar error: code
    @ivar generation: number of the assignment to come
    @ivar isLeader: this member makes it
    @ivar member: this member's id
    @ivar topics: of every member, by its id; empty where this one does not lead
    """

    API_KEY = 11
    API_VERSION = 4

    def __init__(self, data: memoryview) -> None:
        self.error: int
        self.generation: int
        _throttle, self.error, self.generation, _protocol, leader, member, members = unpackFrom(
            "i h i S S S [S Y]", data
        )
        self.member = str(member, "utf-8")
        self.isLeader = leader == member and bool(member)
        self.topics: dict[str, list[str]] = {
            str(one, "utf-8"): [str(topic, "utf-8") for topic in unpackFrom("h [S]", subscription)[1]]
            for one, subscription in members
        }


class SyncGroupRequest(BodyRequest):
    """
    Ask for one's own partitions, and, as the leader, say everyone's (SyncGroup 0).
    """

    API_KEY = 14

    def __init__(self, who: Membership, assignments: Mapping[str, Collection[TopicPartition]]) -> None:
        """
        @param assignments: by the members' ids
        """
        super().__init__(
            who.packed
            + packArray(packString(member) + _bytes(packAssignment(places)) for member, places in assignments.items())
        )


def packAssignment(places: Collection[TopicPartition]) -> bytes:
    """
    A member's partitions, as members tell them each other.
    """
    topics = byTopic(dict.fromkeys(places))
    return (
        struct.pack("!h", 0)
        + packArray(
            packString(topic) + packArray(struct.pack("!i", number) for number, _ in numbers)
            for topic, numbers in topics.items()
        )
        + _bytes(b"")
    )


class SyncGroupResponse(Response):
    """
    @ivar error: code
    @ivar places: this member's partitions
    """

    API_KEY = 14

    def __init__(self, data: memoryview) -> None:
        self.error: int
        self.error, assignment = unpackFrom("h Y", data)
        topics = unpackFrom("h [S [i]]", assignment)[1] if assignment else []
        self.places = [TopicPartition(str(topic, "utf-8"), number) for topic, numbers in topics for number in numbers]


class HeartbeatRequest(BodyRequest):
    """
    Say that one lives (Heartbeat 0).
    """

    API_KEY = 12

    def __init__(self, who: Membership) -> None:
        super().__init__(who.packed)


class HeartbeatResponse(Response):
    """
    @ivar error: code; also that others have come or gone
    """

    API_KEY = 12

    def __init__(self, data: memoryview) -> None:
        self.error: int
        (self.error,) = unpackFrom("h", data)


class LeaveGroupRequest(BodyRequest):
    """
    Go (LeaveGroup 0).
    """

    API_KEY = 13

    def __init__(self, who: Membership) -> None:
        super().__init__(packString(who.group) + packString(who.member))


class LeaveGroupResponse(HeartbeatResponse):
    """
    @ivar error: code
    """

    API_KEY = 13


class OffsetCommitRequest(BodyRequest):
    """
    Keep offsets (OffsetCommit 2).
    """

    API_KEY = 8
    API_VERSION = 2

    def __init__(self, who: Membership, offsets: Mapping[TopicPartition, int]) -> None:
        topics = (
            packString(topic)
            + packArray(struct.pack("!iq", number, offset) + packString("") for number, offset in partitions)
            for topic, partitions in byTopic(offsets).items()
        )
        super().__init__(who.packed + struct.pack("!q", _KEEP) + packArray(topics))


class OffsetCommitResponse(Response):
    """
    @ivar errors: error code by partition
    """

    API_KEY = 8
    API_VERSION = 2

    def __init__(self, data: memoryview) -> None:
        topics = unpackFrom("[S [ih]]", data)
        self.errors: dict[TopicPartition, int] = {
            TopicPartition(str(topic, "utf-8"), number): error for topic, numbers in topics for number, error in numbers
        }


class OffsetFetchRequest(BodyRequest):
    """
    Ask for offsets that were kept (OffsetFetch 1).
    """

    API_KEY = 9
    API_VERSION = 1

    def __init__(self, group: str, places: Collection[TopicPartition]) -> None:
        topics = (
            packString(topic) + packArray(struct.pack("!i", number) for number, _ in numbers)
            for topic, numbers in byTopic(dict.fromkeys(places)).items()
        )
        super().__init__(packString(group) + packArray(topics))


class OffsetFetchResponse(Response):
    """
    @ivar partitions: error code and offset, -1 where none was kept, by partition
    """

    API_KEY = 9
    API_VERSION = 1

    def __init__(self, data: memoryview) -> None:
        topics = unpackFrom("[S [iqSh]]", data)
        self.partitions: dict[TopicPartition, tuple[int, int]] = {
            TopicPartition(str(topic, "utf-8"), number): (error, offset)
            for topic, numbers in topics
            for number, offset, _metadata, error in numbers
        }


GROUP_NEEDED: Sequence[tuple[type[Any], str]] = (
    (OffsetCommitRequest, "OffsetCommit"),
    (OffsetFetchRequest, "OffsetFetch"),
    (FindCoordinatorRequest, "FindCoordinator"),
    (JoinGroupRequest, "JoinGroup"),
    (HeartbeatRequest, "Heartbeat"),
    (LeaveGroupRequest, "LeaveGroup"),
    (SyncGroupRequest, "SyncGroup"),
)
"""As L{binaryserver.bus.pykafka_requests.NEEDED}."""


def rangeAssignment(
    members: Mapping[str, Collection[str]], partitions: Mapping[str, int]
) -> dict[str, list[TopicPartition]]:
    """
    Give each topic's partitions, in runs of about equal length, to those who read it, as Kafka's C{RangeAssignor} does.

    @param members: topics, by the members' ids
    @param partitions: how many each topic has; one that is not there has none
    """
    shares: dict[str, list[TopicPartition]] = {member: [] for member in members}
    for topic in sorted({topic for topics in members.values() for topic in topics}):
        readers = sorted(member for member, topics in members.items() if topic in topics)
        each, more = divmod(partitions.get(topic, 0), len(readers))
        first = 0
        for index, member in enumerate(readers):
            count = each + (index < more)
            shares[member] += [TopicPartition(topic, number) for number in range(first, first + count)]
            first += count
    return shares
