"""
A worker's view of the others, through the parent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from binaryserver.interfaces import IInbox, IPeers
from binaryserver.model import BoxKey, StreamMark
from binaryserver.workers.channel import boxOf, marksFromJson, marksToJson

_Marks = tuple[StreamMark, ...] | None


@implementer(IPeers)
class ParentPeers:
    """
    Asks the parent, which knows who is alive.
    """

    log = Logger()

    def __init__(self, send: Callable[..., None]) -> None:
        """
        @param send: of the channel to the parent
        """
        self._send = send
        self._asked: dict[int, Deferred[Any]] = {}
        self._lastId = 0
        self._inbox: IInbox | None = None

    def start(self, inbox: IInbox) -> Deferred[None]:
        """
        See L{IPeers.start}.
        """
        self._inbox = inbox
        return succeed(None)

    def stop(self) -> Deferred[None]:
        """
        See L{IPeers.stop}.
        """
        self._inbox = None
        self._asked = {}
        return succeed(None)

    def handOver(self, incarnation: str, box: BoxKey, linkEpoch: int) -> Deferred[_Marks]:
        """
        See L{IPeers.handOver}.
        """
        asked: Deferred[Any] = self._ask("handOver", incarnation, box, linkEpoch)
        return asked.addCallback(marksFromJson)

    def disconnect(self, incarnation: str, box: BoxKey, linkEpoch: int) -> Deferred[bool | None]:
        """
        See L{IPeers.disconnect}.
        """
        return self._ask("disconnect", incarnation, box, linkEpoch)

    def _ask(self, kind: str, incarnation: str, box: BoxKey, linkEpoch: int) -> Deferred[Any]:
        self._lastId += 1
        id_ = self._lastId

        def forget(_: object) -> None:
            self._asked.pop(id_, None)

        answer: Deferred[Any] = Deferred(forget)
        self._asked[id_] = answer
        self._send(kind, id=id_, incarnation=incarnation, account=box.account, asset=box.asset, epoch=linkEpoch)
        return answer

    def wake(self, incarnation: str, boxes: Sequence[BoxKey]) -> None:
        """
        See L{IPeers.wake}.
        """
        self._send("wake", incarnation=incarnation, boxes=boxes)

    def received(self, message: dict[str, Any]) -> None:
        """
        The parent passed on what another worker says. Before L{start} nobody knows of this one, after L{stop} it holds
        no box.
        """
        kind = message["kind"]
        if kind == "answer":
            self._answered(message)
        elif self._inbox is None:
            if kind in ("handOver", "disconnect"):
                self._send("answer", id=message["id"], answer=None)
        elif kind == "handOver":
            self._askedFor(message, self._inbox)
        elif kind == "disconnect":
            had = self._inbox.disconnect(boxOf(message), message["epoch"])
            self._send("answer", id=message["id"], answer=had)
        elif kind == "wake":
            self._inbox.wake([BoxKey(*box) for box in message["boxes"]])

    def _answered(self, message: dict[str, Any]) -> None:
        """
        The parent passed on an answer; one that came too late is dropped.
        """
        answer = self._asked.pop(message["id"], None)
        if answer is not None:
            answer.callback(message["answer"])

    def _askedFor(self, message: dict[str, Any], inbox: IInbox) -> None:
        """
        Another worker asks, through the parent.
        """

        def answer(marks: _Marks) -> None:
            self._send("answer", id=message["id"], answer=marksToJson(marks))

        def failed(failure: Failure) -> None:
            # Nothing is in flight here any more; that the marks could not be read is for the asker to mend.
            self.log.error("marks could not be read for a handover: {reason}", reason=failure.getErrorMessage())
            answer(None)

        inbox.handOver(boxOf(message), message["epoch"]).addCallbacks(answer, failed)
