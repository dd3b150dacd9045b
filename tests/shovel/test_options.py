"""
Tests for L{binaryserver.shovel.options} and L{binaryserver.shovel.tap}.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.application.service import IServiceMaker
from twisted.internet.testing import MemoryReactorClock
from twisted.plugin import getPlugins
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.errors import ConfigError
from binaryserver.options import SETTINGS as GATEWAY_SETTINGS
from binaryserver.service import BackEndService, ListeningService
from binaryserver.shovel.options import SETTINGS, ShovelOptions
from binaryserver.shovel.service import ShovelService
from binaryserver.shovel.tap import build

RQUEUE = "--rqueue=rqueue://127.0.0.1:6379/0"


def parsed(*options: str, environment: dict[str, str] | None = None) -> ShovelOptions:
    """
    Options, as C{twistd} would have parsed them.
    """
    made = ShovelOptions(environment or {})
    made.parseOptions(list(options))
    return made


class OptionsTests(SynchronousTestCase):
    """
    The settings.
    """

    def test_plugin(self) -> None:
        """
        C{twistd} finds it.
        """
        (maker,) = [one for one in getPlugins(IServiceMaker) if one.tapname == "binaryserver-shovel"]
        self.assertIs(maker.options, ShovelOptions)

    def test_defaults(self) -> None:
        """
        What is not given has its default.
        """
        made = parsed(RQUEUE)
        for setting in SETTINGS:
            if setting.name not in ("rqueue", "instance"):
                self.assertEqual(made[setting.name], setting.default)
        self.assertEqual(made["instance"], os.uname().nodename)

    def test_sources(self) -> None:
        """
        Command line before environment before file.
        """
        path = self.mktemp()
        with open(path, "w") as file:
            file.write('rqueue = "rqueue://a/0"\nbatch = 1\nlease = 3\npoll-interval = 2.5\n')
        environment = {"BINARYSERVER_BATCH": "2", "BINARYSERVER_LEASE": "4", "BINARYSERVER_CONFIG": path}
        made = parsed("--lease=5", environment=environment)
        self.assertEqual(
            (made["rqueue"], made["batch"], made["lease"], made["poll-interval"]), ("rqueue://a/0", 2, 5.0, 2.5)
        )

    def test_bad(self) -> None:
        """
        One line that names the option.
        """
        path = self.mktemp()
        with open(path, "w") as file:
            file.write("rqeue = 1\n")
        for options, text in (
            ((), "--rqueue: it must be given"),
            ((RQUEUE, "--batch=0"), "--batch: "),
            ((RQUEUE, "--batch=x"), "--batch: "),
            ((RQUEUE, "--lease=0.5"), "--lease: "),
            ((RQUEUE, "--bus="), "--bus: "),
            ((RQUEUE, f"--config={path}"), "--config: " + path + ": line 1: rqeue is no setting; rqueue is"),
            ((RQUEUE, "--config=/nowhere/x"), "--config: /nowhere/x: "),
        ):
            error = self.assertRaises(SystemExit, parsed, *options)
            self.assertIn(f"binaryserver-shovel: {text}", str(error))
            self.assertNotIn("\n", str(error))

    def test_sameNames(self) -> None:
        """
        What the gateway has too means the same there: its variables and its file may be shared.
        """
        gateways = {setting.name: setting for setting in GATEWAY_SETTINGS}
        shared = [setting for setting in SETTINGS if setting.name in gateways]
        self.assertGreater(len(shared), 5)
        for setting in shared:
            self.assertEqual(setting.kind, gateways[setting.name].kind)


class BuildTests(SynchronousTestCase):
    """
    The services.
    """

    def built(self, *options: str) -> list[Any]:
        """
        In the order of their start.
        """
        return list(build(MemoryReactorClock(), parsed(RQUEUE, "--bus=memory:", *options)))

    def test_order(self) -> None:
        """
        The bus is there before anything is taken, and after.
        """
        self.assertEqual(list(map(type, self.built())), [BackEndService, ShovelService])
        http = self.built("--http=tcp:0:interface=127.0.0.1")
        self.assertEqual(list(map(type, http)), [BackEndService, ListeningService, ShovelService])

    def test_bad(self) -> None:
        """
        What a back end does not understand names its option.
        """
        for option, value in (("--bus", "pigeon:"), ("--rqueue", "redis://x/0"), ("--http", "nonsense")):
            error = self.assertRaises(ConfigError, self.built, f"{option}={value}")
            self.assertEqual(error.option, option)
