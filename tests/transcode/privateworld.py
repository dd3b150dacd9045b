"""
A gateway whose account has a privacy policy that can be changed, for both protocols.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from binaryserver.bus.topics import Topics
from binaryserver.directory.records import Account, Box, Change, PrivacyPolicy
from binaryserver.errors import DirectoryUnavailable
from binaryserver.interfaces import IDirectorySource
from binaryserver.model import Clouds, Record
from binaryserver.proto import cloudnext_pb2
from binaryserver.transcode.pseudonyms import Pseudonyms
from tests.md21.world import Md21World

KEY = b"a key for tests of 32 bytes ...."


@implementer(IDirectorySource)
class OneAccount:
    """
    One account, C{dev}, that admits any box.

    @ivar policy: its privacy policy
    @ivar isAway: lookups fail
    @ivar isGone: there is no account
    @ivar isActive: boxes may come in
    """

    requiresLoopback = False
    defaultAccount = "dev"

    def __init__(self, policy: PrivacyPolicy) -> None:
        self.policy = policy
        self.isAway = False
        self.isGone = False
        self.isActive = True

    def start(self, changed: Callable[[Change], None]) -> Deferred[None]:
        """
        See L{IDirectorySource.start}.
        """
        return succeed(None)

    def stop(self) -> Deferred[None]:
        """
        See L{IDirectorySource.stop}.
        """
        return succeed(None)

    def account(self, name: str) -> Deferred[Account | None]:
        """
        See L{IDirectorySource.account}.
        """
        if self.isAway:
            return fail(DirectoryUnavailable("away"))
        if self.isGone or name != "dev":
            return succeed(None)
        account = Account(
            name, isActive=self.isActive, clouds=Clouds.both, admitsAnyBox=self.isActive, privacy=self.policy
        )
        return succeed(account)

    def box(self, account: str, asset: str) -> Deferred[Box | None]:
        """
        See L{IDirectorySource.box}.
        """
        return succeed(Box(account, asset))


class PrivateWorld(Md21World):
    """
    One gateway with a key for pseudonyms, unless it is to have none.
    """

    def __init__(self, policy: PrivacyPolicy, key: bytes | None = KEY, **options: Any) -> None:
        self.source = OneAccount(policy)
        Md21World.__init__(self, directory=self.source, **options)
        Pseudonyms.__init__(self.gateway.pseudonyms, key)
        self.gateway.recheck.start()

    def change(self, policy: PrivacyPolicy) -> None:
        """
        The account gets another policy, and everybody is told.
        """
        self.source.policy = policy
        self.directory.changed(Change("dev"))
        self.turn()

    def records(self, topic: str) -> list[Record]:
        """
        What was committed to a topic, by its short name.
        """
        name = getattr(Topics.named(), topic)
        return [record for topic_, record in self.bus.committed if topic_ == name]

    def tracks(self) -> list[cloudnext_pb2.Event]:
        """
        Those that were published.
        """
        return self.bus.events("tracks")
