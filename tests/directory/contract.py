"""
What every L{IDirectorySource} must do, written once and run over each of them.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from twisted.internet import reactor as globalReactor
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from binaryserver.directory.records import Account, AccountLimits, Box, Change, PrivacyPolicy
from binaryserver.errors import DirectoryUnavailable
from binaryserver.interfaces import IDirectorySource
from binaryserver.model import Clouds
from tests.directory.samples import FINGERPRINT, HASH, fullAccount, fullBox

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase as _Base
else:
    _Base = object

reactor: Any = globalReactor

NO_NAMES = ("", "a/b", "a b", "x" * 65, "é", "a\n", "\0", "*", "a%2Fb", "?", "#")
"""What can be no name of an account or a box."""


class SourceBase(_Base):
    """
    The steps.

    @ivar changes: what the source noticed
    """

    timeout = 30
    changes: list[Change]

    def makeSource(self) -> IDirectorySource:
        """
        Make a source, not started.
        """
        raise NotImplementedError

    async def started(self) -> IDirectorySource:
        """
        A started source; stopped at the end of the test.
        """
        source = self.makeSource()
        self.changes = []
        self.addCleanup(source.stop)
        await source.start(self.changes.append)
        return source

    async def accountOf(self, source: IDirectorySource, name: str) -> Account:
        """
        An account that is there.
        """
        found = await source.account(name)
        assert found is not None
        return found

    async def boxOf(self, source: IDirectorySource, account: str, asset: str) -> Box:
        """
        A box that is there.
        """
        found = await source.box(account, asset)
        assert found is not None
        return found

    async def failureOf(self, asked: Awaitable[object]) -> DirectoryUnavailable:
        """
        What a lookup fails with.
        """
        try:
            await asked
        except DirectoryUnavailable as error:
            return error
        raise self.failureException("it did not fail")


class AnySourceContractMixin(SourceBase):
    """
    What holds for all of them.
    """

    async def test_provides(self) -> None:
        """
        It provides what it says.
        """
        verifyObject(IDirectorySource, await self.started())

    async def test_stopBeforeStart(self) -> None:
        """
        One that never started can be stopped.
        """
        await self.makeSource().stop()

    async def test_stopTwice(self) -> None:
        """
        It can be stopped again.
        """
        source = await self.started()
        await source.stop()
        await source.stop()

    async def test_noNames(self) -> None:
        """
        What can be no name is nobody's.
        """
        source = await self.started()
        for name in NO_NAMES:
            self.assertIsNone(await source.account(name), name)
            self.assertIsNone(await source.box("acme", name), name)
            self.assertIsNone(await source.box(name, "box"), name)


class SourceContractMixin(AnySourceContractMixin):
    """
    The contract of those that keep accounts and boxes.
    """

    def write(self, accounts: list[dict[str, Any]]) -> None:
        """
        Make these the accounts that there are.
        """
        raise NotImplementedError

    def noticed(self) -> Deferred[None]:
        """
        Fires when what was written counts.
        """
        raise NotImplementedError

    async def startedWith(self, *accounts: dict[str, Any]) -> IDirectorySource:
        """
        A started source of these accounts.
        """
        self.write(list(accounts))
        return await self.started()

    async def test_everyKey(self) -> None:
        """
        All that can be said of an account and a box arrives.
        """
        source = await self.startedWith(fullAccount())
        self.assertEqual(
            await source.account("acme"),
            Account(
                "acme",
                False,
                Clouds.both,
                HASH,
                True,
                True,
                False,
                AccountLimits(10, 0.5, 100.0, 1e6),
                PrivacyPolicy(frozenset({8, 9}), 3, True),
                3600.0,
                {"door": 30.5},
                {8: ("SPEED", "int"), 7001: ("MOOD", "string")},
            ),
        )
        self.assertEqual(
            await source.box("acme", "350000000000001"),
            Box("acme", "350000000000001", True, HASH, FINGERPRINT, {"vehicle": "Überlandbus 7", "depot": ""}),
        )

    async def test_noKey(self) -> None:
        """
        What is not said has its default.
        """
        source = await self.startedWith({"name": "acme", "box": [{"asset": "b"}]})
        self.assertEqual(await source.account("acme"), Account("acme"))
        self.assertEqual(await source.box("acme", "b"), Box("acme", "b"))

    async def test_unknown(self) -> None:
        """
        Who is not there is C{None}, without an error; a box of another account too.
        """
        source = await self.startedWith(fullAccount("a", box=[fullBox("1")]), fullAccount("b", box=[fullBox("2")]))
        self.assertIsNone(await source.account("c"))
        self.assertIsNone(await source.box("c", "1"))
        self.assertIsNone(await source.box("a", "2"))
        self.assertIsNone(await source.box("b", "1"))
        self.assertEqual((await self.boxOf(source, "b", "2")).account, "b")

    async def test_names(self) -> None:
        """
        Every kind of character that a name may have, and names that mean something in a path or to TOML.
        """
        names = ["A-z_0.9", "x" * 64, "-", "_", "...", "true", "1e3", "accounts", "boxes", "fields"]
        source = await self.startedWith(*(fullAccount(name, box=[fullBox(name)]) for name in names))
        for name in names:
            self.assertEqual((await self.accountOf(source, name)).name, name)
            self.assertEqual((await self.boxOf(source, name, name)).asset, name)
        for name in (".", ".."):
            self.assertIsNone(await source.account(name))
            self.assertIsNone(await source.box("accounts", name))

    async def test_emptyLists(self) -> None:
        """
        An account with an empty field dictionary has no fields, which is not the packaged one.
        """
        source = await self.startedWith({"name": "acme", "fields": [], "channels": [], "box": []})
        self.assertEqual(await source.account("acme"), Account("acme", fields={}))

    async def test_longLists(self) -> None:
        """
        Lists of thousands arrive whole and in order.
        """
        fields = [{"id": 5000 + number, "name": f"F{number}", "type": "double"} for number in range(2500)]
        channels = [{"name": f"c{number}", "message_expiry": 1 + number} for number in range(700)]
        source = await self.startedWith({"name": "acme", "fields": fields, "channels": channels})
        account = await self.accountOf(source, "acme")
        self.assertEqual(account.fields, {5000 + number: (f"F{number}", "double") for number in range(2500)})
        self.assertEqual(account.channelExpiry, {f"c{number}": 1.0 + number for number in range(700)})

    async def test_change(self) -> None:
        """
        What changes is told as it is now: changed, come, gone.
        """
        source = await self.startedWith(fullAccount(box=[fullBox("1"), fullBox("2")]))
        self.write([fullAccount(active=True, box=[fullBox("1", revoked=False), fullBox("3")]), fullAccount("new")])
        await self.noticed()
        self.assertTrue((await self.accountOf(source, "acme")).isActive)
        self.assertFalse((await self.boxOf(source, "acme", "1")).isRevoked)
        self.assertIsNone(await source.box("acme", "2"))
        self.assertIsNotNone(await source.box("acme", "3"))
        self.assertIsNotNone(await source.account("new"))
        self.write([])
        await self.noticed()
        self.assertIsNone(await source.account("acme"))
        self.assertIsNone(await source.box("acme", "1"))

    async def test_afterStop(self) -> None:
        """
        One that is stopped fails what it is asked.
        """
        source = await self.startedWith(fullAccount())
        await source.stop()
        await self.failureOf(source.account("acme"))
        await self.failureOf(source.box("acme", "350000000000001"))

    async def test_together(self) -> None:
        """
        Many may be asked for at once.
        """
        names = [f"a{number}" for number in range(50)]
        source = await self.startedWith(*(fullAccount(name) for name in names))
        asked = [(source.account(name), source.box(name, "350000000000001")) for name in names]
        for name, (account, box) in zip(names, asked, strict=True):
            found = await account, await box
            self.assertEqual(found, (await source.account(name), await source.box(name, "350000000000001")))
            self.assertNotIn(None, found)
