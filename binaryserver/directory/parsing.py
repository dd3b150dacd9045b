"""
Accounts and boxes from what TOML and JSON give. docs/directory.md says what each key means.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from binaryserver.directory.fields import MAX_NUMBER, dictionaryOf
from binaryserver.directory.records import Account, AccountLimits, Box, PrivacyPolicy
from binaryserver.directory.tables import Table, readTable
from binaryserver.model import Clouds

MAX_FIELDS = 10_000
"""Entries that a field dictionary may have."""

MAX_CHANNELS = 1_000
"""Channels that an account may have."""

_MAX_EXPIRY = 10 * 366 * 86_400.0
_MAX_LINKS = 2**31 - 1
_MAX_RATE = 1e12
_MAX_DIGITS = 7

# The hash of argon2id as its reference encoder writes it.
_HASH = re.compile(
    r"\$argon2id\$v=19\$m=(\d{1,7}),t=(\d{1,3}),p=(\d{1,3})\$[A-Za-z0-9+/]{11,86}\$[A-Za-z0-9+/]{16,172}"
)
_MAX_MEMORY = 1 << 20
"""KiB that checking a secret may take: a mistake of one record must not take the gateway's memory."""

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


def parseAccount(data: object, isStrict: bool) -> Account:
    """
    Read an account, its fields and channels included. A key C{box} is not read: whoever has boxes in it takes it out.

    @param data: what TOML or JSON gave
    @param isStrict: unknown keys are refused, as in a file that a person writes; if not, they are passed over, as a
        newer service may have more to say
    @raise BadRecord: it is not an account
    """
    return readTable(data, _titleOf(data, "account", "name"), isStrict, _readAccount)


def parseBox(data: object, account: str, isStrict: bool) -> Box:
    """
    Read a box of an account.

    @param data: see L{parseAccount}
    @param isStrict: likewise
    @raise BadRecord: it is not a box
    """

    def read(table: Table) -> Box:
        return Box(
            account,
            table.name("asset"),
            table.flag("revoked", False),
            _secretHash(table),
            _fingerprint(table),
            MappingProxyType(table.texts("metadata", 64, 128, 1024)),
        )

    return readTable(data, f'account "{account}", {_titleOf(data, "box", "asset")}', isStrict, read)


def _titleOf(data: object, kind: str, key: str) -> str:
    name = data.get(key) if isinstance(data, dict) else None
    return f'{kind} "{name:.64}"' if isinstance(name, str) and name.isprintable() else f"{kind} without a name"


def _readAccount(table: Table) -> Account:
    return Account(
        table.name("name"),
        table.flag("active", True),
        _clouds(table),
        _secretHash(table),
        table.flag("require_tls", False),
        table.flag("require_certificate", False),
        limits=table.inner("limits", _readLimits, AccountLimits()),
        privacy=table.inner("privacy", _readPrivacy, PrivacyPolicy()),
        messageExpiry=table.number("message_expiry", _MAX_EXPIRY),
        channelExpiry=_channels(table),
        fields=_fields(table),
    )


def _clouds(table: Table) -> Clouds:
    text = table.text("cloud", Clouds.cloudnext.value)
    try:
        return Clouds(text)
    except ValueError:
        known = ", ".join(each.value for each in Clouds)
        raise table.fault("cloud", f"{text!r:.80} is none; known: {known}") from None


def _secretHash(table: Table) -> str:
    text = table.text("secret_hash")
    if not text:
        return ""
    # What is wrong is not shown: it may well be the secret itself.
    found = _HASH.fullmatch(text)
    if found is None:
        raise table.fault(
            "secret_hash", "is not an argon2id hash ($argon2id$v=19$...): binaryserver-ctl hash-secret makes one"
        )
    memory, passes, lanes = map(int, found.groups())
    if memory > _MAX_MEMORY or not 0 < passes <= 100 or not 0 < lanes <= 64 or memory < 8 * lanes:
        raise table.fault(
            "secret_hash", f"its cost is not m of 8 for each of p to {_MAX_MEMORY} (KiB), t of 1 to 100, p of 1 to 64"
        )
    return text


def _fingerprint(table: Table) -> str:
    text = table.text("certificate").replace(":", "").lower()
    if text and _FINGERPRINT.fullmatch(text) is None:
        raise table.fault("certificate", "is to be a SHA-256 fingerprint: 64 hexadecimal digits")
    return text


def _readLimits(table: Table) -> AccountLimits:
    return AccountLimits(
        table.integer("links", 0, _MAX_LINKS) or 0,
        table.number("connects_per_second", _MAX_RATE),
        table.number("messages_per_second", _MAX_RATE),
        table.number("bytes_per_second", _MAX_RATE),
    )


def _readPrivacy(table: Table) -> PrivacyPolicy:
    numbers = table.list("drop_fields", MAX_FIELDS) or []
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 < number <= MAX_NUMBER:
            raise table.fault("drop_fields", f"each is to be the number of a field, 1 to {MAX_NUMBER:,}")
    return PrivacyPolicy(
        frozenset(numbers), table.integer("position_digits", -1, _MAX_DIGITS), table.flag("pseudonymous", False)
    )


def _channels(table: Table) -> Mapping[str, float]:
    expiries: dict[str, float] = {}

    def read(channel: Table) -> None:
        name = channel.name("name")
        if name in expiries:
            raise channel.fault("name", f"{name} is there twice")
        expiries[name] = channel.number("message_expiry", _MAX_EXPIRY)

    for place, entry in enumerate(table.list("channels", MAX_CHANNELS) or [], 1):
        table.within(entry, f"channel {place}", read)
    return MappingProxyType({name: expiry for name, expiry in expiries.items() if expiry})


def _fields(table: Table) -> Mapping[int, tuple[str, str]] | None:
    entries = table.list("fields", MAX_FIELDS)
    if entries is None:
        return None

    def known(entry: Table) -> None:
        # Those of fields.toml are for people to read.
        for key in ("id", "name", "type", "size", "unit"):
            entry.take(key)

    for place, entry in enumerate(entries, 1):
        table.within(entry, f"field {place}", known)
    try:
        return MappingProxyType(dictionaryOf(entries))
    except ValueError as error:
        raise table.fault("fields", str(error)) from None
