"""
L{binaryserver.bus.pykafka_group}, L{binaryserver.bus.pykafka_consumer} and their requests, on a Kafka without sockets.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.bus.pykafka_grouprequests import (
    FindCoordinatorRequest,
    FindCoordinatorResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    JoinGroupRequest,
    JoinGroupResponse,
    LeaveGroupRequest,
    LeaveGroupResponse,
    Membership,
    OffsetCommitRequest,
    OffsetCommitResponse,
    OffsetFetchRequest,
    OffsetFetchResponse,
    SyncGroupRequest,
    SyncGroupResponse,
    packAssignment,
    rangeAssignment,
)
from binaryserver.bus.pykafka_options import Address
from binaryserver.bus.pykafka_records import BadKafkaBytes
from binaryserver.bus.pykafka_requests import TopicPartition, parseWith
from binaryserver.errors import BusError
from binaryserver.interfaces import IBusConsumer
from tests.bus.pykafkarig import Rig, watch

RESPONSES: tuple[Any, ...] = (
    FindCoordinatorResponse,
    HeartbeatResponse,
    JoinGroupResponse,
    LeaveGroupResponse,
    OffsetCommitResponse,
    OffsetFetchResponse,
    SyncGroupResponse,
)

ZERO, ONE = TopicPartition("t", 0), TopicPartition("t", 1)


class RequestTests(SynchronousTestCase):
    """
    Requests and answers as bytes.
    """

    def test_requests(self) -> None:
        """
        Every request has the key and the version that it says, and these bytes behind its header.
        """
        who = Membership("g", 7, "m")
        packed = b"\0\x01g\0\0\0\x07\0\x01m"
        place = b"\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\x01"
        subscription = b"\0\0\0\0\0\x02\0\x01a\0\x01t\0\0\0\0"
        requests: tuple[tuple[Any, int, int, bytes], ...] = (
            (FindCoordinatorRequest("g"), 10, 0, b"\0\x01g"),
            (
                JoinGroupRequest(who, ["t", "a"], 10_000, 9000),
                11,
                4,
                b"\0\x01g\0\0\x27\x10\0\0\x23\x28\0\x01m\0\x08consumer\0\0\0\x01\0\x05range"
                + struct.pack("!i", len(subscription))
                + subscription,
            ),
            (
                SyncGroupRequest(who, {"m": [ONE]}),
                14,
                0,
                packed + b"\0\0\0\x01\0\x01m" + struct.pack("!i", 2 + len(place) + 4) + b"\0\0" + place + b"\0\0\0\0",
            ),
            (HeartbeatRequest(who), 12, 0, packed),
            (LeaveGroupRequest(who), 13, 0, b"\0\x01g\0\x01m"),
            (OffsetCommitRequest(who, {ONE: 5}), 8, 2, packed + b"\xff" * 8 + place + b"\0" * 7 + b"\x05\0\0"),
            (OffsetFetchRequest("g", [ONE]), 9, 1, b"\0\x01g" + place),
        )
        for request, key, version, body in requests:
            data = bytes(request.get_bytes())
            self.assertEqual(data[:8], struct.pack("!ihh", len(data) - 4, key, version))
            self.assertEqual(data[26:], body, type(request).__name__)

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

    @given(st.dictionaries(st.text("abc", min_size=1), st.sets(st.integers(0, 99), min_size=1), max_size=5))
    def test_assignment(self, topics: dict[str, set[int]]) -> None:
        """
        A member gets the partitions that the leader said.
        """
        places = [TopicPartition(topic, number) for topic, numbers in topics.items() for number in sorted(numbers)]
        assignment = packAssignment(places)
        answer = parseWith(SyncGroupResponse, memoryview(struct.pack("!hi", 0, len(assignment)) + assignment))
        self.assertEqual(answer.places, places)

    def test_noAssignment(self) -> None:
        """
        A member for which there is no partition is given nothing, or none.
        """
        for answer in (b"\0\0\0\0\0\0", b"\0\0\xff\xff\xff\xff"):
            self.assertEqual(parseWith(SyncGroupResponse, memoryview(answer)).places, [])

    @given(
        st.dictionaries(st.sampled_from("pqrstu"), st.sets(st.sampled_from("abcd")), min_size=1),
        st.fixed_dictionaries(dict.fromkeys("abc", st.integers(0, 12))),
    )
    def test_range(self, members: Mapping[str, set[str]], partitions: Mapping[str, int]) -> None:
        """
        Every partition of a topic that somebody reads goes to one of those who read it, in runs that differ by one at
        most; a topic that is not there has none.
        """
        shares = rangeAssignment(members, partitions)
        self.assertEqual(set(shares), set(members))
        for topic in "abcd":
            readers = [member for member in members if topic in members[member]]
            own = {member: [place.partition for place in shares[member] if place.topic == topic] for member in members}
            given = sorted(number for numbers in own.values() for number in numbers)
            self.assertEqual(given, list(range(partitions.get(topic, 0))) if readers else [])
            for numbers in own.values():
                self.assertEqual(numbers, list(range(numbers[0], numbers[0] + len(numbers))) if numbers else [])
            counts = [len(own[member]) for member in readers]
            self.assertLessEqual(max(counts, default=0) - min(counts, default=0), 1)

    def test_asJava(self) -> None:
        """
        The first members get one more, as in Kafka's own C{RangeAssignor}.
        """
        shares = rangeAssignment({"m2": ["t"], "m1": ["t"]}, {"t": 3})
        self.assertEqual([place.partition for place in shares["m1"]], [0, 1])
        self.assertEqual([place.partition for place in shares["m2"]], [2])


class ConsumerTests(SynchronousTestCase):
    """
    What a member does when something goes wrong. Topic C{t} has two partitions.
    """

    def opened(self, rig: Rig, seconds: float = 0.5) -> IBusConsumer:
        """
        A member of group C{g}.
        """
        results = watch(rig.bus.openConsumer(["t"], "g"))
        rig.run(seconds)
        consumer: IBusConsumer = results[0]
        return consumer

    def read(self, rig: Rig, consumer: IBusConsumer, seconds: float = 1.2) -> list[bytes]:
        """
        The values of one read.
        """
        results = watch(consumer.read(100))
        rig.run(seconds)
        self.assertEqual(len(results), 1)
        return sorted(record.value for record in results[0])

    def rig(self) -> Rig:
        """
        With two records in either partition.
        """
        rig = Rig([1, 2]).started()
        for partition in (0, 1):
            rig.publish(b"%da" % partition, b"%db" % partition, partition=partition)
        rig.run(1)
        return rig

    def readAll(self, rig: Rig, consumer: IBusConsumer) -> list[bytes]:
        """
        The values of two reads: the partitions have different leaders.
        """
        return sorted(self.read(rig, consumer) + self.read(rig, consumer))

    def test_commitIsKept(self) -> None:
        """
        What is committed is kept with the next heartbeat; what is not this member's, never.
        """
        rig = self.rig()
        consumer = self.opened(rig)
        self.assertEqual(self.readAll(rig, consumer), [b"0a", b"0b", b"1a", b"1b"])
        self.assertEqual(watch(consumer.commit({ZERO: 1, ("other", 0): 9, ("t", 7): 3})), [None])
        rig.run(0.6)
        self.assertEqual(rig.kafka.groups.offsets("g"), {ZERO: 1})

    def test_coordinatorMoves(self) -> None:
        """
        Another broker that leads the group is found and gone on with; nothing comes twice, nor is a commit lost.
        """
        rig = self.rig()
        consumer = self.opened(rig)
        self.readAll(rig, consumer)
        rig.kafka.groups.coordinator = 2
        consumer.commit({ZERO: 2})
        rig.run(1.5)
        self.assertEqual(rig.kafka.groups.offsets("g"), {ZERO: 2})
        self.assertEqual(self.read(rig, consumer), [])

    def test_forgotten(self) -> None:
        """
        A member that the broker has thrown out joins again, and begins behind what it has committed, whether the broker
        knew of that already or not.
        """
        rig = self.rig()
        consumer = self.opened(rig)
        self.readAll(rig, consumer)
        rig.kafka.groups.forget("g")
        consumer.commit({ZERO: 2, ONE: 1})
        rig.run(1.5)
        self.assertEqual(rig.kafka.groups.members("g"), 1)
        self.assertEqual(self.readAll(rig, consumer), [b"1b"])
        rig.run(0.6)
        self.assertEqual(rig.kafka.groups.offsets("g"), {ZERO: 2, ONE: 1})

    def test_deadMember(self) -> None:
        """
        A member that says nothing any more loses its share once its session is over, to one that waits for it.
        """
        rig = self.rig()
        ghost = rig.kafka.makeLink(Address("one", 9092))
        joined: list[Any] = []
        for _ in range(2):
            who = Membership("g", -1, joined[0].member if joined else "")
            joined = watch(ghost.ask(lambda who=who: JoinGroupRequest(who, ["t"], 10_000, 9000), JoinGroupResponse, 5))  # type: ignore[misc]
            rig.run(0.1)
        self.assertTrue(joined[0].isLeader)
        consumer = self.opened(rig)
        self.assertEqual(self.read(rig, consumer), [])
        rig.run(6)
        self.assertEqual(self.read(rig, consumer), [])
        rig.run(2)
        self.assertEqual(self.readAll(rig, consumer), [b"0a", b"0b", b"1a", b"1b"])

    def test_shares(self) -> None:
        """
        Two members have one partition each; one that goes leaves its own to the other, behind what was committed.
        """
        rig = self.rig()
        first = self.opened(rig)
        second = self.opened(rig, 2.0)
        self.assertEqual(self.read(rig, first), [b"0a", b"0b"])
        self.assertEqual(self.read(rig, second), [b"1a", b"1b"])
        self.assertEqual(watch(first.commit({ZERO: 1, ONE: 2})), [None])
        self.assertEqual(watch(first.close()), [])
        rig.run(1.5)
        self.assertEqual(rig.kafka.groups.offsets("g"), {ZERO: 1})
        self.assertEqual(self.readAll(rig, second), [b"0b", b"1a", b"1b"])

    def test_brokersAway(self) -> None:
        """
        While no broker is there a read gives nothing and does not fail; once they are back the member goes on.
        """
        rig = self.rig()
        consumer = self.opened(rig)
        self.readAll(rig, consumer)
        consumer.commit({ZERO: 2, ONE: 2})
        rig.kafka.down = {1, 2}
        for _ in range(3):
            self.assertEqual(self.read(rig, consumer), [])
        rig.kafka.down = set()
        rig.publish(b"0c")
        rig.run(1)
        self.assertEqual(self.readAll(rig, consumer), [b"0c"])
        self.assertEqual(rig.kafka.groups.offsets("g"), {ZERO: 2, ONE: 2})

    def test_coordinatorAwayForLong(self) -> None:
        """
        A member that cannot say that it lives stops reading once its session is over, as others may have its share; it
        comes again when it can.
        """
        rig = self.rig()
        consumer = self.opened(rig)
        self.readAll(rig, consumer)
        rig.kafka.groups.coordinator = 2
        rig.kafka.leaders["t"] = [1, 1]
        rig.kafka.down = {2}
        rig.publish(b"0c")
        rig.run(5)
        self.assertEqual(self.read(rig, consumer), [b"0c"])
        rig.run(7)
        rig.publish(b"0d")
        rig.run(1)
        self.assertEqual(self.read(rig, consumer), [])
        rig.kafka.down = set()
        rig.run(2)
        self.assertIn(b"0d", self.readAll(rig, consumer))

    def test_refused(self) -> None:
        """
        What the broker does not allow fails the read, and all after it.
        """
        rig = self.rig()
        consumer = self.opened(rig)
        self.readAll(rig, consumer)
        reading = watch(consumer.read(10))
        rig.kafka.groups.errors = [30]
        rig.run(1)
        self.assertIsInstance(reading[0], BusError)
        self.assertIn("error 30", str(reading[0]))
        for again in (watch(consumer.read(10)), watch(consumer.commit({ZERO: 1}))):
            self.assertIsInstance(again[0], BusError)
        stopped = watch(rig.bus.stop())
        rig.run(1)
        self.assertEqual(stopped, [None])

    def test_unreadable(self) -> None:
        """
        Records that cannot be read fail the read.
        """
        rig = self.rig()
        rig.kafka.corrupt("t", 0)
        consumer = self.opened(rig)
        errors = []
        for _ in range(3):
            results = watch(consumer.read(10))
            rig.run(1)
            errors += [result for result in results if isinstance(result, BusError)]
        self.assertNotEqual(errors, [])

    def test_partitionWithoutLeader(self) -> None:
        """
        A partition without a leader does not hold up the other for longer than it takes to see; it is read once it has
        one.
        """
        rig = self.rig()
        consumer = self.opened(rig)
        self.readAll(rig, consumer)
        consumer.commit({ZERO: 2, ONE: 2})
        rig.run(0.6)
        rig.kafka.leaders["t"][1] = -1
        rig.kafka.groups.forget("g")
        rig.publish(b"0c")
        rig.run(2)
        self.assertEqual(self.readAll(rig, consumer), [b"0c"])
        rig.kafka.leaders["t"][1] = 1
        rig.publish(b"1c", partition=1)
        rig.run(2)
        self.assertIn(b"1c", self.readAll(rig, consumer))

    def test_closeDuringJoin(self) -> None:
        """
        A member that waits for others to come leaves the group at once when it is closed; nothing is left to be called.
        """
        rig = self.rig()
        first = self.opened(rig)
        self.read(rig, first)
        second = self.opened(rig, 0.05)
        reading = watch(second.read(10))
        closed = watch(second.close())
        self.assertEqual(reading, [[]])
        rig.run(0.1)
        self.assertEqual(closed, [None])
        self.assertEqual(rig.kafka.groups.members("g"), 1)
        watch(rig.bus.stop())
        rig.run(1)
        self.assertEqual(rig.clock.getDelayedCalls(), [])

    def test_closeLeavesNothing(self) -> None:
        """
        After a stop nothing of a member is left to be called, wherever it stood and whether a broker is there or not.
        """
        for seconds in (0.02, 0.03, 0.04, 0.05, 0.005, 0.01, 0.3, 1.0):
            for down in (set(), {1, 2}):
                rig = self.rig()
                consumer = self.opened(rig, seconds)
                reading = watch(consumer.read(10))
                rig.kafka.down = down
                rig.run(0.25)
                stopped = watch(rig.bus.stop())
                rig.run(20)
                self.assertEqual(len(reading), 1)
                self.assertEqual(stopped, [None])
                self.assertEqual(rig.clock.getDelayedCalls(), [], (seconds, down))
                if not down:
                    self.assertEqual(rig.kafka.groups.members("g"), 0, seconds)
