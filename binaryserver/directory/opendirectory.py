"""
The directory for development: anybody may come in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from binaryserver.directory.fields import packagedFields
from binaryserver.errors import ConfigError
from binaryserver.interfaces import IDirectorySource
from binaryserver.model import Clouds
from binaryserver.plugins import BackEndContext

DEFAULT_ACCOUNT = "dev"
"""The account of a box that gives no user name."""

_ACCOUNT = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Account ids go into bus keys, log lines and file names: nothing else may stand in them."""


@implementer(IDirectorySource)
class OpenDirectory:
    """
    C{open:}: any box with any password belongs to the account that it names, or to L{DEFAULT_ACCOUNT}. Fields are
    those of the packaged dictionary, for every account.
    """

    requiresLoopback = True

    def __init__(self, spec: str, context: BackEndContext) -> None:
        if spec.partition(":")[2]:
            raise ConfigError(context.option, f"{spec!r}: open: takes no value")
        self._fields: Mapping[int, tuple[str, str]] = {}

    def start(self) -> Deferred[None]:
        """
        See L{IDirectorySource.start}.
        """
        self._fields = packagedFields()
        return succeed(None)

    def stop(self) -> Deferred[None]:
        """
        See L{IDirectorySource.stop}.
        """
        return succeed(None)

    def admit(self, account: str, asset: str, password: bytes | None, certified: bool) -> Deferred[str | None]:
        """
        See L{IDirectorySource.admit}. Refused is only what could not be an account's id.
        """
        named = account or DEFAULT_ACCOUNT
        return succeed(named if _ACCOUNT.fullmatch(named) else None)

    def clouds(self, account: str) -> Clouds:
        """
        See L{IDirectorySource.clouds}.
        """
        return Clouds.both

    def fieldName(self, account: str, number: int) -> tuple[str, str] | None:
        """
        See L{IDirectorySource.fieldName}.
        """
        return self._fields.get(number)
