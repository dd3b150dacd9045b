"""
Tests for L{binaryserver.directory.opendirectory}.
"""

from __future__ import annotations

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import TestCase

from binaryserver.directory.opendirectory import OpenDirectory
from binaryserver.directory.records import Account, Box
from binaryserver.errors import ConfigError
from binaryserver.interfaces import IDirectoryPlugin, IDirectorySource
from binaryserver.model import Clouds
from binaryserver.plugins import BackEndContext, createBackEnd
from tests.directory.contract import AnySourceContractMixin


class OpenDirectoryTests(AnySourceContractMixin, TestCase):
    """
    C{open:}.
    """

    def makeSource(self) -> IDirectorySource:
        """
        See L{AnySourceContractMixin}.
        """
        source: IDirectorySource = createBackEnd(
            IDirectoryPlugin, "open:", BackEndContext(MemoryReactorClock(), "--directory")
        )
        return source

    def test_forDevelopment(self) -> None:
        """
        It is for loopback only, and who names no account is in C{dev}.
        """
        source = self.makeSource()
        self.assertTrue(source.requiresLoopback)
        self.assertEqual(source.defaultAccount, "dev")

    def test_takesNoValue(self) -> None:
        """
        A value that would be passed over is refused, in the option's name.
        """
        context = BackEndContext(MemoryReactorClock(), "--directory")
        error = self.assertRaises(ConfigError, OpenDirectory, "open:accounts.toml", context)
        self.assertEqual(str(error), "--directory: 'open:accounts.toml': open: takes no value")

    async def test_anybody(self) -> None:
        """
        Every account exists and admits any box; every box exists.
        """
        source = await self.started()
        for name in ("acme", "A-z_0.9", "x" * 64, "dev"):
            expected = Account(name, clouds=Clouds.both, admitsAnyBox=True)
            self.assertEqual(await source.account(name), expected)
            self.assertEqual(await source.box(name, "b"), Box(name, "b"))
