"""
Tests for L{binaryserver.workers.polling}, and for what the parent makes of it.
"""

from __future__ import annotations

from typing import Any, cast

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.metrics.families import asText, counter, toJson
from binaryserver.metrics.workers import WorkersCollector, gatherWorkers
from binaryserver.workers.channel import Channel
from binaryserver.workers.polling import PATIENCE, Polling
from binaryserver.workers.supervisor import Supervisor, WorkerState


class HandChannel:
    """
    Keeps what is sent.
    """

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def send(self, kind: str, **fields: Any) -> None:
        """
        See L{Channel.send}.
        """
        self.sent.append((kind, fields))


class PollingTests(SynchronousTestCase):
    """
    A question to all.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.polling = Polling(self.clock)
        self.channels = {"0": HandChannel(), "1": HandChannel()}

    def ask(self) -> Deferred[dict[str, list[Any]]]:
        """
        Ask both.
        """
        return self.polling.ask(cast(dict[str, Channel], self.channels))

    def answer(self, worker: str, number: int, families: list[Any]) -> None:
        """
        One of them answers.
        """
        self.polling.answered(worker, {"id": number, "families": families})

    def test_all(self) -> None:
        """
        It is over with the last answer, and no timer is left.
        """
        asked = self.ask()
        self.assertEqual([channel.sent for channel in self.channels.values()], [[("metrics", {"id": 1})]] * 2)
        self.answer("1", 1, [1])
        self.assertNoResult(asked)
        self.answer("0", 1, [0])
        self.assertEqual(self.successResultOf(asked), {"0": [0], "1": [1]})
        self.assertEqual((self.polling.unanswered, self.clock.getDelayedCalls()), (0, []))

    def test_silent(self) -> None:
        """
        Who does not answer in time is left out and counted; what it says later is no answer to the next question.
        """
        asked = self.ask()
        self.answer("1", 1, [1])
        self.clock.advance(PATIENCE)
        self.assertEqual(self.successResultOf(asked), {"1": [1]})
        self.assertEqual(self.polling.unanswered, 1)
        asked = self.ask()
        self.answer("0", 1, ["old"])
        self.answer("1", 2, [1])
        self.assertNoResult(asked)
        self.answer("0", 2, ["new"])
        self.assertEqual(self.successResultOf(asked), {"0": ["new"], "1": [1]})

    def test_together(self) -> None:
        """
        Who asks meanwhile has the same answer.
        """
        asked = [self.ask(), self.ask()]
        self.assertEqual(len(self.channels["0"].sent), 1)
        self.answer("0", 1, [0])
        self.answer("1", 1, [1])
        self.assertEqual([self.successResultOf(one) for one in asked], [{"0": [0], "1": [1]}] * 2)

    def test_nobody(self) -> None:
        """
        Where nobody runs there is no answer, at once.
        """
        asked = self.polling.ask({})
        self.clock.advance(0)
        self.assertEqual((self.successResultOf(asked), self.polling.unanswered), ({}, 0))


class GatherTests(SynchronousTestCase):
    """
    What the parent tells.
    """

    def test_parent(self) -> None:
        """
        Workers that run are asked, and the parent adds what it knows itself.
        """
        clock = Clock()
        supervisor = Supervisor(clock, {"instance": "a", "workers": 2}, ())
        channel = HandChannel()
        supervisor.workers[1].channel = cast(Channel, channel)
        supervisor.workers[1].state = WorkerState.running
        registry = CollectorRegistry(auto_describe=False)
        registry.register(WorkersCollector(supervisor))
        gathered = gatherWorkers(supervisor, registry)
        families = toJson([counter("tracks", "Tracks.", 9)])
        supervisor.received(supervisor.workers[1], {"kind": "metrics", "id": 1, "families": families})
        text = asText(self.successResultOf(gathered)).decode()
        for line in (
            'binaryserver_tracks_total{worker="1"} 9.0',
            'binaryserver_workers{worker="parent"} 2.0',
            'binaryserver_workers_running{worker="parent"} 1.0',
            'binaryserver_workers_unanswered_total{worker="parent"} 0.0',
        ):
            self.assertIn(line + "\n", text)
