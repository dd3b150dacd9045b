"""
Tests for L{binaryserver.listeners}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from binaryserver import listeners
from binaryserver.assembly import Assembly
from binaryserver.errors import ConfigError
from binaryserver.gateway import Gateway
from binaryserver.interfaces import IBoxProtocol
from binaryserver.options import GatewayOptions
from binaryserver.session.registry import NoPeers
from tests.harness import HandReactor


@implementer(IBoxProtocol)
class Morse:
    """
    A protocol that a plugin brings.
    """

    name = "morse"

    def buildFactory(self, gateway: Gateway) -> Factory:
        """
        See L{IBoxProtocol.buildFactory}.
        """
        return Factory()


class ListenTests(SynchronousTestCase):
    """
    C{--listen}.
    """

    def listeners(self, *options: str) -> list[str]:
        """
        Protocol and endpoint of each listener.
        """
        found = GatewayOptions({})
        found.parseOptions(["--bus=memory:", "--sessions=memory:", "--md21=off", *options])
        made = Assembly(HandReactor(), found, "test@1", NoPeers())
        return [f"{name} {listener.description}" for name, listener in made.listeners.all()]

    def plugins(self, *protocols: Any) -> None:
        """
        These are installed.
        """
        self.patch(listeners, "getPlugins", lambda interface: protocols if interface is IBoxProtocol else ())

    def test_plugin(self) -> None:
        """
        A plugin's protocol listens where it is told to, beside the gateway's own.
        """
        self.plugins(Morse())
        self.assertEqual(
            self.listeners("--listen=morse=tcp:7000", "--listen=morse=tcp:7001", "--md30=tcp:1883"),
            ["md30 tcp:1883", "morse tcp:7000", "morse tcp:7001"],
        )

    def test_wrong(self) -> None:
        """
        What is no plugin's, and what is no endpoint, stops the start by the option's name.
        """
        self.plugins(Morse())
        for option, reason in (
            ("--listen=md30=tcp:7000", "known protocols: morse"),
            ("--listen=smoke=tcp:7000", "known protocols: morse"),
            ("--listen=tcp:7000", "PROTOCOL=ENDPOINT"),
            ("--listen=morse=nonsense", "nonsense"),
        ):
            error = self.assertRaises(ConfigError, self.listeners, option)
            self.assertTrue(str(error).startswith("--listen: "), str(error))
            self.assertIn(reason, str(error))
        self.plugins()
        self.assertIn("no plugin brings one", str(self.assertRaises(ConfigError, self.listeners, "--listen=x=tcp:1")))
