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
