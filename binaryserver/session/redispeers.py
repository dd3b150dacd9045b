"""
What instances say to each other through Redis: JSON objects, published to a channel of each incarnation.

C{handOver} and C{disconnect} (C{from}, C{questions}: of each C{id}, C{account}, C{asset}, C{epoch}), C{answers}
(C{answers}: of each C{id}, and C{marks} or null, or C{had}, a boolean), C{wake} (C{boxes}: pairs of account and asset).
Redis keeps none of them for whoever is away.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from binaryserver.errors import StoreError, StoreUnavailable
from binaryserver.interfaces import IInbox, IPeers
from binaryserver.model import BoxKey, StreamMark
from binaryserver.plugins import BackEndContext
from binaryserver.session.redislink import LinkState, RedisLink
from binaryserver.session.redissettings import RedisSettings
from binaryserver.session.redistext import escape
from binaryserver.workers.channel import boxOf, marksFromJson, marksToJson

_Marks = tuple[StreamMark, ...] | None

_Answer = tuple[StreamMark, ...] | bool | None
"""Marks of a handover; of a disconnection, whether there was such a link; L{None}: neither can be told."""

_REPEAT = 1.0
"""s after which a question is asked again, as it or its answer may be lost."""

_SETTLING = 10.0
"""s after Redis came back, maybe without its memory, in which those whom it does not know may yet say they live."""

_MOST_IN_ONE = 200
"""How many questions, answers or boxes one message carries."""

_REMEMBERED = 1000
"""How many answers are kept for questions that are asked again."""


class _Question(NamedTuple):
    """
    One that was asked, and is not answered.
    """

    kind: str
    incarnation: str
    box: BoxKey
    linkEpoch: int
    answer: Deferred[Any]


@implementer(IPeers)
class RedisPeers:
    """
    One incarnation's.
    """

    log = Logger()

    def __init__(
        self,
        context: BackEndContext,
        settings: RedisSettings,
        incarnation: str,
        call: Callable[..., Deferred[Any]],
        isDead: Callable[[str], Deferred[bool]],
    ) -> None:
        """
        @param call: sends a command to Redis
        @param isDead: as L{binaryserver.interfaces.ISessionStore.isDead}
        """
        self._context = context
        self._settings = settings
        self._incarnation = incarnation
        self._call = call
        self._isDead = isDead
        # Ids are of this object alone: an answer to somebody who had the incarnation before is none to us.
        self._origin = os.urandom(8).hex()
        self._lastId = 0
        self._asked: dict[str, _Question] = {}
        # What others asked, by who and the id; None: not answered yet.
        self._answering: set[tuple[str, str]] = set()
        self._answered: OrderedDict[tuple[str, str], _Answer] = OrderedDict()
        self._inbox: IInbox | None = None
        self._isFirst = True
        # From when on it is believed who is dead, s of the clock.
        self._judgingFrom = 0.0
        self._repeating: IDelayedCall | None = None
        self._link = RedisLink(
            context.reactor,
            settings,
            context.option,
            channel=self._channel(incarnation),
            onMessage=self._received,
            onReady=self._ready,
        )

    def start(self, inbox: IInbox) -> Deferred[None]:
        """
        See L{IPeers.start}.
        """
        self._inbox = inbox

        def started(_: None) -> None:
            self._repeating = self._context.reactor.callLater(_REPEAT, self._repeat)

        return self._link.start(self._context.startTimeout).addCallback(started)

    def stop(self) -> Deferred[None]:
        """
        See L{IPeers.stop}.
        """
        self._inbox = None
        self._asked.clear()
        if self._repeating is not None:
            self._repeating.cancel()
            self._repeating = None
        return self._link.stop(0)

    def handOver(self, incarnation: str, box: BoxKey, linkEpoch: int) -> Deferred[_Marks]:
        """
        See L{IPeers.handOver}.
        """
        return self._question("handOver", incarnation, box, linkEpoch)

    def disconnect(self, incarnation: str, box: BoxKey, linkEpoch: int) -> Deferred[bool | None]:
        """
        See L{IPeers.disconnect}.
        """
        return self._question("disconnect", incarnation, box, linkEpoch)

    def _question(self, kind: str, incarnation: str, box: BoxKey, linkEpoch: int) -> Deferred[Any]:
        self._lastId += 1
        id_ = f"{self._origin}-{self._lastId}"

        def forget(_: object) -> None:
            self._asked.pop(id_, None)

        answer: Deferred[Any] = Deferred(forget)
        question = _Question(kind, incarnation, box, linkEpoch, answer)
        self._asked[id_] = question
        self._ask(incarnation, [(id_, question)])
        return answer

    def wake(self, incarnation: str, boxes: Sequence[BoxKey]) -> None:
        """
        See L{IPeers.wake}.
        """
        for start in range(0, len(boxes), _MOST_IN_ONE):
            self._publish(incarnation, "wake", boxes=[list(box) for box in boxes[start : start + _MOST_IN_ONE]])

    # What is said.

    def _channel(self, incarnation: str) -> str:
        # Channels know no databases.
        return f"{self._settings.prefix}{self._settings.db}:to:{escape(incarnation)}"

    def _publish(self, incarnation: str, kind: str, **values: Any) -> None:
        text = json.dumps({"kind": kind, **values})

        def lost(failure: Failure) -> None:
            failure.trap(StoreError)
            self.log.debug("a message to {peer} is lost: {reason}", peer=incarnation, reason=failure.value)

        self._call("PUBLISH", self._channel(incarnation), text).addErrback(lost)

    def _ask(self, incarnation: str, questions: Sequence[tuple[str, _Question]]) -> None:
        for kind in ("handOver", "disconnect"):
            said = [
                {"id": id_, "account": one.box.account, "asset": one.box.asset, "epoch": one.linkEpoch}
                for id_, one in questions
                if one.kind == kind
            ]
            for start in range(0, len(said), _MOST_IN_ONE):
                part = said[start : start + _MOST_IN_ONE]
                self._publish(incarnation, kind, **{"from": self._incarnation}, questions=part)

    def _repeat(self) -> None:
        """
        Ask again what is not answered, unless there is nobody to answer any more; and see that we hear.
        """
        self._repeating = self._context.reactor.callLater(_REPEAT, self._repeat)
        if self._link.state is LinkState.ready:
            self._link.call("PING").addErrback(lambda failure: failure.trap(StoreUnavailable))
        asked: dict[str, list[str]] = {}
        for id_, question in self._asked.items():
            asked.setdefault(question.incarnation, []).append(id_)
        for incarnation, ids in asked.items():
            known = self._isDead(incarnation)
            known.addCallback(self._judged, incarnation, ids).addErrback(self._notJudged, incarnation)

    def _judged(self, isDead: bool, incarnation: str, ids: Sequence[str]) -> None:
        open_ = [(id_, self._asked[id_]) for id_ in ids if id_ in self._asked]
        if not isDead or self._context.reactor.seconds() < self._judgingFrom:
            self._ask(incarnation, open_)
            return
        for id_, question in open_:
            # Firing one may cancel others.
            if self._asked.pop(id_, None) is not None:
                question.answer.callback(None)

    def _notJudged(self, failure: Failure, incarnation: str) -> None:
        if failure.check(StoreError):
            self.log.debug("whether {peer} lives is not known: {reason}", peer=incarnation, reason=failure.value)
        else:
            self.log.failure("an answer of {peer} could not be taken", failure, peer=incarnation)

    # What is heard.

    def _ready(self) -> None:
        if not self._isFirst and self._inbox is not None:
            self._judgingFrom = self._context.reactor.seconds() + _SETTLING
            self._inbox.wakeAll()
        self._isFirst = False

    def _received(self, text: bytes) -> None:
        inbox = self._inbox
        if inbox is None:
            return
        try:
            act = self._parse(json.loads(text), inbox)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self.log.warn("a message that is no peer's: {reason}", reason=repr(error))
            return
        act()

    def _parse(self, message: dict[str, Any], inbox: IInbox) -> Callable[[], None]:
        """
        Understand a message whole, before anything is done.
        """
        kind = message["kind"]
        if kind == "wake":
            boxes = [BoxKey(str(account), str(asset)) for account, asset in message["boxes"]]
            return lambda: inbox.wake(boxes)
        if kind == "answers":
            answers = [(str(one["id"]), _fromJson(one)) for one in message["answers"]]
            return lambda: self._heard(answers)
        if kind in ("handOver", "disconnect"):
            asker = str(message["from"])
            questions = [(str(one["id"]), boxOf(one), int(one["epoch"])) for one in message["questions"]]
            ask = inbox.handOver if kind == "handOver" else inbox.disconnect
            return lambda: self._answerAll(ask, asker, questions)
        raise ValueError(f"kind {kind!r}")

    def _heard(self, answers: Sequence[tuple[str, _Answer]]) -> None:
        for id_, answer in answers:
            question = self._asked.pop(id_, None)
            if question is not None:
                question.answer.callback(answer)

    def _answerAll(
        self, ask: Callable[[BoxKey, int], Any], asker: str, questions: Sequence[tuple[str, BoxKey, int]]
    ) -> None:
        for id_, box, epoch in questions:
            place = (asker, id_)
            if place in self._answered:
                self._say(asker, id_, self._answered[place])
            elif place not in self._answering:
                self._answering.add(place)
                settled: Deferred[_Answer] = maybeDeferred(ask, box, epoch)
                settled.addErrback(self._unread).addCallback(self._settled, place)

    def _unread(self, failure: Failure) -> _Marks:
        # Nothing is in flight here any more; that the marks could not be read is for the asker to mend.
        self.log.error("marks could not be read for a handover: {reason}", reason=failure.getErrorMessage())
        return None

    def _settled(self, answer: _Answer, place: tuple[str, str]) -> None:
        self._answering.discard(place)
        self._answered[place] = answer
        while len(self._answered) > _REMEMBERED:
            self._answered.popitem(last=False)
        if self._inbox is not None:
            self._say(*place, answer)

    def _say(self, asker: str, id_: str, answer: _Answer) -> None:
        said = {"had": answer} if isinstance(answer, bool) else {"marks": marksToJson(answer)}
        self._publish(asker, "answers", answers=[{"id": id_, **said}])


def _fromJson(answer: dict[str, Any]) -> _Answer:
    return bool(answer["had"]) if "had" in answer else marksFromJson(answer["marks"])
