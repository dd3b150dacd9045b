"""
A gateway whose account has a privacy policy that can be changed, for both protocols.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed

from binaryserver.bus.topics import Topics
from binaryserver.directory.records import Account, Box, Change, PrivacyPolicy
from binaryserver.model import Clouds, Record
from binaryserver.proto import cloudnext_pb2
from binaryserver.transcode.pseudonyms import Pseudonyms
from tests.admission.handdirectory import HandDirectory
from tests.md21.world import Md21World

KEY = b"a key for tests of 32 bytes ...."


class OneAccount(HandDirectory):
    """
    One account, C{dev}, that admits any box.

    @ivar policy: its privacy policy
    @ivar isGone: there is no account
    @ivar isActive: boxes may come in
    """

    defaultAccount = "dev"

    def __init__(self, policy: PrivacyPolicy) -> None:
        HandDirectory.__init__(self)
        self.policy = policy
        self.isGone = False
        self.isActive = True

    def account(self, name: str) -> Deferred[Account | None]:
        """
        See L{IDirectorySource.account}.
        """
        self.accounts.clear()
        if not self.isGone:
            isActive = self.isActive
            self.put(Account("dev", isActive, Clouds.both, admitsAnyBox=isActive, privacy=self.policy))
        return HandDirectory.account(self, name)

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
