"""
The directory for development: anybody may come in.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from binaryserver.directory.records import Account, Box, Change
from binaryserver.errors import ConfigError
from binaryserver.interfaces import IDirectorySource
from binaryserver.model import Clouds
from binaryserver.plugins import BackEndContext
from binaryserver.transcode.events import isName


@implementer(IDirectorySource)
class OpenDirectory:
    """
    C{open:}: every account that can be named exists, and so does every box of it, with any password or none. Fields are
    those of the packaged dictionary.
    """

    requiresLoopback = True
    defaultAccount = "dev"

    def __init__(self, spec: str, context: BackEndContext) -> None:
        if spec.partition(":")[2]:
            raise ConfigError(context.option, f"{spec!r}: open: takes no value")

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
        return succeed(Account(name, clouds=Clouds.both, admitsAnyBox=True) if isName(name) else None)

    def box(self, account: str, asset: str) -> Deferred[Box | None]:
        """
        See L{IDirectorySource.box}.
        """
        return succeed(Box(account, asset) if isName(account) and isName(asset) else None)
