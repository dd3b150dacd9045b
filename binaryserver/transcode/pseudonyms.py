"""
Pseudonyms of boxes: what stands downstream in the place of the assets of an account that asks for it.

A pseudonym is the asset, encrypted with AES-SIV [RFC 5297] under a key of the account's own: the same asset always has
the same one, whoever holds the key can tell whose it is, and nobody else can, nor make one up. Accounts' keys are
derived [RFC 5869] from the one in C{--pseudonym-key-file}.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from binaryserver.directory.records import Account, PrivacyPolicy
from binaryserver.errors import ConfigError, LocalError
from binaryserver.model import BoxKey
from binaryserver.transcode.events import isName

OPTION: Final = "--pseudonym-key-file"

_LEAST_KEY: Final = 32
_MOST_KEY: Final = 4096
_HEX: Final = re.compile(rb"\s*([0-9A-Fa-f]{64})\s*")
_KEY_SIZE: Final = 64
"""Of an account's key: two of AES-256."""

_BLOCK: Final = 16
"""Assets are padded to a multiple of it: by its length a pseudonym is to tell as little as can be."""

_MOST_KEPT: Final = 16_384


class PseudonymsUnavailable(LocalError):
    """
    A box is to be published under its pseudonym, and there is no key to make it with.
    """


class Pseudonyms:
    """
    Of one process.
    """

    def __init__(self, master: bytes | None = None) -> None:
        """
        @param master: bytes, the key of which the accounts' are derived; L{None}: there is none
        """
        self._master = master
        self._ciphers: dict[str, AESSIV] = {}
        self._published: dict[BoxKey, BoxKey] = {}

    @classmethod
    def fromFile(cls, path: str) -> Pseudonyms:
        """
        With the key of C{--pseudonym-key-file}: random bytes, 32 at least, or 64 hex digits. Blocks: for the start.

        @param path: empty: there is no key
        @raise ConfigError: it cannot be read, or is no key
        """
        if not path:
            return cls()
        try:
            with open(path, "rb") as file:
                key = file.read(_MOST_KEY + 1)
        except OSError as error:
            raise ConfigError(OPTION, f"{path}: {error.strerror}") from error
        digits = _HEX.fullmatch(key)
        if digits is not None:
            return cls(bytes.fromhex(digits[1].decode("ascii")))
        if not _LEAST_KEY <= len(key) <= _MOST_KEY:
            raise ConfigError(
                OPTION,
                f"{path}: a key is {_LEAST_KEY} to {_MOST_KEY} random bytes or 64 hex digits, not {len(key)} bytes",
            )
        return cls(key)

    @property
    def hasKey(self) -> bool:
        """
        Pseudonyms can be made.
        """
        return self._master is not None

    def obstacle(self, account: Account) -> str:
        """
        Why boxes of an account may not come in; empty: they may.
        """
        if account.privacy.isPseudonymous and not self.hasKey:
            return f"its account's assets are to be pseudonyms downstream, and there is no {OPTION}"
        return ""

    def published(self, box: BoxKey, policy: PrivacyPolicy | None) -> BoxKey:
        """
        Who a box is downstream.

        @param policy: its account's; L{None}: that is not known, so that it has a pseudonym if there can be any
        @raise PseudonymsUnavailable: it is to have one, and there is no key
        """
        if policy is None:
            if not self.hasKey:
                return box
        elif not policy.isPseudonymous:
            return box
        published = self._published.get(box)
        if published is None:
            asset = box.asset.encode()
            sealed = self._cipher(box.account).encrypt(asset + bytes(-len(asset) % _BLOCK), None)
            published = BoxKey(box.account, urlsafe_b64encode(sealed).rstrip(b"=").decode("ascii"))
            if len(self._published) >= _MOST_KEPT:
                self._published.clear()
            self._published[box] = published
        return published

    def real(self, account: str, pseudonym: str) -> str | None:
        """
        The asset that a pseudonym stands for; L{None}: it is none of this account.

        @raise PseudonymsUnavailable: there is no key
        """
        cipher = self._cipher(account)
        try:
            sealed = urlsafe_b64decode(pseudonym.encode("ascii") + b"=" * (-len(pseudonym) % 4))
            asset = cipher.decrypt(sealed, None).rstrip(b"\0").decode("ascii")
        except (ValueError, InvalidTag):
            return None
        # The decoder passes over characters that do not belong there: each box has but one pseudonym.
        if not isName(asset) or self.published(BoxKey(account, asset), None).asset != pseudonym:
            return None
        return asset

    def _cipher(self, account: str) -> AESSIV:
        cipher = self._ciphers.get(account)
        if cipher is None:
            if self._master is None:
                raise PseudonymsUnavailable(f"pseudonyms of the boxes of {account} need {OPTION}")
            key = HKDF(SHA256(), _KEY_SIZE, None, b"binaryserver pseudonyms " + account.encode()).derive(self._master)
            if len(self._ciphers) >= _MOST_KEPT:
                self._ciphers.clear()
            cipher = self._ciphers[account] = AESSIV(key)
        return cipher
