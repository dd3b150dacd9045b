"""
Tests for L{binaryserver.plugins}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.testing import MemoryReactorClock
from twisted.plugin import IPlugin, getPlugins
from twisted.python.modules import getModule
from twisted.python.reflect import namedAny
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from binaryserver.bus.memorybus import MemoryBus
from binaryserver.errors import ConfigError
from binaryserver.interfaces import IBus, IBusPlugin, IDirectoryPlugin, ISessionStore, ISessionStorePlugin
from binaryserver.plugins import BackEnd, BackEndContext, backEnds, createBackEnd

KINDS: tuple[Any, ...] = (IBusPlugin, ISessionStorePlugin, IDirectoryPlugin)


class BackEndTests(SynchronousTestCase):
    """
    Back ends are found by their scheme.
    """

    def context(self, option: str) -> BackEndContext:
        """
        What a back end is given.
        """
        return BackEndContext(MemoryReactorClock(), option)

    def test_eachIsFound(self) -> None:
        """
        Every back end that the plugin module makes is found: one that fails to import vanishes silently.
        """
        module = namedAny("twisted.plugins.binaryserver_backends")
        made = {one for one in vars(module).values() if isinstance(one, BackEnd)}
        found = {one for kind in KINDS for one in getPlugins(kind)}
        self.assertEqual(made - found, set())
        self.assertLessEqual({"memory", "sqlite", "kafka", "pykafka"}, set(backEnds(IBusPlugin)))
        self.assertLessEqual({"memory", "sqlite"}, set(backEnds(ISessionStorePlugin)))
        self.assertIn("open", backEnds(IDirectoryPlugin))

    def test_eachIsWhatItSays(self) -> None:
        """
        Each provides its interface, says in a line what it is for, and its factory's module is there.
        """
        for kind in KINDS:
            for scheme, plugin in backEnds(kind).items():
                verifyObject(kind, plugin)
                self.assertTrue(IPlugin.providedBy(plugin))
                self.assertTrue(plugin.description.startswith(f"{scheme}:"), plugin.description)
                assert isinstance(plugin, BackEnd)
                getModule(plugin.factory.rpartition(".")[0])

    def test_create(self) -> None:
        """
        The scheme chooses, in upper case too, and the back end is given the whole value and the context.
        """
        for spec in ("memory:?partitions=3", "MEMORY:?partitions=3"):
            bus = createBackEnd(IBusPlugin, spec, BackEndContext(MemoryReactorClock(), "--bus", topics=("t",)))
            self.assertIsInstance(bus, MemoryBus)
            verifyObject(IBus, bus)
            self.successResultOf(bus.start())
            self.assertEqual({bus.partitionFor("t", b"%d" % n) for n in range(50)}, {0, 1, 2})
        verifyObject(ISessionStore, createBackEnd(ISessionStorePlugin, "memory:", self.context("--sessions")))

    def test_unknownScheme(self) -> None:
        """
        A value that names no back end ends the start with a line that names the option and those that there are.
        """
        for spec in ("carrier-pigeon:loft", "", "/var/bus.sqlite"):
            error = self.assertRaises(ConfigError, createBackEnd, IBusPlugin, spec, self.context("--bus"))
            self.assertEqual(error.option, "--bus")
            self.assertIn(repr(spec), str(error))
            self.assertIn("kafka, memory, pykafka, sqlite", str(error))

    def test_badValue(self) -> None:
        """
        What a back end does not understand is its own to tell, with the option that named it.
        """
        for kind, spec, option in (
            (IBusPlugin, "sqlite", "--bus"),
            (IBusPlugin, "memory:somewhere", "--bus"),
            (IBusPlugin, "kafka://", "--bus"),
            (ISessionStorePlugin, "sqlite:", "--sessions"),
            (IDirectoryPlugin, "open:sesame", "--directory"),
        ):
            error = self.assertRaises(ConfigError, createBackEnd, kind, spec, self.context(option))
            self.assertTrue(str(error).startswith(f"{option}: "), str(error))
