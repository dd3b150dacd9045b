"""
An L{ISessionStore} as plain dicts: what the others are compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from binaryserver.model import EPOCH_2010_MS, BoxKey, Claim, MarkUpdate, MqttSession, Owner, StreamMark

Answer = Claim | bool | tuple[StreamMark, ...] | None
Operation = tuple[str, tuple[Any, ...]]
"""The name of a method, and what it is given; in place of a link epoch, how many claims of that box ago."""


class ModelStore:
    """
    Answers at once.
    """

    def __init__(self) -> None:
        self.owners: dict[BoxKey, Owner] = {}
        self.sessions: dict[BoxKey, MqttSession | None] = {}
        self.streams: dict[BoxKey, dict[int, StreamMark]] = {}

    def claim(self, box: BoxKey, incarnation: str, protocol: str, peer: str, nowMs: int, clean: bool) -> Claim:
        """
        See L{ISessionStore.claim}.
        """
        previous = self.owners.get(box)
        epoch = nowMs - EPOCH_2010_MS
        if previous is not None and previous.linkEpoch >= epoch:
            epoch = previous.linkEpoch + 1
        self.owners[box] = Owner(incarnation, epoch, True)
        if clean:
            self.sessions[box] = None
        return Claim(epoch, previous, self.marks(box), self.sessions.get(box))

    def release(self, box: BoxKey, linkEpoch: int, nowMs: int) -> bool:
        """
        See L{ISessionStore.release}.
        """
        owner = self.owners.get(box)
        if owner is None or owner.linkEpoch != linkEpoch:
            return False
        self.owners[box] = Owner(owner.incarnation, linkEpoch, False)
        return True

    def saveMqtt(self, box: BoxKey, linkEpoch: int, session: MqttSession | None) -> bool:
        """
        See L{ISessionStore.saveMqtt}.
        """
        if box not in self.owners or self.owners[box].linkEpoch != linkEpoch:
            return False
        self.sessions[box] = session
        return True

    def commitMarks(self, marks: list[MarkUpdate]) -> None:
        """
        See L{ISessionStore.commitMarks}.
        """
        for update in marks:
            streams = self.streams.setdefault(update.box, {})
            old = streams.pop(update.stream, StreamMark(update.stream, update.committed, update.latest))
            committed, latest = max(old.committed, update.committed), max(old.latest, update.latest)
            streams[update.stream] = StreamMark(update.stream, committed, latest)
            self.streams[update.box] = dict(list(streams.items())[-4:])

    def marks(self, box: BoxKey) -> tuple[StreamMark, ...]:
        """
        See L{ISessionStore.marks}.
        """
        return tuple(self.streams.get(box, {}).values())


def run(operations: list[Operation], call: Callable[..., Answer]) -> list[Answer]:
    """
    Do the operations one after the other.

    @param call: takes the name of a method and what it is given
    @return: what each answered
    """
    epochs: dict[BoxKey, list[int]] = {}
    answers: list[Answer] = []
    for name, arguments in operations:
        if name in ("release", "saveMqtt"):
            box, ago, rest = arguments
            known = epochs.get(box, [])
            answer = call(name, box, known[-ago] if ago <= len(known) else ago, rest)
        else:
            answer = call(name, *arguments)
        if isinstance(answer, Claim):
            epochs.setdefault(arguments[0], []).append(answer.linkEpoch)
        answers.append(answer)
    return answers


_boxes = st.sampled_from([BoxKey("acme", "1"), BoxKey("acme", "2"), BoxKey("other", "1")])
_uint64 = st.one_of(st.integers(0, 20), st.integers(2**63 - 2, 2**63 + 2), st.integers(0, 2**64 - 1))
_int64 = st.one_of(st.integers(0, 20), st.integers(-(2**63), 2**63 - 1))
_now = st.integers(EPOCH_2010_MS, EPOCH_2010_MS + 10)
_ago = st.integers(1, 3)
_sessions = st.builds(
    MqttSession,
    st.lists(st.tuples(st.text(st.characters(codec="utf-8"), max_size=5), st.integers(0, 1)), max_size=3).map(tuple),
    st.lists(st.integers(1, 65_535), max_size=3).map(tuple),
)
_streams = st.one_of(st.integers(0, 5), st.sampled_from([2**63 - 1, 2**63, 2**64 - 1]))

operations: st.SearchStrategy[list[Operation]] = st.lists(
    st.one_of(
        st.tuples(
            st.just("claim"),
            st.tuples(
                _boxes, st.sampled_from(["a@1", "b@1"]), st.just("md30"), st.just("192.0.2.1"), _now, st.booleans()
            ),
        ),
        st.tuples(st.just("release"), st.tuples(_boxes, _ago, _now)),
        st.tuples(st.just("saveMqtt"), st.tuples(_boxes, _ago, st.none() | _sessions)),
        st.tuples(
            st.just("commitMarks"),
            st.tuples(st.lists(st.builds(MarkUpdate, _boxes, _streams, _uint64, _int64), max_size=6)),
        ),
        st.tuples(st.just("marks"), st.tuples(_boxes)),
    ),
    max_size=25,
)
