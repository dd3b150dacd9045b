"""
Tests for what the parent of workers tells of their health.
"""

from __future__ import annotations

from binaryserver.ops.health import Check
from tests.workers.test_channel import SupervisorCase

GOOD, BAD = [True, "it is well"], [False, "it is not"]


class WorkersHealthTests(SupervisorCase):
    """
    A parent of two workers.
    """

    def test_together(self) -> None:
        """
        What the workers last said, together; each part is well if it is in all of them.
        """
        [first, second] = self.begin()
        first.say("health", checks={"bus": GOOD, "serving": GOOD})
        second.say("health", checks={"bus": GOOD, "serving": GOOD})
        self.assertEqual(
            self.supervisor.checks(),
            {
                "bus": Check(True, "it is well"),
                "serving": Check(True, "it is well"),
                "workers": Check(True, "2 of 2 run"),
            },
        )
        second.say("health", checks={"bus": BAD, "serving": GOOD})
        self.assertEqual(self.supervisor.checks()["bus"], Check(False, "host-1: it is not"))

    def test_dead(self) -> None:
        """
        The others take the boxes of one that died; without any there is nobody to.
        """
        [first, second] = self.begin()
        first.say("health", checks={"bus": GOOD})
        second.say("health", checks={"bus": BAD})
        second.end(1)
        found = self.supervisor.checks()
        self.assertEqual(found, {"bus": Check(True, "it is well"), "workers": Check(True, "1 of 2 run")})
        first.end(1)
        self.assertEqual(self.supervisor.checks(), {"workers": Check(False, "0 of 2 run")})

    def test_silent(self) -> None:
        """
        One that says nothing any more is not well: its kernel queue still takes boxes.
        """
        [first, second] = self.begin()
        for process in (first, second):
            process.say("health", checks={"bus": GOOD})
        self.reactor.advance(4)
        first.say("health", checks={"bus": GOOD})
        self.assertTrue(self.supervisor.checks()["workers"].ok)
        self.reactor.advance(2)
        self.assertEqual(self.supervisor.checks()["workers"], Check(False, "2 of 2 run; nothing is heard of host-1"))


class WorkersControlTests(SupervisorCase):
    """
    What is changed while they run.
    """

    def test_drain(self) -> None:
        """
        One drains alone: the others take the boxes meanwhile, and it is started again at once when it has.
        """
        [first, second] = self.begin()
        for process in (first, second):
            process.say("health", checks={"serving": GOOD})
            process.take()
        self.assertFalse(self.supervisor.drainWorker("host"))
        self.assertTrue(self.supervisor.drainWorker("host-1"))
        self.assertEqual((first.take(), second.take()), ([], [{"kind": "stop"}]))
        second.say("health", checks={"serving": BAD})
        self.assertEqual(
            self.supervisor.checks(), {"serving": Check(True, "it is well"), "workers": Check(True, "1 of 2 run")}
        )
        second.say("drained", status=0)
        second.end(0)
        self.assertEqual(len(self.processes), 3)
        self.latest(1).say("started")
        self.latest(1).say("health", checks={"serving": GOOD})
        self.assertEqual(self.supervisor.checks()["workers"], Check(True, "2 of 2 run"))
        self.assertTrue(self.supervisor.drainedWhole)

    def test_drainCutShort(self) -> None:
        """
        One whose drain was not whole is started again as any that dies.
        """
        [_, second] = self.begin()
        self.supervisor.drainWorker("host-1")
        second.say("drained", status=1)
        second.end(1)
        self.assertEqual(len(self.processes), 2)
        self.reactor.advance(0.1)
        self.assertEqual(len(self.processes), 3)

    def test_changes(self) -> None:
        """
        Levels and limits go to all of them, and to those that are started later.
        """
        processes = self.begin()
        for process in processes:
            process.take()
        self.supervisor.setLevels({"": "warn", "a.b": "debug"})
        self.supervisor.reload({"window": 5, "log-level": ["info"]})
        expected = [
            {"kind": "logs", "levels": {"": "warn", "a.b": "debug"}},
            {"kind": "reload", "settings": {"window": 5, "log-level": ["info"]}},
        ]
        for process in processes:
            self.assertEqual(process.take(), expected)
        processes[1].end(1)
        self.supervisor.setLevels({"": "error"})
        self.reactor.advance(0.1)
        [message] = self.latest(1).take()
        self.assertEqual((message["settings"]["window"], message["settings"]["log-level"]), (5, ["error"]))
