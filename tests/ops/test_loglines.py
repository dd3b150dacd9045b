"""
Tests for L{binaryserver.ops.logs}.
"""

from __future__ import annotations

import io
import json
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.logger import ILogObserver, Logger, LogLevel, LogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from binaryserver.errors import ConfigError
from binaryserver.model import BoxKey
from binaryserver.ops.logs import Logs, levelTexts, openTwistdLog, parseLevels
from tests.harness import World


class LevelTests(SynchronousTestCase):
    """
    C{--log-level}.
    """

    def test_parse(self) -> None:
        """
        A level for everything, and levels for namespaces, there and back.
        """
        for texts, levels in (
            ([], {"": "info"}),
            (["debug"], {"": "debug"}),
            (["binaryserver.bus=warn"], {"": "info", "binaryserver.bus": "warn"}),
            (["error", "a=debug", "b.c=critical"], {"": "error", "a": "debug", "b.c": "critical"}),
        ):
            self.assertEqual(parseLevels(texts), levels)
            self.assertEqual(parseLevels(levelTexts(levels)), levels)

    def test_bad(self) -> None:
        """
        Anything else is told in the option's name.
        """
        for text in ("", "fish", "=debug", "a=", "a=fish", "DEBUG"):
            error = self.assertRaises(ConfigError, parseLevels, [text])
            self.assertTrue(str(error).startswith(f"--log-level: {text!r} is neither debug, info, warn"), error)
        self.assertRaises(ConfigError, Logs, "xml", {}, "i")


class LinesTests(SynchronousTestCase):
    """
    What becomes of events.
    """

    def logs(self, form: str, **levels: str) -> Logs:
        """
        A log that is written to C{self.file}.
        """
        self.file = io.StringIO()
        logs = Logs(form, {"": "info", **levels}, "host-1")
        logs.open(self.file)
        return logs

    def logger(self, logs: Logs, namespace: str = "binaryserver.test") -> Logger:
        """
        One whose events go there.
        """
        return Logger(namespace, observer=LogPublisher(logs))

    def lines(self) -> list[dict[str, Any]]:
        """
        What was written since last asked, as JSON.
        """
        text = self.file.getvalue()
        self.file.truncate(0)
        self.file.seek(0)
        return [json.loads(line) for line in text.splitlines()]

    def test_json(self) -> None:
        """
        One object a line: when, how grave, from where, what, who; and the box, the link and the peer that an event is
        about, and nothing else of it.
        """
        logs = self.logs("json")
        self.assertTrue(verifyObject(ILogObserver, logs))
        log = self.logger(logs)
        log.info(
            "{peer}: a {kind}\nof two lines",
            kind="thing",
            peer=IPv4Address("TCP", "192.0.2.7", 4000),
            account="acme",
            asset="box-1",
            link=77,
            secret="hidden",
        )
        log.warn("{box}", box=BoxKey("acme", "box-2"), asset=None)
        [first, second] = self.lines()
        self.assertRegex(first.pop("time"), r"^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        self.assertEqual(
            first,
            {
                "level": "info",
                "namespace": "binaryserver.test",
                "message": "IPv4Address(type='TCP', host='192.0.2.7', port=4000): a thing\nof two lines",
                "instance": "host-1",
                "account": "acme",
                "asset": "box-1",
                "link": 77,
                "peer": "192.0.2.7",
            },
        )
        self.assertEqual((second["level"], second["account"], second["asset"]), ("warn", "acme", "box-2"))

    def test_failure(self) -> None:
        """
        A failure brings its traceback, in the same line.
        """
        log = self.logger(self.logs("json"))
        try:
            raise ZeroDivisionError("by the test")
        except ZeroDivisionError:
            log.failure("unforeseen")
        [line] = self.lines()
        self.assertEqual((line["level"], line["message"]), ("critical", "unforeseen"))
        self.assertIn("test_failure", line["traceback"])
        self.assertIn("ZeroDivisionError: by the test", line["traceback"])

    def test_unfit(self) -> None:
        """
        An event whose text cannot be made, or that lacks what others have, is a line all the same.
        """
        logs = self.logs("json")
        logs({"log_format": "{nothing}", "log_level": LogLevel.info, "log_namespace": "n", "log_time": 1.0})
        logs({"log_level": LogLevel.info, "log_namespace": "n"})
        self.assertEqual(len(self.lines()), 2)

    def test_text(self) -> None:
        """
        Text is as twistd has it.
        """
        self.logger(self.logs("text")).info("a {kind}", kind="thing")
        self.assertRegex(self.file.getvalue(), r"^20\S+ \[binaryserver\.test#info\] a thing\n$")

    def test_levels(self) -> None:
        """
        Of each namespace as much as is asked for, of what is below it too; changed while it runs, and undone.
        """
        logs = self.logs("json", **{"binaryserver.bus": "debug"})
        logs.setLevels({"": "warn", "binaryserver.bus": "debug"})
        for namespace in (
            "binaryserver",
            "binaryserver.bus",
            "binaryserver.bus.kafkabus.KafkaBus",
            "binaryserver.busy",
        ):
            log = self.logger(logs, namespace)
            log.debug("d")
            log.info("i")
            log.warn("w")
            wanted = ["d", "i", "w"] if ".bus" in namespace and "busy" not in namespace else ["w"]
            self.assertEqual([line["message"] for line in self.lines()], wanted, namespace)
        logs.setLevels({})
        log = self.logger(logs, "binaryserver.bus")
        log.debug("d")
        log.info("i")
        self.assertEqual([line["message"] for line in self.lines()], ["i"])

    def test_notOpen(self) -> None:
        """
        Before it is open there is nowhere to write to.
        """
        Logs("text", {}, "i")({"log_level": LogLevel.info, "log_namespace": "n"})

    def test_links(self) -> None:
        """
        What is told of a link names its box and its epoch, once it has one.
        """
        logs = self.logs("json", binaryserver="debug")
        world = World()
        box = world.box()
        self.patch(type(box.link), "log", self.logger(logs))
        box.send(b"\xf7\x00")
        lines = self.lines()
        self.assertIn("link closed: MalformedPacket", lines[0]["message"])
        self.assertIn("has ended: NETWORK_ERROR", lines[1]["message"])
        for line in lines:
            self.assertEqual(
                (line["account"], line["asset"], line["link"]), ("dev", box.asset, box.link.linkEpoch), line
            )


class PlaceTests(SynchronousTestCase):
    """
    Where C{twistd}'s options have the log.
    """

    def test_file(self) -> None:
        """
        A file is written, and what rotates it is handed over.
        """
        path = self.mktemp()
        rotates: list[Any] = []
        logs = Logs("json", {}, "i")
        openTwistdLog(logs, {"logfile": path, "nodaemon": True}, rotates.append)
        Logger("n", observer=LogPublisher(logs)).info("one")
        rotates[0]()
        Logger("n", observer=LogPublisher(logs)).info("two")
        for name, word in ((f"{path}.1", "one"), (path, "two")):
            with open(name) as file:
                self.assertEqual([json.loads(line)["message"] for line in file], [word])

    def test_daemon(self) -> None:
        """
        A daemon has no standard output.
        """
        self.assertRaises(ConfigError, openTwistdLog, Logs("text", {}, "i"), {"logfile": "-"}, list)
