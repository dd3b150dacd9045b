"""
Tests for L{binaryserver.plugins}, and for the plugins that come with the gateway: one that cannot be imported vanishes
without a word, so that each is asked for here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.application.service import IServiceMaker
from twisted.internet.testing import MemoryReactorClock
from twisted.plugin import IPlugin, getPlugins
from twisted.python.reflect import ObjectNotFound
from twisted.python.usage import Options
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import Interface
from zope.interface.verify import verifyObject

import binaryserver
from binaryserver.bus.memorybus import MemoryBus
from binaryserver.bus.sqlitebus import SqliteBus
from binaryserver.directory.opendirectory import OpenDirectory
from binaryserver.errors import ConfigError
from binaryserver.interfaces import (
    IBackEndPlugin,
    IBoxProtocol,
    IBus,
    IBusPlugin,
    IDirectoryPlugin,
    IDirectorySource,
    IEventCodec,
    ISessionStore,
    ISessionStorePlugin,
)
from binaryserver.options import SETTINGS, GatewayOptions
from binaryserver.plugins import BackEnd, BackEndContext, backEnds, createBackEnd
from binaryserver.session.memorystore import MemorySessionStore
from binaryserver.session.sqlitestore import SqliteSessionStore

ROOT = Path(binaryserver.__file__).parents[1]

SPECS: dict[Any, dict[str, tuple[str, Any]]] = {
    IBusPlugin: {
        "memory": ("memory:", IBus),
        "sqlite": ("sqlite:bus.sqlite", IBus),
        "kafka": ("kafka://127.0.0.1:9092", IBus),
        "pykafka": ("pykafka://127.0.0.1:9092", IBus),
    },
    ISessionStorePlugin: {
        "memory": ("memory:", ISessionStore),
        "sqlite": ("sqlite:sessions.sqlite", ISessionStore),
    },
    IDirectoryPlugin: {"open": ("open:", IDirectorySource)},
}
"""What comes with the gateway: by kind and scheme a value of the option, and what is made of it."""


def python(*lines: str) -> str:
    """
    What a fresh interpreter prints.
    """
    ended = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return ended.stdout


class ShippedTests(SynchronousTestCase):
    """
    What C{twisted/plugins} holds.
    """

    def setUp(self) -> None:
        self.context = BackEndContext(MemoryReactorClock(), "--test", topics=("t",))

    def test_backEnds(self) -> None:
        """
        Every back end is found, once, as a plugin of its own kind alone, with a line for C{--help}.
        """
        for kind, schemes in SPECS.items():
            found = list(getPlugins(kind))
            self.assertEqual(sorted(plugin.scheme for plugin in found), sorted(schemes))
            for plugin in found:
                verifyObject(IBackEndPlugin, plugin)
                verifyObject(kind, plugin)
                self.assertTrue(IPlugin.providedBy(plugin))
                self.assertEqual([other for other in SPECS if other.providedBy(plugin)], [kind])
                self.assertTrue(plugin.description.startswith(f"{plugin.scheme}:"), plugin.description)

    def test_made(self) -> None:
        """
        Each makes what its kind promises, and opens nothing.
        """
        os.makedirs(place := self.mktemp())
        before = os.getcwd()
        os.chdir(place)
        self.addCleanup(os.chdir, before)
        for kind, schemes in SPECS.items():
            for spec, interface in schemes.values():
                verifyObject(interface, createBackEnd(kind, spec, self.context))
        self.assertEqual(os.listdir("."), [])
        self.assertEqual(self.context.reactor.tcpClients, [])
        self.assertEqual(self.context.reactor.getDelayedCalls(), [])

    def test_kinds(self) -> None:
        """
        One scheme means another thing for another option.
        """
        for kind, spec, made in (
            (IBusPlugin, "memory:", MemoryBus),
            (ISessionStorePlugin, "memory:", MemorySessionStore),
            (IBusPlugin, "sqlite:x", SqliteBus),
            (ISessionStorePlugin, "sqlite:x", SqliteSessionStore),
            (IDirectoryPlugin, "open:", OpenDirectory),
        ):
            self.assertIs(type(createBackEnd(kind, spec, self.context)), made)

    def test_defaults(self) -> None:
        """
        What the options default to can be made.
        """
        defaults = {setting.name: setting.default for setting in SETTINGS}
        for kind, name in ((IBusPlugin, "bus"), (ISessionStorePlugin, "sessions"), (IDirectoryPlugin, "directory")):
            self.assertIn(defaults[name].partition(":")[0], backEnds(kind))

    def test_help(self) -> None:
        """
        C{--help} names every scheme of every kind.
        """
        text = " ".join(GatewayOptions({}).getUsage(width=200).split())
        for schemes in SPECS.values():
            for scheme in schemes:
                self.assertIn(f"{scheme}:", text)

    def test_protocols(self) -> None:
        """
        The box protocols are found, each with a name that is an option.
        """
        found = list(getPlugins(IBoxProtocol))
        self.assertEqual([protocol.name for protocol in found], ["md30"])
        for protocol in found:
            verifyObject(IBoxProtocol, protocol)
            self.assertIn(protocol.name, {setting.name for setting in SETTINGS})

    def test_codecs(self) -> None:
        """
        The forms of tracks are found, with topics that no other has.
        """
        found = list(getPlugins(IEventCodec))
        self.assertEqual(
            sorted((codec.shortTopic, codec.longTopic) for codec in found), [("t", "tracks"), ("tj", "tracks/json")]
        )
        for codec in found:
            verifyObject(IEventCodec, codec)
            self.assertGreater(codec.threadedAbove, 0)

    def test_service(self) -> None:
        """
        C{twistd} finds the gateway, and its options behind it.
        """
        found = [maker for maker in getPlugins(IServiceMaker) if maker.tapname == "binaryserver"]
        self.assertEqual(len(found), 1)
        verifyObject(IServiceMaker, found[0])
        self.assertIs(found[0].options, GatewayOptions)
        self.assertTrue(issubclass(found[0].options, Options))

    def test_light(self) -> None:
        """
        Listing plugins imports no client of a bus, no database, nor the reactor, nor what builds the services.
        """
        printed = python(
            "import sys",
            "from twisted.application.service import IServiceMaker",
            "from twisted.plugin import getPlugins",
            "from binaryserver.interfaces import IBusPlugin, IDirectoryPlugin, ISessionStorePlugin",
            "assert any(maker.tapname == 'binaryserver' for maker in getPlugins(IServiceMaker))",
            "kinds = (IBusPlugin, ISessionStorePlugin, IDirectoryPlugin)",
            "print(sum(len(list(getPlugins(kind))) for kind in kinds))",
            "heavy = ('confluent_kafka', 'pykafka', 'sqlite3', 'twisted.internet.reactor', 'binaryserver.tap')",
            "print([name for name in heavy if name in sys.modules])",
        )
        self.assertEqual(printed, "7\n[]\n")


class CreateTests(SynchronousTestCase):
    """
    L{createBackEnd}.
    """

    def setUp(self) -> None:
        self.context = BackEndContext(MemoryReactorClock(), "--bus")

    def refused(self, kind: type[Interface], spec: str) -> str:
        """
        What is said of a value that cannot be used.
        """
        error = self.assertRaises(ConfigError, createBackEnd, kind, spec, self.context)
        self.assertEqual(error.option, "--bus")
        self.assertTrue(str(error).startswith("--bus: "), str(error))
        self.assertNotIn("\n", str(error))
        return str(error)

    def test_unknown(self) -> None:
        """
        A scheme that nobody has is told with those that there are of the kind.
        """
        for spec in ("nats://localhost", "", ":", "bus.sqlite", "/var/bus.sqlite", "http", "memory bus:"):
            text = self.refused(IBusPlugin, spec)
            self.assertIn(repr(spec), text)
            self.assertTrue(text.endswith("known: kafka, memory, pykafka, sqlite"), text)
        self.assertTrue(self.refused(ISessionStorePlugin, "kafka://x:1").endswith("known: memory, sqlite"))
        self.assertTrue(self.refused(IDirectoryPlugin, "memory:").endswith("known: open"))

    def test_badSpec(self) -> None:
        """
        What the back end itself does not understand is told in the option's name too.
        """
        for kind, spec in (
            (IBusPlugin, "memory:somewhere"),
            (IBusPlugin, "memory:?partitions=x"),
            (IBusPlugin, "sqlite:"),
            (IBusPlugin, "sqlite:bus.sqlite?what=1"),
            (IBusPlugin, "kafka:"),
            (IBusPlugin, "kafka://"),
            (IBusPlugin, "pykafka://"),
            (IBusPlugin, "pykafka://h:1?what=1"),
            (ISessionStorePlugin, "memory:x"),
            (ISessionStorePlugin, "sqlite:"),
            (IDirectoryPlugin, "open:accounts.toml"),
        ):
            self.refused(kind, spec)

    def test_case(self) -> None:
        """
        A scheme is one in whatever case, as in any URL; the rest of the value keeps its own.
        """
        self.assertIsInstance(createBackEnd(IBusPlugin, "Memory:?partitions=2", self.context), MemoryBus)


class ThirdPartyTests(SynchronousTestCase):
    """
    A package that is not ours.
    """

    def install(self, name: str, lines: Sequence[str]) -> str:
        """
        Put a plugin module into a C{twisted/plugins} of somebody else's.

        @return: its folder
        """
        folder = Path(self.mktemp()).absolute()
        (folder / "twisted" / "plugins").mkdir(parents=True)
        (folder / "twisted" / "plugins" / f"{name}.py").write_text("\n".join(lines) + "\n")
        return str(folder)

    def test_backEnd(self) -> None:
        """
        Its back end is named by its scheme beside ours.
        """
        folder = self.install(
            "third_bus",
            [
                "from binaryserver.interfaces import IBusPlugin",
                "from binaryserver.plugins import BackEnd",
                "theirs = BackEnd(IBusPlugin, 'third', 'builtins.dict.fromkeys', 'third: a bus of theirs')",
            ],
        )
        printed = python(
            f"import sys; sys.path.append({folder!r})",
            "from binaryserver.interfaces import IBusPlugin",
            "from binaryserver.plugins import backEnds, createBackEnd",
            "print(*sorted(backEnds(IBusPlugin)))",
            "print(createBackEnd(IBusPlugin, 'third', 'context'))",
        )
        expected = dict.fromkeys("third", "context")
        self.assertEqual(printed, f"kafka memory pykafka sqlite third\n{expected}\n")

    def test_broken(self) -> None:
        """
        One that cannot be imported takes no other with it.
        """
        folder = self.install("broken_bus", ["import no_such_module_at_all"])
        printed = python(
            f"import sys; sys.path.append({folder!r})",
            "from binaryserver.interfaces import IBusPlugin",
            "from binaryserver.plugins import backEnds",
            "print(*sorted(backEnds(IBusPlugin)))",
        )
        self.assertEqual(printed, "kafka memory pykafka sqlite\n")

    def test_lazily(self) -> None:
        """
        What makes the back end is looked for only when one is made.
        """
        plugin = BackEnd(IBusPlugin, "late", "no_such_module_at_all.Bus", "late: never there")
        verifyObject(IBusPlugin, plugin)
        self.assertRaises(ObjectNotFound, plugin.create, "late:", BackEndContext(MemoryReactorClock(), "--bus"))
