"""
What may be done with an L{ISessionStore}, in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from binaryserver.errors import StoreError
from binaryserver.model import (
    EPOCH_2010_MS,
    NO_QUEUE_MS,
    RETRY_MS,
    BoxKey,
    Claim,
    DownlinkMessage,
    Final,
    FinalStatus,
    FingerprintUpdate,
    LinkState,
    MailboxEntry,
    MailboxLimits,
    MarkUpdate,
    MqttSession,
    Orphan,
    Progress,
    StreamMark,
    Take,
)

Operation = tuple[str, tuple[Any, ...]]
"""The name of a method, and what it is given; in place of a link epoch, how many epochs of that box ago."""

INCARNATIONS = ("a@1", "b@1")


class Adoption(str):
    """
    An attempt to adopt: unlike one to claim, it is the same for all boxes.
    """

    __slots__ = ()


class Accounts:
    """
    Lets one store take many runs: each has accounts, and attempts to adopt, of its own there.
    """

    def __init__(self, suffix: str) -> None:
        self._suffix = suffix

    def told(self, value: Any) -> Any:
        """
        What the store is given in place of C{value}.
        """
        if isinstance(value, BoxKey):
            return BoxKey(value.account + self._suffix, value.asset)
        if isinstance(value, Adoption):
            return value + self._suffix
        return _mapped(value, self.told)

    def heard(self, value: Any) -> Any:
        """
        What the store answered, without what it says of other runs.
        """
        if isinstance(value, BoxKey):
            return BoxKey(value.account.removesuffix(self._suffix), value.asset)
        if isinstance(value, list):
            value = [one for one in value if self._isOurs(one)]
        return _mapped(value, self.heard)

    def _isOurs(self, value: Any) -> bool:
        if isinstance(value, MailboxEntry):
            value = value.message
        return not isinstance(value, DownlinkMessage | Orphan) or value.box.account.endswith(self._suffix)


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    if hasattr(value, "_fields"):
        return type(value)(*map(change, value))
    return type(value)(map(change, value)) if isinstance(value, list | tuple) else value


def run(operations: list[Operation], call: Callable[..., Any]) -> list[Any]:
    """
    Do the operations one after the other.

    @param call: takes the name of a method and what it is given
    @return: what each answered
    """
    epochs: dict[BoxKey, list[int]] = {}
    for incarnation in INCARNATIONS:
        call("leaseWorker", incarnation)
    answers: list[Any] = []
    for name, arguments in operations:
        try:
            answer = call(name, *_dated(arguments, epochs))
        except StoreError:
            answers.append("it failed")
            continue
        if isinstance(answer, Claim):
            epochs.setdefault(arguments[0], []).append(answer.linkEpoch)
        elif name == "adopt":
            answer = sorted(answer)
            for orphan in answer:
                epochs.setdefault(orphan.box, []).append(orphan.linkEpoch)
        elif name == "dueMessages":
            answer = sorted(answer, key=lambda entry: (entry.message.box, entry.sequence))
        # A purge goes through the boxes of other runs, too.
        answers.append(None if name in ("leaseWorker", "purge") else answer)
    return answers


class Ago(int):
    """
    Stands for the epoch that a box had so many epochs ago; the box stands right before it.
    """


def _dated(value: Any, epochs: dict[BoxKey, list[int]]) -> Any:
    """
    With link epochs.
    """
    if not isinstance(value, list | tuple) or isinstance(value, BoxKey):
        return value
    parts = [_dated(part, epochs) for part in value]
    for n, part in enumerate(parts):
        if isinstance(part, Ago):
            known = epochs.get(parts[n - 1], [])
            parts[n] = known[-part] if 0 < part <= len(known) else (known or [100])[-1] - part + 1
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)


_BOX = BoxKey("acme", "1")

_LISTENING: list[Operation] = [
    ("claim", (_BOX, INCARNATIONS[0], "md30", "192.0.2.1", EPOCH_2010_MS, False, "0")),
    ("saveMqtt", (_BOX, Ago(1), None, True)),
]
"""What is done first."""

_BOXES = (_BOX, BoxKey("acme", "2"), BoxKey("other", "1"))

_LOOKING: list[Operation] = [
    ("leaseWorker", (INCARNATIONS[1],)),
    *(("mailbox", (box,)) for box in _BOXES),
    ("dueMessages", (EPOCH_2010_MS + RETRY_MS + NO_QUEUE_MS, 10_000)),
    *(("claim", (box, INCARNATIONS[1], "md30", "192.0.2.1", EPOCH_2010_MS, False, "9")) for box in _BOXES),
]
"""What is done last."""

_boxes = st.sampled_from([_BOX, _BOX, _BOX, _BOX, *_BOXES])
_incarnations = st.sampled_from(INCARNATIONS)
_uint64 = st.one_of(st.integers(0, 20), st.integers(2**63 - 2, 2**63 + 2), st.integers(0, 2**64 - 1))
_int64 = st.one_of(st.integers(0, 20), st.integers(-(2**63), 2**63 - 1))
_times = sorted(
    one + other for one in (0, NO_QUEUE_MS, RETRY_MS, RETRY_MS + NO_QUEUE_MS, 2 * RETRY_MS) for other in (0, 1, 2)
)
_now = st.sampled_from(_times).map(EPOCH_2010_MS.__add__)
_early = st.sampled_from([one for one in _times if one < RETRY_MS]).map(EPOCH_2010_MS.__add__)
_agos = st.sampled_from([1, 1, 1, 1, 2, 3, 0]).map(Ago)
_expiries = st.sampled_from([*_times, *[3 * RETRY_MS] * 10]).map(EPOCH_2010_MS.__add__)
_attempts = st.sampled_from("0123")
_text = st.text(st.characters(codec="utf-8"), max_size=5)
_sessions = st.none() | st.builds(
    MqttSession,
    st.lists(st.tuples(_text, st.integers(0, 1)), max_size=3).map(tuple),
    st.lists(st.integers(1, 65_535), max_size=3).map(tuple),
)
_streams = st.one_of(st.integers(0, 5), st.sampled_from([2**63 - 1, 2**63, 2**64 - 1]))
_marks = st.lists(st.builds(StreamMark, _streams, _uint64, _int64), max_size=3).map(tuple)
# Few, so that some come again.
_fingerprints = st.lists(st.integers(0, 3).map(lambda number: number.to_bytes(8, "big")), max_size=8).map(b"".join)
_ids = st.sampled_from(["1", "2", "3", "\u00fc\x00"])
_finals = st.builds(Final, st.sampled_from(FinalStatus), _text, _now)


def _listOf(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(values, min_size=1, max_size=4)


def _operation(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Operation]:
    return st.tuples(st.just(name), st.tuples(*arguments))


_claims = _operation(
    "claim",
    _boxes,
    _incarnations,
    st.just("md30"),
    st.just("192.0.2.1"),
    _now,
    st.booleans(),
    _attempts,
    st.sampled_from([0, 0, 1, 2]),
)
_listens = _operation("saveMqtt", _boxes, st.just(Ago(1)), _sessions, st.just(True))
_puts = _operation(
    "putMessages",
    _listOf(
        st.builds(
            DownlinkMessage,
            box=_boxes,
            id=_ids,
            channel=_text,
            payload=st.binary(max_size=5),
            correlationId=_text,
            expiresAt=_expiries,
            noQueue=st.booleans(),
            wantAck=st.booleans(),
            queuedAt=st.sampled_from([0, 1, 2]).map(EPOCH_2010_MS.__add__),
            rejected=st.sampled_from([""] * 9 + ["BAD_CHANNEL"]),
        )
    ),
    st.sampled_from(
        [MailboxLimits(100, 1000), MailboxLimits(100, 1000), MailboxLimits(2, 1000), MailboxLimits(100, 6)]
    ),
    _early,
)
_takes = _operation(
    "takeMessages", _listOf(st.builds(Take, _boxes, _agos, st.sampled_from([0, 0, 0, 1, 2]), st.integers(1, 3))), _early
)
_progresses = _operation(
    "progressMessages", _listOf(st.builds(Progress, _boxes, _ids, _now, st.none() | _finals, st.integers(0, 2)))
)

operations: st.SearchStrategy[list[Operation]] = st.lists(
    st.one_of(
        _claims,
        _listens,
        _puts,
        _puts,
        _takes,
        _takes,
        _progresses,
        _operation("release", _boxes, _agos, _now),
        _operation("saveMqtt", _boxes, _agos, _sessions, st.booleans()),
        _operation("commitMarks", _listOf(st.builds(MarkUpdate, _boxes, _streams, _uint64, _int64))),
        _operation("marks", _boxes),
        _operation(
            "commitFingerprints", _listOf(st.builds(FingerprintUpdate, _boxes, _fingerprints)), st.integers(1, 6)
        ),
        _operation("fingerprints", _boxes),
        _operation(
            "restore",
            _incarnations,
            _listOf(
                st.builds(
                    LinkState,
                    _boxes,
                    _agos,
                    st.just("md30"),
                    st.just("192.0.2.1"),
                    _now,
                    _marks,
                    _sessions,
                    st.booleans(),
                )
            ),
        ),
        _operation("adopt", _incarnations, _incarnations, _now, st.just(10_000), st.sampled_from("xyz").map(Adoption)),
        # Who is dead cannot claim.
        _operation("leaseWorker", _incarnations),
        _operation("leaseWorker", st.sampled_from([*INCARNATIONS, "a@2"])),
        _operation("resign", _incarnations),
        _operation("isDead", _incarnations),
        _operation("removeMessages", _listOf(st.tuples(_boxes, _ids))),
        _operation("dueMessages", _now, st.just(10_000)),
        _operation("mailbox", _boxes),
        # What is connected stays.
        _operation("release", _boxes, st.just(Ago(1)), _now),
        _operation("erase", _boxes),
        _operation("erase", _boxes),
        _operation("purge", _now, st.just(10_000)),
    ),
    # Few are not enough to get anywhere.
    min_size=10,
    max_size=40,
).map(lambda doing: [*_LISTENING, *doing, *_LOOKING])
