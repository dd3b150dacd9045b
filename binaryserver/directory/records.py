"""
What the directory says of accounts and boxes. Frozen values: a change is another value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from binaryserver.model import Clouds


@dataclass(frozen=True, slots=True)
class AccountLimits:
    """
    What the boxes of one account may do together, over all instances. 0: no limit.

    @ivar links: boxes connected at the same time
    @ivar connects: arrivals a second
    @ivar messages: packets with data (tracks, messages) a second
    @ivar bandwidth: bytes of them a second
    """

    links: int = 0
    connects: float = 0.0
    messages: float = 0.0
    bandwidth: float = 0.0


@dataclass(frozen=True, slots=True)
class PrivacyPolicy:
    """
    What of an account's data goes downstream.

    @ivar droppedFields: numbers of fields that are left out of tracks
    @ivar positionDigits: decimals of a degree that positions keep, 0 to 7; L{None}: all; -1: tracks go without position
    @ivar isPseudonymous: assets are replaced by pseudonyms
    """

    droppedFields: frozenset[int] = frozenset()
    positionDigits: int | None = None
    isPseudonymous: bool = False

    @property
    def isNone(self) -> bool:
        """
        Everything goes downstream as it came.
        """
        return self == _NO_POLICY


_NO_POLICY = PrivacyPolicy()


@dataclass(frozen=True, slots=True)
class Account:
    """
    A customer that owns boxes.

    @ivar isActive: its boxes may come in
    @ivar secretHash: of the secret of those of its boxes that have none of their own: an argon2 hash in PHC form;
        empty: there is none
    @ivar requiresTls: its boxes come in over TLS only
    @ivar requiresCertificate: its boxes come in with a client certificate only
    @ivar admitsAnyBox: boxes of it need not be in the directory, and need no secret. For development
    @ivar messageExpiry: s after which a message for its boxes expires whose sender does not say; 0: as configured
    @ivar channelExpiry: the same by channel
    @ivar fields: names and types of tracks' fields by number; L{None}: those of the packaged dictionary
    """

    name: str
    isActive: bool = True
    clouds: Clouds = Clouds.cloudnext
    secretHash: str = field(default="", repr=False)
    requiresTls: bool = False
    requiresCertificate: bool = False
    admitsAnyBox: bool = False
    limits: AccountLimits = AccountLimits()
    privacy: PrivacyPolicy = PrivacyPolicy()
    messageExpiry: float = 0.0
    channelExpiry: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    fields: Mapping[int, tuple[str, str]] | None = None


@dataclass(frozen=True, slots=True)
class Box:
    """
    A box of an account.

    @ivar isRevoked: it may not come in
    @ivar secretHash: of its secret: an argon2 hash in PHC form; empty: its account's counts
    @ivar certificate: SHA-256 of the DER of the one client certificate that it may show, 64 lower case hex digits;
        empty: any that is valid and names it
    @ivar metadata: what else the operator keeps; shown to operators only
    """

    account: str
    asset: str
    isRevoked: bool = False
    secretHash: str = field(default="", repr=False)
    certificate: str = ""
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Change:
    """
    Something in the directory is not as it was.

    @ivar account: empty: anything may be
    @ivar asset: empty: it is the account itself, its fields or its channels; not its boxes
    """

    account: str = ""
    asset: str = ""
