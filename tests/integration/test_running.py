"""
Real gateway processes as operators see and change them while they run: health, logs, SIGHUP, drain.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from binaryserver.bus.topics import Topics
from tests.gatewayprocess import GatewayProcess, boxesEnd, startBoxes
from tests.integration.test_redis import exactly, link
from tests.services import KafkaProcess, makeTopics
from tests.session.redisrig import RedisServer

CONNACK = b"\x20\x02\x00\x00"


class RunningCase(SynchronousTestCase):
    """
    One gateway with a configuration file.
    """

    def gateway(self, *options: str, config: str = "", bus: str = "") -> GatewayProcess:
        """
        Started, with what its file says.
        """
        self.config = Path(self.mktemp()).absolute()
        self.config.write_text(config)
        gateway = GatewayProcess("--instance=host", f"--config={self.config}", *options, bus=bus)
        self.addCleanup(gateway.close)
        return gateway.start()

    def until(self, isSo: Callable[[], bool], seconds: float, what: str) -> None:
        """
        Wait for something.
        """
        deadline = time.monotonic() + seconds
        while not isSo():
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {seconds:g} s")
            time.sleep(0.1)

    def ready(self, gateway: GatewayProcess) -> tuple[int, dict[str, bool]]:
        """
        The status of C{/readyz}, and which checks are well.
        """
        status, report = gateway.ask("GET", "/readyz")
        return status, {name: check["ok"] for name, check in report["checks"].items()}

    def hangUp(self, gateway: GatewayProcess, config: str) -> str:
        """
        SIGHUP with another file.

        @return: the line that tells of it
        """
        before = len(gateway.log())
        self.config.write_text(config)
        os.kill(gateway.pid, signal.SIGHUP)
        self.until(lambda: "the configuration " in gateway.log()[before:], 10, "it is told")
        return next(line for line in gateway.log()[before:].splitlines() if "the configuration " in line)


class SingleTests(RunningCase):
    """
    One process.
    """

    def test_drain(self) -> None:
        """
        Asked to drain, by HTTP and by signal, it says so at once; for C{--drain-delay} it still takes boxes and serves
        those that it has; then it ends with status 0.
        """
        for byHttp in (True, False):
            gateway = self.gateway("--drain-delay=2")
            self.assertEqual(self.ready(gateway)[0], 200)
            early = link(gateway.port, "early")
            self.addCleanup(early.close)
            self.assertEqual(exactly(early, 4), CONNACK)
            began = time.monotonic()
            if byHttp:
                self.assertEqual(gateway.ask("POST", "/api/drain", {}), (202, {"instance": "host", "draining": True}))
            else:
                os.kill(gateway.pid, signal.SIGTERM)
            self.until(lambda: self.ready(gateway)[0] == 503, 1, "it is seen")  # noqa: B023
            self.assertFalse(self.ready(gateway)[1]["serving"])
            self.assertEqual(gateway.ask("GET", "/livez")[0], 200)
            late = link(gateway.port, "late")
            self.addCleanup(late.close)
            self.assertEqual(exactly(late, 4), CONNACK)
            early.sendall(b"\xc0\x00")
            self.assertEqual(exactly(early, 2), b"\xd0\x00")
            if byHttp:
                # The signal that an orchestrator sends to what drains already does no harm.
                os.kill(gateway.pid, signal.SIGTERM)
            self.assertEqual(gateway.wait(), 0)
            self.assertGreater(time.monotonic() - began, 1.9)
            for sock in (early, late):
                self.assertEqual(exactly(sock, 1), b"")
            self.assertNotIn("Traceback", gateway.log())

    def test_hangUp(self) -> None:
        """
        SIGHUP: limits and levels are taken, which a box and the log show; what cannot be is told; a bad file is not
        taken.
        """
        gateway = self.gateway(config='max-links = 0\nlog-format = "json"\n')
        sock = link(gateway.port, "box-1")
        self.addCleanup(sock.close)
        self.assertEqual(exactly(sock, 4), CONNACK)
        line = self.hangUp(gateway, 'max-links = 1\nlog-format = "json"\nlog-level = "debug"\nmd21-window = 5\n')
        told = json.loads(line)
        self.assertIn("changed: log-level info -> debug, max-links 0 -> 1;", told["message"])
        self.assertIn("needs a restart: md21-window;", told["message"])
        refused = link(gateway.port, "box-2")
        self.addCleanup(refused.close)
        self.assertEqual(exactly(refused, 1), b"")
        sock.close()
        self.until(lambda: "has ended" in gateway.log(), 5, "debug lines")
        ended = next(json.loads(line) for line in gateway.log().splitlines() if "has ended" in line)
        self.assertEqual((ended["asset"], ended["account"], ended["instance"]), ("box-1", "dev", "host"))
        self.assertIn("left as it was: --config: ", self.hangUp(gateway, "max-link = 1\n"))
        self.assertEqual(gateway.terminate(), 0)
        for line in gateway.log().splitlines():
            self.assertIsInstance(json.loads(line), dict)

    def test_sessions(self) -> None:
        """
        C{/readyz} says when Redis is gone, and when it is back; and that it does not keep what it acks.
        """
        redis = RedisServer()
        self.addCleanup(redis.close)
        redis.start()
        gateway = self.gateway(f"--sessions=redis://127.0.0.1:{redis.port}/0?timeout=1")
        status, report = gateway.ask("GET", "/readyz")
        self.assertEqual(status, 200)
        self.assertIn("appendonly is no", report["checks"]["sessions"]["detail"])
        redis.kill9()
        self.until(lambda: self.ready(gateway)[0] == 503, 15, "it is seen")
        checks = self.ready(gateway)[1]
        self.assertEqual([name for name, isOk in checks.items() if not isOk], ["sessions"])
        redis.start()
        self.until(lambda: self.ready(gateway)[0] == 200, 15, "it is well again")

    def test_bus(self) -> None:
        """
        Likewise of a Kafka that is frozen, once something has waited for it for long enough.
        """
        kafka = KafkaProcess()
        self.addCleanup(kafka.close)
        kafka.start()
        makeTopics(kafka.bootstrap, Topics.named().all, 2)
        gateway = self.gateway(bus=f"kafka://{kafka.bootstrap}")
        self.assertEqual(self.ready(gateway)[0], 200)
        kafka.freeze()
        sock = link(gateway.port, "box-1")
        self.addCleanup(sock.close)
        self.assertEqual(exactly(sock, 4), CONNACK)
        self.until(lambda: self.ready(gateway)[0] == 503, 20, "it is seen")
        checks = self.ready(gateway)[1]
        self.assertEqual([name for name, isOk in checks.items() if not isOk], ["bus"])
        kafka.thaw()
        self.until(lambda: self.ready(gateway)[0] == 200, 20, "it is well again")
        self.assertEqual(gateway.terminate(), 0)


class WorkersTests(RunningCase):
    """
    A parent and two workers.
    """

    def lines(self, gateway: GatewayProcess) -> list[dict[str, Any]]:
        """
        Its log.
        """
        return [json.loads(line) for line in gateway.log().splitlines()]

    def test_workers(self) -> None:
        """
        All of it with workers: what is logged, what is read again, and one that drains alone and comes back.
        """
        gateway = self.gateway("--workers=2", "--drain-delay=1", config='log-format = "json"\nmax-links = 0\n')
        status, report = gateway.ask("GET", "/readyz")
        self.assertEqual((status, report["checks"]["workers"]["detail"]), (200, "2 of 2 run"))
        self.assertEqual(set(report["checks"]), {"serving", "bus", "sessions", "directory", "workers"})
        told = gateway.ask("PUT", "/api/logs", {"level": "debug", "namespace": "binaryserver.md30"})
        self.assertEqual(told, (200, {"level": "info", "namespaces": {"binaryserver.md30": "debug"}}))
        boxesEnd(startBoxes(gateway.port, "--boxes=20", "--tracks=2"))
        ended = [line for line in self.lines(gateway) if "has ended" in line["message"]]
        self.assertEqual(len(ended), 20)
        self.assertLessEqual({line["instance"] for line in ended}, {"host-0", "host-1"})
        # One of them drains: the host goes on taking boxes all the time.
        self.assertEqual(gateway.ask("POST", "/api/drain", {"instance": "host-1"})[0], 202)
        seen = set()

        def isBack() -> bool:
            status, report = gateway.ask("GET", "/readyz")
            seen.add((status, report["checks"]["workers"]["detail"]))
            return gateway.log().count("worker host-1 runs") == 2

        self.until(isBack, 20, "the worker is there again")
        self.assertEqual({status for status, _ in seen}, {200})
        self.assertIn("1 of 2 run", {detail for _, detail in seen})
        # What it was told before it knows as well, and what is read again.
        line = self.hangUp(
            gateway, 'log-format = "json"\nmax-links = 1\nlog-level = "binaryserver.session=debug info"\n'
        )
        self.assertIn("max-links 0 -> 1", json.loads(line)["message"])
        time.sleep(0.5)
        socks: list[socket.socket] = []
        for number in range(8):
            socks.append(link(gateway.port, f"box-{number}"))
            self.addCleanup(socks[-1].close)
        answers = [exactly(sock, 4) for sock in socks]
        self.assertLessEqual(answers.count(CONNACK), 2, "one each")
        self.assertGreaterEqual(answers.count(CONNACK), 1)
        self.assertEqual(gateway.terminate(), 0)
