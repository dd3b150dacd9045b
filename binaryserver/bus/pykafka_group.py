"""
A member's place in a consumer group: it joins, shares out if it is told to lead, says that it lives, keeps offsets, and
leaves. U{https://kafka.apache.org/protocol#The_Messages_JoinGroup} and those behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, TimeoutError, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.bus.pykafka_cluster import CONTROL_TIMEOUT, Cluster
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
    rangeAssignment,
)
from binaryserver.bus.pykafka_link import IBrokerLink, Sendable, reasonOf
from binaryserver.bus.pykafka_options import Address
from binaryserver.bus.pykafka_requests import TopicPartition
from binaryserver.errors import BusError, BusUnavailable

_T = TypeVar("_T")

SESSION = 10.0
"""s without a heartbeat after which the broker gives a member's partitions to others."""
REBALANCE = 10.0
"""s that the broker waits for the others when one comes or goes."""
HEARTBEAT = 0.5
"""s between heartbeats: how soon a change is learned of, and how soon offsets are kept."""
RETRY_WAIT = 0.2
"""s before a coordinator is asked again after a failure."""
LEAVE_TIMEOUT = 3.0
"""s that the keeping of offsets and the leaving may take together."""
NAMING = 1.0
"""s that a leaving member waits for its name, if it is being given one."""

_MEMBER_ID_REQUIRED = 79


class GroupVerdict(Enum):
    """
    What an error code of a coordinator means.
    """

    good = auto()
    retry = auto()
    moved = auto()
    changed = auto()
    forgotten = auto()
    refused = auto()


GROUP_VERDICTS: Mapping[int, GroupVerdict] = {
    0: GroupVerdict.good,
    7: GroupVerdict.retry,  # REQUEST_TIMED_OUT
    13: GroupVerdict.retry,  # NETWORK_EXCEPTION
    14: GroupVerdict.retry,  # COORDINATOR_LOAD_IN_PROGRESS
    3: GroupVerdict.retry,  # UNKNOWN_TOPIC_OR_PARTITION: a broker that has just come up
    15: GroupVerdict.moved,  # COORDINATOR_NOT_AVAILABLE
    16: GroupVerdict.moved,  # NOT_COORDINATOR
    _MEMBER_ID_REQUIRED: GroupVerdict.changed,
    27: GroupVerdict.changed,  # REBALANCE_IN_PROGRESS
    22: GroupVerdict.changed,  # ILLEGAL_GENERATION
    25: GroupVerdict.forgotten,  # UNKNOWN_MEMBER_ID
}
"""By error code; all others: refused."""


class GroupChanged(Exception):
    """
    Others have come or gone, or the group has gone on without this member: it has to join again.
    """


class GroupMember:
    """
    Takes part in a group until it leaves. It tells what it was given, or lost, by what it is handed at its making.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        cluster: Cluster,
        group: str,
        topics: Sequence[str],
        assigned: Callable[[Mapping[TopicPartition, int]], None],
        revoked: Callable[[], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """
        @param reactor: C{IReactorTime}
        @param assigned: called with the partitions and the offsets to begin with, -1 where none was kept
        @param revoked: called when none of them may be read any more
        @param failed: called when the member is of no more use
        """
        self._reactor = reactor
        self._cluster = cluster
        self._topics = tuple(topics)
        self._assigned = assigned
        self._revoked = revoked
        self._failed = failed
        self._who = Membership(group)
        self._held: frozenset[TopicPartition] = frozenset()
        self._noted: dict[TopicPartition, int] = {}
        self._link: IBrokerLink | None = None
        self._isAsking = False
        self._isLeaving = False
        self._alive = 0.0
        self._trouble = ""
        self._running: Deferred[None] = succeed(None)

    def start(self) -> None:
        """
        Begin.
        """
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(self._ended)

    def note(self, offsets: Mapping[TopicPartition, int]) -> None:
        """
        Keep offsets, of the partitions that it has, or had before a change that is under way, with the next heartbeat.
        """
        for place, offset in offsets.items():
            if place in self._held:
                self._noted[place] = offset

    async def leave(self) -> None:
        """
        Keep what was noted, and go.
        """
        self._isLeaving = True
        if self._isAsking and not self._who.member:
            # It is being named. Nobody could take back a name that was given and is not known here, and all would wait
            # for its bearer until its session is over.
            await self._running.addTimeout(NAMING, self._reactor)
        else:
            self._running.cancel()
        try:
            if self._who.member:
                if self._isAsking:
                    # Behind a join that waits for others nothing else would be answered.
                    self._drop()
                await Deferred.fromCoroutine(self._go()).addTimeout(LEAVE_TIMEOUT, self._reactor)
        except (BusError, GroupChanged, TimeoutError) as error:
            self.log.warn("consumer group {group} was not left in order: {reason}", group=self._who.group, reason=error)
        self._drop()

    async def _go(self) -> None:
        try:
            await self._keep()
        except GroupChanged as changed:
            self.log.info("consumer group {group}: {reason}", group=self._who.group, reason=changed)
        await self._ask(lambda: LeaveGroupRequest(self._who), LeaveGroupResponse)

    # The course of things.

    async def _run(self) -> None:
        while True:
            await self._persist(self._join)
            try:
                while True:
                    await deferLater(self._reactor, HEARTBEAT)
                    await self._persist(self._live)
            except GroupChanged:
                self._revoked()
                await self._keepLast()

    async def _persist(self, step: Callable[[], Any]) -> None:
        """
        Try a step again for as long as the coordinator is not available.
        """
        while True:
            try:
                await step()
            except BusUnavailable as error:
                self._drop()
                if not self._trouble:
                    self._trouble = str(error)
                    self.log.warn("consumer group {group}: {reason}", group=self._who.group, reason=error)
                await deferLater(self._reactor, RETRY_WAIT)
            else:
                self._trouble = ""
                return

    async def _join(self) -> None:
        while True:
            try:
                places, offsets = await self._enter()
            except GroupChanged:
                continue
            break
        self._held = frozenset(places)
        self._noted = {place: offset for place, offset in self._noted.items() if place in self._held}
        self._assigned({place: max(offset, self._noted.get(place, -1)) for place, offset in offsets.items()})

    async def _enter(self) -> tuple[Sequence[TopicPartition], Mapping[TopicPartition, int]]:
        topics = self._topics
        joined: JoinGroupResponse = await self._ask(
            lambda: JoinGroupRequest(self._who, topics, int(SESSION * 1000), int(REBALANCE * 1000)),
            JoinGroupResponse,
            REBALANCE + CONTROL_TIMEOUT,
        )
        if joined.error == _MEMBER_ID_REQUIRED:
            self._who = self._who._replace(member=joined.member)
            if self._isLeaving:
                raise CancelledError
        self._check(joined.error, "join")
        self._who = self._who._replace(member=joined.member, generation=joined.generation)
        shares: Mapping[str, Sequence[TopicPartition]] = {}
        if joined.isLeader:
            await self._cluster.lookup({topic for wanted in joined.topics.values() for topic in wanted})
            shares = rangeAssignment(joined.topics, self._cluster.partitions)
        synced: SyncGroupResponse = await self._ask(
            lambda: SyncGroupRequest(self._who, shares), SyncGroupResponse, REBALANCE + CONTROL_TIMEOUT
        )
        self._check(synced.error, "take its share")
        self._alive = self._reactor.seconds()
        places = synced.places
        return places, await self._kept(places)

    async def _kept(self, places: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        if not places:
            return {}
        fetched: OffsetFetchResponse = await self._ask(
            lambda: OffsetFetchRequest(self._who.group, places), OffsetFetchResponse
        )
        for error, _ in fetched.partitions.values():
            self._check(error, "learn its offsets")
        return {place: fetched.partitions.get(place, (0, -1))[1] for place in places}

    async def _live(self) -> None:
        """
        Keep what was noted, and say that one lives.
        """
        began = self._reactor.seconds()
        if began - self._alive > SESSION:
            # Others may have its partitions by now.
            raise GroupChanged("its session has run out")
        await self._keep()
        answer: HeartbeatResponse = await self._ask(lambda: HeartbeatRequest(self._who), HeartbeatResponse)
        self._check(answer.error, "stay")
        self._alive = began

    async def _keep(self) -> None:
        noted = dict(self._noted)
        if not noted:
            return
        answer: OffsetCommitResponse = await self._ask(
            lambda: OffsetCommitRequest(self._who, noted), OffsetCommitResponse
        )
        for error in answer.errors.values():
            self._check(error, "keep its offsets")
        for place, offset in noted.items():
            if self._noted.get(place) == offset:
                del self._noted[place]

    async def _keepLast(self) -> None:
        """
        Before others take its partitions.
        """
        try:
            await self._keep()
        except (BusUnavailable, GroupChanged):
            # Too late for that, unless they come back with the next assignment.
            return

    def _ended(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            return
        if not failure.check(BusError):
            self.log.failure("consumer group {group} is at fault", failure, group=self._who.group)
        self._revoked()
        self._failed(BusError(reasonOf(failure)))

    # The coordinator.

    def _check(self, error: int, what: str) -> None:
        verdict = GROUP_VERDICTS.get(error, GroupVerdict.refused)
        if verdict is GroupVerdict.good:
            return
        if verdict in (GroupVerdict.retry, GroupVerdict.moved):
            raise BusUnavailable(f"the coordinator does not let a member {what} now (Kafka's error {error})")
        if verdict is GroupVerdict.forgotten:
            self._who = Membership(self._who.group)
        if verdict in (GroupVerdict.changed, GroupVerdict.forgotten):
            raise GroupChanged(f"a member could not {what} (Kafka's error {error})")
        raise BusError(f"consumer group {self._who.group}: a member may not {what} (Kafka's error {error})")

    async def _ask(
        self, build: Callable[[], Sendable], parse: Callable[[memoryview], _T], timeout: float = CONTROL_TIMEOUT
    ) -> _T:
        if self._link is None:
            group = self._who.group
            found: FindCoordinatorResponse = await self._cluster.ask(
                lambda: FindCoordinatorRequest(group), FindCoordinatorResponse
            )
            self._check(found.error, "find it")
            self._link = self._cluster.open(Address(found.host, found.port))
        self._isAsking = True
        answer = await self._link.ask(build, parse, timeout)
        self._isAsking = False
        return answer

    def _drop(self) -> None:
        self._isAsking = False
        if self._link is not None:
            self._cluster.release(self._link)
            self._link = None
