"""
The consumer groups of a L{tests.bus.fakekafka.FakeKafka}.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from enum import Enum, auto
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall

from binaryserver.bus.pykafka_import import unpackFrom
from binaryserver.bus.pykafka_options import Address
from binaryserver.bus.pykafka_requests import TopicPartition, packArray, packString

OFFSET_COMMIT, OFFSET_FETCH, FIND_COORDINATOR, JOIN, HEARTBEAT, LEAVE, SYNC = 8, 9, 10, 11, 12, 13, 14

NOT_COORDINATOR, ILLEGAL_GENERATION, UNKNOWN_MEMBER, REBALANCING, MEMBER_ID_REQUIRED = 16, 22, 25, 27, 79


def _bytes(data: bytes) -> bytes:
    return struct.pack("!i", len(data)) + data


class _State(Enum):
    """
    Of a group: members come, the leader makes the assignment, all have it.
    """

    joining = auto()
    syncing = auto()
    stable = auto()


class _Member:
    # What is known of one: what it subscribes to, what it waits for, and what it was given.
    def __init__(self) -> None:
        self.subscription = b""
        self.assignment = b""
        self.joining: Deferred[bytes] | None = None
        self.syncing: Deferred[bytes] | None = None
        self.session = 0.0
        self.death: IDelayedCall | None = None


class _Group:
    # What is known of one, and the offsets that it keeps.
    def __init__(self) -> None:
        self.state = _State.joining
        self.generation = 0
        self.members: dict[str, _Member] = {}
        self.pending: set[str] = set()
        self.offsets: dict[TopicPartition, int] = {}


class FakeGroups:
    """
    Takes the requests of groups.

    @ivar coordinator: id of the broker that leads all of them
    @ivar errors: error codes for the heartbeats to come, in order, instead of taking them; then none
    """

    def __init__(self, clock: Any, brokers: dict[int, Address]) -> None:
        """
        @param clock: C{IReactorTime}
        @param brokers: by id
        """
        self.coordinator = 1
        self.errors: list[int] = []
        self._clock = clock
        self._brokers = brokers
        self._groups: dict[str, _Group] = {}
        self._count = 0

    def offsets(self, group: str) -> dict[TopicPartition, int]:
        """
        What a group keeps.
        """
        return self._groups[group].offsets

    def members(self, group: str) -> int:
        """
        How many a group has, those included that were named and have not come yet.
        """
        return len(self._groups[group].members) + len(self._groups[group].pending)

    def forget(self, group: str) -> None:
        """
        Throw all members out.
        """
        for member in list(self._groups[group].members):
            self._remove(self._groups[group], member)

    def take(self, broker: int, key: int, body: memoryview) -> Deferred[bytes]:
        """
        Take a request; fires with the answer's bytes.
        """
        takers: dict[int, Callable[[int, memoryview], Deferred[bytes]]] = {
            OFFSET_COMMIT: self._commit,
            OFFSET_FETCH: self._fetch,
            FIND_COORDINATOR: self._find,
            JOIN: self._join,
            HEARTBEAT: self._heartbeat,
            LEAVE: self._leave,
            SYNC: self._sync,
        }
        foreign = 0 if broker == self.coordinator else NOT_COORDINATOR
        return takers[key](foreign, body)

    def _find(self, _foreign: int, body: memoryview) -> Deferred[bytes]:
        address = self._brokers[self.coordinator]
        return succeed(
            struct.pack("!hi", 0, self.coordinator) + packString(address.host) + struct.pack("!i", address.port)
        )

    def _check(self, foreign: int, name: bytes, generation: int, member: bytes) -> int:
        group = self._groups.setdefault(name.decode(), _Group())
        known = group.members.get(member.decode())
        if foreign:
            return foreign
        if known is None:
            return UNKNOWN_MEMBER
        self._live(group, member.decode())
        return 0 if generation == group.generation else ILLEGAL_GENERATION

    # Coming and going.

    def _join(self, foreign: int, body: memoryview) -> Deferred[bytes]:
        name, session, _rebalance, member, kind, protocols = unpackFrom("S i i S S [S Y]", body)
        assert (kind, protocols[0][0]) == (b"consumer", b"range")
        group = self._groups.setdefault(name.decode(), _Group())
        who = member.decode()
        if not who:
            self._count += 1
            who = f"member-{self._count}"
            group.pending.add(who)
            return succeed(self._joined(foreign or MEMBER_ID_REQUIRED, 0, "", who, ()))
        if foreign or who not in group.members.keys() | group.pending:
            return succeed(self._joined(foreign or UNKNOWN_MEMBER, 0, "", who, ()))
        if who in group.pending:
            group.pending.discard(who)
            group.members[who] = _Member()
        joining = group.members[who]
        joining.session, joining.subscription, joining.joining = session / 1000, protocols[0][1], Deferred()
        self._live(group, who)
        waiting = joining.joining
        self._rebalance(group)
        return waiting

    def _joined(
        self, error: int, generation: int, leader: str, who: str, members: Iterable[tuple[str, bytes]]
    ) -> bytes:
        head = struct.pack("!ihi", 0, error, generation) + packString("range") + packString(leader) + packString(who)
        return head + packArray(packString(each) + _bytes(subscription) for each, subscription in members)

    def _rebalance(self, group: _Group) -> None:
        group.state = _State.joining
        for member in group.members.values():
            syncing, member.syncing = member.syncing, None
            if syncing is not None:
                syncing.callback(struct.pack("!h", REBALANCING) + _bytes(b""))
        if not group.members or any(member.joining is None for member in group.members.values()):
            return
        group.generation += 1
        group.state = _State.syncing
        leader = next(iter(group.members))
        everyone = [(who, member.subscription) for who, member in group.members.items()]
        for who, member in list(group.members.items()):
            joining, member.joining = member.joining, None
            self._live(group, who)
            assert joining is not None
            joining.callback(self._joined(0, group.generation, leader, who, everyone if who == leader else ()))

    def _sync(self, foreign: int, body: memoryview) -> Deferred[bytes]:
        name, generation, who, assignments = unpackFrom("S i S [S Y]", body)
        error = self._check(foreign, name, generation, who)
        group = self._groups[name.decode()]
        if not error and group.state is _State.joining:
            error = REBALANCING
        if error:
            return succeed(struct.pack("!h", error) + _bytes(b""))
        member = group.members[who.decode()]
        waiting = member.syncing = Deferred()
        if assignments:
            group.state = _State.stable
            for each, assignment in assignments:
                group.members[each.decode()].assignment = assignment
        if group.state is _State.stable:
            for member in group.members.values():
                syncing, member.syncing = member.syncing, None
                if syncing is not None:
                    syncing.callback(struct.pack("!h", 0) + _bytes(member.assignment))
        return waiting

    def _heartbeat(self, foreign: int, body: memoryview) -> Deferred[bytes]:
        name, generation, who = unpackFrom("S i S", body)
        error = self.errors.pop(0) if self.errors else self._check(foreign, name, generation, who)
        if not error and self._groups[name.decode()].state is not _State.stable:
            error = REBALANCING
        return succeed(struct.pack("!h", error))

    def _leave(self, foreign: int, body: memoryview) -> Deferred[bytes]:
        name, who = unpackFrom("S S", body)
        group = self._groups[name.decode()]
        if who.decode() in group.pending:
            group.pending.discard(who.decode())
            return succeed(struct.pack("!h", 0))
        error = foreign or (0 if who.decode() in group.members else UNKNOWN_MEMBER)
        if not error:
            self._remove(group, who.decode())
        return succeed(struct.pack("!h", error))

    def _live(self, group: _Group, who: str) -> None:
        member = group.members[who]
        if member.death is not None:
            member.death.cancel()
            member.death = None
        if member.joining is None:
            member.death = self._clock.callLater(member.session, self._die, group, who)

    def _die(self, group: _Group, who: str) -> None:
        group.members[who].death = None
        self._remove(group, who)

    def _remove(self, group: _Group, who: str) -> None:
        member = group.members.pop(who)
        if member.death is not None:
            member.death.cancel()
        self._rebalance(group)

    # Offsets.

    def _commit(self, foreign: int, body: memoryview) -> Deferred[bytes]:
        name, generation, who, _kept, topics = unpackFrom("S i S q [S [i q S]]", body)
        error = self._check(foreign, name, generation, who)
        group = self._groups[name.decode()]
        if not error and group.state is _State.syncing:
            error = REBALANCING
        answers = []
        for topic, partitions in topics:
            for number, offset, _metadata in partitions:
                if not error:
                    group.offsets[TopicPartition(topic.decode(), number)] = offset
            parts = packArray(struct.pack("!ih", number, error) for number, _offset, _metadata in partitions)
            answers.append(packString(topic.decode()) + parts)
        return succeed(packArray(answers))

    def _fetch(self, foreign: int, body: memoryview) -> Deferred[bytes]:
        name, topics = unpackFrom("S [S [i]]", body)
        offsets = self._groups.setdefault(name.decode(), _Group()).offsets
        return succeed(
            packArray(
                packString(topic.decode())
                + packArray(
                    struct.pack("!iq", number, offsets.get(TopicPartition(topic.decode(), number), -1))
                    + packString("")
                    + struct.pack("!h", foreign)
                    for number in numbers
                )
                for topic, numbers in topics
            )
        )
