"""
Tests for L{binaryserver.workers}: what the parent and its workers say to each other, and whom the parent starts again.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from binaryserver.endpoints.listening import serverFromString
from binaryserver.errors import ConfigError, StoreUnavailable
from binaryserver.interfaces import IInbox, IPeers
from binaryserver.model import BoxKey, StreamMark
from binaryserver.service import ListeningService
from binaryserver.workers.channel import Channel, boxOf, marksFromJson, marksToJson
from binaryserver.workers.peers import ParentPeers
from binaryserver.workers.supervisor import Supervisor, Worker, WorkerState

BOX = BoxKey("acme", "box-1")
MARKS = (StreamMark(9, 41, 1_790_000_000_000), StreamMark((1 << 64) - 1, (1 << 64) - 1, 0))
BIG = st.integers(0, (1 << 64) - 1)
QUESTION = {"kind": "handOver", "id": 5, "account": "acme", "asset": "box-1", "epoch": 9}


class ChannelTests(SynchronousTestCase):
    """
    One end of the pipes.
    """

    def setUp(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.lost: list[None] = []
        self.channel = Channel(self.received.append, lambda: self.lost.append(None))
        self.transport = StringTransport()
        self.channel.makeConnection(self.transport)

    def test_send(self) -> None:
        """
        A message is one line.
        """
        self.channel.send("handOver", id=3, asset="a\nb")
        sent = self.transport.value()
        self.assertEqual((sent.count(b"\n"), sent[-1:]), (1, b"\n"))
        self.assertEqual(json.loads(sent), {"kind": "handOver", "id": 3, "asset": "a\nb"})

    def test_pieces(self) -> None:
        """
        Messages are the same however the pipe cuts them.
        """
        self.channel.send("started")
        self.channel.send("answer", id=1, answer=marksToJson(MARKS))
        data = self.transport.value()
        expected = [json.loads(line) for line in data.splitlines()]
        for size in (1, 2, 7, len(data)):
            self.received.clear()
            for at in range(0, len(data), size):
                self.channel.dataReceived(data[at : at + size])
            self.assertEqual(self.received, expected)

    def test_long(self) -> None:
        """
        A message of half a megabyte arrives whole.
        """
        self.channel.send("start", settings={"md30": ["tcp:1"] * 60_000})
        self.channel.dataReceived(self.transport.value())
        self.assertEqual(len(self.received[0]["settings"]["md30"]), 60_000)
        self.assertFalse(self.transport.disconnecting)

    def test_lost(self) -> None:
        """
        The end of the other is told, once.
        """
        self.channel.connectionLost(Failure(ProcessDone(0)))
        self.assertEqual(self.lost, [None])

    @given(st.lists(st.builds(StreamMark, BIG, BIG, BIG), max_size=4).map(tuple))
    def test_marks(self, marks: tuple[StreamMark, ...]) -> None:
        """
        Marks survive the way with all 64 bits.
        """
        self.assertEqual(marksFromJson(json.loads(json.dumps(marksToJson(marks)))), marks)

    def test_noMarks(self) -> None:
        """
        "That one is dead" is not "no marks".
        """
        self.assertIsNone(marksFromJson(json.loads(json.dumps(marksToJson(None)))))
        self.assertEqual(marksFromJson(json.loads(json.dumps(marksToJson(())))), ())

    def test_box(self) -> None:
        """
        The box of a message.
        """
        self.assertEqual(boxOf({"kind": "handOver", "account": "acme", "asset": "box-1"}), BOX)


class ParentPeersTests(SynchronousTestCase):
    """
    A worker's view of the others.
    """

    def setUp(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.peers = ParentPeers(lambda kind, **fields: self.sent.append((kind, fields)))

    def test_interface(self) -> None:
        """
        It is the others.
        """
        verifyObject(IPeers, self.peers)

    def test_ask(self) -> None:
        """
        Questions go to the parent, and answers come back to whom they are for, in whatever order.
        """
        first = self.peers.handOver("w-1@aa", BOX, 7)
        second = self.peers.handOver("w-2@bb", BoxKey("acme", "box-2"), 8)
        (kind, fields), (_, other) = self.sent
        self.assertEqual(kind, "handOver")
        self.assertEqual(
            {name: fields[name] for name in ("incarnation", "account", "asset", "epoch")},
            {"incarnation": "w-1@aa", "account": "acme", "asset": "box-1", "epoch": 7},
        )
        self.assertNotEqual(fields["id"], other["id"])
        self.peers.received({"kind": "answer", "id": other["id"], "answer": None})
        self.assertNoResult(first)
        self.assertIsNone(self.successResultOf(second))
        self.peers.received({"kind": "answer", "id": fields["id"], "answer": marksToJson(MARKS)})
        self.assertEqual(self.successResultOf(first), MARKS)

    def test_late(self) -> None:
        """
        The answer to a question that was given up is passed over, as is a second answer.
        """
        given = self.peers.handOver("w-1@aa", BOX, 7)
        given.cancel()
        self.failureResultOf(given, CancelledError)
        asked = self.peers.handOver("w-1@aa", BOX, 8)
        for _, fields in self.sent:
            for _ in range(2):
                self.peers.received({"kind": "answer", "id": fields["id"], "answer": []})
        self.assertEqual(self.successResultOf(asked), ())

    def test_asked(self) -> None:
        """
        What another asks is answered once this instance has settled it.
        """
        inbox = Inbox()
        self.peers.start(inbox)
        self.peers.received(QUESTION)
        self.assertEqual((inbox.asked, self.sent), ([(BOX, 9)], []))
        inbox.answer.callback(MARKS)
        self.assertEqual(self.sent, [("answer", {"id": 5, "answer": marksToJson(MARKS)})])

    def test_unreadable(self) -> None:
        """
        When the marks cannot be read here the asker is told that nothing is in flight here, and reads them itself.
        """
        inbox = Inbox()
        self.peers.start(inbox)
        inbox.answer.errback(StoreUnavailable("the store is away"))
        self.peers.received(QUESTION)
        self.assertEqual(self.sent, [("answer", {"id": 5, "answer": None})])

    def test_notThere(self) -> None:
        """
        Before it has started, and once it has stopped, an instance holds no box.
        """
        self.peers.received(QUESTION)
        self.peers.start(Inbox())
        self.peers.stop()
        self.peers.received(QUESTION)
        self.peers.received({"kind": "wake", "boxes": [["acme", "box-1"]]})
        self.assertEqual(self.sent, [("answer", {"id": 5, "answer": None})] * 2)

    def test_disconnect(self) -> None:
        """
        An operator's wish goes both ways; before and after its life an instance has no link.
        """
        asked = self.peers.disconnect("w-1@aa", BOX, 7)
        ((kind, fields),) = self.sent
        self.assertEqual((kind, fields["incarnation"], fields["asset"]), ("disconnect", "w-1@aa", "box-1"))
        self.peers.received({"kind": "answer", "id": fields["id"], "answer": True})
        self.assertIs(self.successResultOf(asked), True)
        self.sent.clear()
        wish = {**QUESTION, "kind": "disconnect"}
        self.peers.received(wish)
        self.peers.start(Inbox())
        self.peers.received(wish)
        self.peers.received({**wish, "epoch": 8})
        self.assertEqual(self.sent, [("answer", {"id": 5, "answer": told}) for told in (None, True, False)])

    def test_wake(self) -> None:
        """
        The word of mail goes both ways.
        """
        inbox = Inbox()
        self.peers.start(inbox)
        self.peers.wake("w-1@aa", [BOX])
        self.assertEqual(self.sent, [("wake", {"incarnation": "w-1@aa", "boxes": [BOX]})])
        self.peers.received({"kind": "wake", "boxes": [["acme", "box-1"]]})
        self.assertEqual(inbox.woken, [BOX])


@implementer(IInbox)
class Inbox:
    """
    Notes what it is asked.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[BoxKey, int]] = []
        self.woken: list[BoxKey] = []
        self.answer: Deferred[tuple[StreamMark, ...]] = Deferred()

    def disconnect(self, box: BoxKey, linkEpoch: int) -> bool:
        """
        See L{IInbox.disconnect}: there is a link of epoch 9 only.
        """
        return (box, linkEpoch) == (BOX, 9)

    def handOver(self, box: BoxKey, linkEpoch: int) -> Deferred[tuple[StreamMark, ...]]:
        """
        See L{IInbox.handOver}.
        """
        self.asked.append((box, linkEpoch))
        return self.answer

    def wake(self, boxes: Sequence[BoxKey]) -> None:
        """
        See L{IInbox.wake}.
        """
        self.woken += boxes

    def wakeAll(self) -> None:
        """
        See L{IInbox.wakeAll}.
        """


class FakeProcess:
    """
    A worker's process as its parent sees it.

    @ivar heard: what the parent said to it
    @ivar signals: what it was sent
    """

    def __init__(self, protocol: Any, arguments: tuple[Any, ...], childFDs: dict[int, Any]) -> None:
        self.protocol = protocol
        self.arguments = arguments
        self.childFDs = dict(childFDs)
        self.heard: list[dict[str, Any]] = []
        self.signals: list[str] = []
        self._channel = Channel(self.heard.append, lambda: None)
        self._channel.makeConnection(StringTransport())

    def writeToChild(self, descriptor: int, data: bytes) -> None:
        """
        See C{IProcessTransport}.
        """
        assert descriptor == 3, descriptor
        self._channel.dataReceived(data)

    def signalProcess(self, name: str) -> None:
        """
        See C{IProcessTransport}.
        """
        self.signals.append(name)

    def say(self, kind: str, **fields: Any) -> None:
        """
        The worker speaks.
        """
        self.protocol.childDataReceived(4, json.dumps({"kind": kind, **fields}).encode() + b"\n")

    def end(self, status: int = 0, signal: int | None = None) -> None:
        """
        The process is gone.
        """
        reason = ProcessTerminated(status, signal) if status or signal else ProcessDone(0)
        self.protocol.processEnded(Failure(reason))

    def take(self) -> list[dict[str, Any]]:
        """
        What the parent said since last asked.
        """
        heard = list(self.heard)
        self.heard.clear()
        return heard


class ProcessReactor(MemoryReactorClock):
    """
    A reactor that records the processes that it is to start.
    """

    def __init__(self) -> None:
        MemoryReactorClock.__init__(self)
        self.processes: list[FakeProcess] = []

    def spawnProcess(
        self, protocol: Any, executable: Any, args: Any, env: Any = None, *, childFDs: dict[int, Any]
    ) -> FakeProcess:
        """
        See C{IReactorProcess}.
        """
        process = FakeProcess(protocol, (executable, *args), childFDs)
        for descriptor in childFDs.values():
            # What the child is to have must be open now.
            if isinstance(descriptor, int) and descriptor > 2:
                os.fstat(descriptor)
        self.processes.append(process)
        protocol.makeConnection(process)
        return process


class BoundPort:
    """
    A port that is bound.
    """

    addressFamily = 2

    def __init__(self) -> None:
        self.descriptor = os.open(os.devnull, os.O_RDONLY)
        self.isReading = True
        self.isOpen = True

    def fileno(self) -> int:
        """
        See C{IReadDescriptor}.
        """
        return self.descriptor

    def stopReading(self) -> None:
        """
        See C{IReadDescriptor}.
        """
        self.isReading = False

    def stopListening(self) -> None:
        """
        See C{IListeningPort}.
        """
        self.isOpen = False
        os.close(self.descriptor)


class BoundListener(ListeningService):
    """
    A listener whose port is not a socket's.
    """

    bound: Any = None

    def bind(self, factory: Any) -> Deferred[None]:
        """
        See L{ListeningService.bind}.
        """
        self.bound = BoundPort()
        self.port = self.bound
        return succeed(None)


class SupervisorCase(SynchronousTestCase):
    """
    A parent of two workers.
    """

    def setUp(self) -> None:
        self.reactor: Any = ProcessReactor()
        endpoint = serverFromString(self.reactor, "tcp:1883:interface=127.0.0.1", 10.0)
        self.listener = BoundListener("--md30", "tcp:1883:interface=127.0.0.1", endpoint, "")
        settings = {"instance": "host", "workers": 2, "drain-timeout": 20.0, "drain-delay": 0.0, "bus": "sqlite:x"}
        self.supervisor = Supervisor(self.reactor, settings, [("md30", self.listener)])

    def tearDown(self) -> None:
        if self.listener.bound is not None and self.listener.bound.isOpen:
            self.listener.bound.stopListening()

    def latest(self, index: int) -> FakeProcess:
        """
        The last process of a worker.
        """
        return next(
            process
            for process in reversed(self.processes)
            if process.arguments and process.protocol._worker.index == index
        )

    @property
    def processes(self) -> list[FakeProcess]:
        """
        All that were started.
        """
        found: list[FakeProcess] = self.reactor.processes
        return found

    def begin(self) -> list[FakeProcess]:
        """
        Start the parent and see both workers run.
        """
        begun = self.supervisor.begin()
        for index in range(2):
            self.assertEqual(len(self.processes), index + 1)
            self.assertNoResult(begun)
            self.processes[index].say("started")
        self.successResultOf(begun)
        return list(self.processes)

    def worker(self, index: int) -> Worker:
        """
        A slot.
        """
        return self.supervisor.workers[index]


class StartTests(SupervisorCase):
    """
    How workers are started.
    """

    def test_oneByOne(self) -> None:
        """
        Each starts once the one before it listens, and is told what to be: its id, its incarnation, its listeners.
        """
        messages = [process.take() for process in self.begin()]
        for index, [message] in enumerate(messages):
            self.assertEqual(message["kind"], "start")
            self.assertEqual(message["settings"]["instance"], f"host-{index}")
            self.assertEqual(message["settings"]["bus"], "sqlite:x")
            self.assertRegex(message["incarnation"], f"^host-{index}@[0-9a-f]{{12}}$")
            self.assertEqual(
                message["listening"],
                [{"protocol": "md30", "endpoint": "tcp:1883:interface=127.0.0.1", "descriptor": 5, "family": 2}],
            )
        self.assertEqual([one.state for one in self.supervisor.workers], [WorkerState.running] * 2)

    def test_descriptors(self) -> None:
        """
        A worker has the pipes at 3 and 4 and the port, which the parent itself does not accept on, at 5.
        """
        [first, _] = self.begin()
        self.assertEqual(first.arguments[:2], (sys.executable, sys.executable))
        self.assertIn("runWorker", first.arguments[-1])
        self.assertEqual(set(first.childFDs), {0, 1, 2, 3, 4, 5})
        self.assertEqual((first.childFDs[3], first.childFDs[4]), ("w", "r"))
        self.assertEqual(first.childFDs[5], self.listener.bound.descriptor)
        self.assertFalse(self.listener.bound.isReading)
        # The null device that was opened for the child is not kept open.
        self.assertRaises(OSError, os.fstat, first.childFDs[0])

    def test_refused(self) -> None:
        """
        A worker that cannot use a setting fails the start in the option's name.
        """
        begun = self.supervisor.begin()
        self.processes[0].say("failed", option="--bus", message="there is no topic t")
        error = self.failureResultOf(begun, ConfigError).value
        self.assertEqual((error.option, str(error)), ("--bus", "--bus: there is no topic t"))
        self.assertEqual(len(self.processes), 1)

    def test_diesAtStart(self) -> None:
        """
        A worker that ends before it listens fails the start.
        """
        begun = self.supervisor.begin()
        self.processes[0].end(3)
        error = self.failureResultOf(begun, ConfigError).value
        self.assertTrue(str(error).startswith("--workers: host-0 ended: "), str(error))


class RestartTests(SupervisorCase):
    """
    What becomes of a worker that dies.
    """

    def test_restart(self) -> None:
        """
        It is started again with another incarnation, the same port and the same id; the other goes on.
        """
        [first, other] = self.begin()
        [before] = first.take()
        first.end(signal=9)
        self.assertIs(self.worker(0).state, WorkerState.waiting)
        self.assertEqual(len(self.processes), 2)
        self.reactor.advance(0.1)
        [_, _, again] = self.processes
        [message] = again.take()
        self.assertIs(self.worker(0).state, WorkerState.starting)
        self.assertEqual(message["settings"], before["settings"])
        self.assertEqual(message["listening"], before["listening"])
        self.assertNotEqual(message["incarnation"], before["incarnation"])
        again.say("started")
        self.assertIs(self.worker(0).state, WorkerState.running)
        self.assertIs(self.latest(1), other)

    def test_backOff(self) -> None:
        """
        One that keeps dying is started again later and later, up to 5 s.
        """
        self.begin()
        waited = []
        for _ in range(7):
            self.latest(1).end(1)
            count = len(self.processes)
            start = self.reactor.seconds()
            while len(self.processes) == count:
                self.reactor.advance(0.05)
            waited.append(round(self.reactor.seconds() - start, 2))
        for found, delay in zip(waited, (0.1, 0.5, 1, 2, 5, 5, 5), strict=True):
            self.assertTrue(delay <= found + 1e-6 < delay + 0.11, waited)

    def test_healthy(self) -> None:
        """
        One that ran for a while begins again with the shortest wait.
        """
        self.begin()
        for _ in range(3):
            self.latest(0).end(1)
            self.reactor.advance(5)
        self.latest(0).say("started")
        self.reactor.advance(10.1)
        count = len(self.processes)
        self.latest(0).end(1)
        self.reactor.advance(0.1)
        self.assertEqual(len(self.processes), count + 1)

    def test_failsLater(self) -> None:
        """
        One that cannot start again later, say because the bus is away, is tried again, and the parent goes on.
        """
        self.begin()
        self.latest(0).end(1)
        self.reactor.advance(0.1)
        self.latest(0).say("failed", option="--bus", message="not reachable")
        self.latest(0).say("drained", status=1)
        self.latest(0).end(1)
        self.reactor.advance(0.5)
        self.latest(0).say("started")
        self.assertEqual(len(self.processes), 4)
        self.assertIs(self.worker(0).state, WorkerState.running)


class HandOverTests(SupervisorCase):
    """
    A box that went from one worker to another.
    """

    def ask(self, asker: FakeProcess, asked: Worker | str, id_: int) -> None:
        """
        One worker asks for a box.
        """
        incarnation = asked if isinstance(asked, str) else asked.incarnation
        asker.say("handOver", id=id_, incarnation=incarnation, account="acme", asset="box-1", epoch=7)

    def test_routed(self) -> None:
        """
        The question goes to the incarnation that it names, the answer back to the asker under the asker's number.
        """
        [first, second] = self.begin()
        first.take(), second.take()
        self.ask(first, self.worker(1), 31)
        self.assertEqual(first.take(), [])
        [question] = second.take()
        self.assertEqual(
            {name: question[name] for name in ("kind", "account", "asset", "epoch")},
            {"kind": "handOver", "account": "acme", "asset": "box-1", "epoch": 7},
        )
        second.say("answer", id=question["id"], answer=marksToJson(MARKS))
        self.assertEqual(first.take(), [{"kind": "answer", "id": 31, "answer": marksToJson(MARKS)}])

    def test_disconnect(self) -> None:
        """
        The parent asks for itself, and passes on what a worker asks; one that is gone, or goes, has no link.
        """
        [first, second] = self.begin()
        first.take(), second.take()
        incarnation = self.worker(1).incarnation
        own = self.supervisor.disconnect(incarnation, BOX, 7)
        first.say("disconnect", id=31, incarnation=incarnation, account="acme", asset="box-1", epoch=7)
        questions = second.take()
        self.assertEqual([question["kind"] for question in questions], ["disconnect"] * 2)
        for question in questions:
            second.say("answer", id=question["id"], answer=True)
        self.assertIs(self.successResultOf(own), True)
        self.assertEqual(first.take(), [{"kind": "answer", "id": 31, "answer": True}])
        self.assertIsNone(self.successResultOf(self.supervisor.disconnect("elsewhere-0@aaaaaaaaaaaa", BOX, 7)))
        lost, given = (self.supervisor.disconnect(incarnation, BOX, 7) for _ in range(2))
        given.cancel()
        self.failureResultOf(given, CancelledError)
        second.end(signal=9)
        self.assertIsNone(self.successResultOf(lost))

    def test_both(self) -> None:
        """
        Questions both ways with the same numbers are not mixed up, whatever the order of the answers.
        """
        [first, second] = self.begin()
        first.take(), second.take()
        for _ in range(2):
            self.ask(first, self.worker(1), 1)
        self.ask(second, self.worker(0), 1)
        [one, two] = second.take()
        [back] = first.take()
        self.assertEqual(len({one["id"], two["id"], back["id"]}), 3)
        second.say("answer", id=two["id"], answer=[[2, 2, 2]])
        first.say("answer", id=back["id"], answer=[[3, 3, 3]])
        second.say("answer", id=one["id"], answer=[[1, 1, 1]])
        second.say("answer", id=one["id"], answer=[[9, 9, 9]])
        self.assertEqual([message["answer"] for message in first.take()], [[[2, 2, 2]], [[1, 1, 1]]])
        self.assertEqual([message["answer"] for message in second.take()], [[[3, 3, 3]]])

    def test_unknown(self) -> None:
        """
        An incarnation that is none of those that live, or no longer, is answered as dead at once.
        """
        [first, second] = self.begin()
        old = self.worker(1).incarnation
        second.end(1)
        first.take()
        # It waits to be started again: dead.
        self.ask(first, old, 1)
        self.reactor.advance(0.1)
        # It lives, with another incarnation.
        self.ask(first, old, 2)
        self.ask(first, "host-1@000000000000", 3)
        self.ask(first, "elsewhere-0@aaaaaaaaaaaa", 4)
        self.assertEqual(first.take(), [{"kind": "answer", "id": id_, "answer": None} for id_ in (1, 2, 3, 4)])
        self.assertEqual([message["kind"] for message in self.latest(1).take()], ["start"])

    def test_askedDies(self) -> None:
        """
        When the one that was asked dies, whoever waits for it is told so, each once.
        """
        [first, second] = self.begin()
        first.take()
        self.ask(first, self.worker(1), 1)
        self.ask(first, self.worker(1), 2)
        self.assertEqual(first.take(), [])
        second.end(signal=9)
        self.assertEqual(first.take(), [{"kind": "answer", "id": id_, "answer": None} for id_ in (1, 2)])
        self.reactor.advance(0.1)
        self.latest(1).end(1)
        self.assertEqual(first.take(), [])

    def test_askerDies(self) -> None:
        """
        An answer to one that has died meanwhile is passed over, and nothing breaks.
        """
        [first, second] = self.begin()
        second.take()
        self.ask(first, self.worker(1), 1)
        first.end(1)
        [question] = second.take()
        second.say("answer", id=question["id"], answer=[])
        self.assertEqual(second.take(), [])
        self.assertIs(self.worker(1).state, WorkerState.running)

    def test_answerToAnother(self) -> None:
        """
        The answer to a dead asker does not reach the one that was started in its place, which numbers anew.
        """
        [first, second] = self.begin()
        second.take()
        self.ask(first, self.worker(1), 1)
        first.end(1)
        self.reactor.advance(0.1)
        [question] = second.take()
        again = self.latest(0)
        again.take()
        second.say("answer", id=question["id"], answer=[[9, 9, 9]])
        self.assertEqual(again.take(), [])

    def test_whileStopping(self) -> None:
        """
        One that drains is still asked: it may have the box's tracks in flight.
        """
        [first, second] = self.begin()
        stopped = self.supervisor.end()
        first.take(), second.take()
        self.ask(first, self.worker(1), 1)
        [question] = second.take()
        self.assertEqual(question["kind"], "handOver")
        second.end(0)
        self.assertEqual(first.take(), [{"kind": "answer", "id": 1, "answer": None}])
        self.assertNoResult(stopped)


class StopTests(SupervisorCase):
    """
    The end.
    """

    def test_whole(self) -> None:
        """
        Each is told to stop; the parent ends once all have, the ports with them.
        """
        [first, second] = self.begin()
        first.take(), second.take()
        stopped = self.supervisor.end()
        self.assertEqual((first.take(), second.take()), ([{"kind": "stop"}], [{"kind": "stop"}]))
        for process in (first, second):
            self.assertNoResult(stopped)
            self.assertTrue(self.listener.bound.isOpen)
            process.say("drained", status=0)
            process.end(0)
        self.successResultOf(stopped)
        self.assertTrue(self.supervisor.drainedWhole)
        self.assertFalse(self.listener.bound.isOpen)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual(len(self.processes), 2)

    def test_cutShort(self) -> None:
        """
        A worker that says its drain was cut short makes the parent's one too.
        """
        self.stopSecond(["drained"])

    def test_diesInDrain(self) -> None:
        """
        So does one that dies before it said how its drain went.
        """
        self.stopSecond([])

    def stopSecond(self, words: list[str]) -> None:
        """
        The first worker drains whole, the second one does not.
        """
        [first, second] = self.begin()
        stopped = self.supervisor.end()
        first.say("drained", status=0)
        first.end(0)
        for kind in words:
            second.say(kind, status=1)
        second.end(1)
        self.successResultOf(stopped)
        self.assertFalse(self.supervisor.drainedWhole)

    def test_killed(self) -> None:
        """
        One that takes longer than the drain may, and some seconds, is killed.
        """
        [first, second] = self.begin()
        stopped = self.supervisor.end()
        first.say("drained", status=0)
        first.end(0)
        self.reactor.advance(24.9)
        self.assertEqual((first.signals, second.signals), ([], []))
        self.reactor.advance(0.2)
        self.assertEqual((first.signals, second.signals), ([], ["KILL"]))
        self.assertNoResult(stopped)
        second.end(signal=9)
        self.successResultOf(stopped)
        self.assertFalse(self.supervisor.drainedWhole)

    def test_waiting(self) -> None:
        """
        One that waits to be started again is not started any more.
        """
        [first, second] = self.begin()
        second.end(1)
        stopped = self.supervisor.end()
        first.say("drained", status=0)
        first.end(0)
        self.successResultOf(stopped)
        self.reactor.advance(60)
        self.assertEqual(len(self.processes), 2)

    def test_whileStarting(self) -> None:
        """
        A parent that is stopped while its workers start stops those that it has started.
        """
        begun = self.supervisor.begin()
        begun.addErrback(lambda failure: failure.trap(ConfigError))
        [first] = self.processes
        first.take()
        stopped = self.supervisor.end()
        self.assertEqual(first.take(), [{"kind": "stop"}])
        first.say("drained", status=0)
        first.end(0)
        self.successResultOf(stopped)
        self.assertEqual(len(self.processes), 1)
