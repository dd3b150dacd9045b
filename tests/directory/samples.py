"""
Accounts and boxes for tests, as a file or a service says them.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.logger import ILogObserver, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

HASH = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$3Q5J4oN4KqVhOZ0vVb2wBzvXJYb6wq3f7Dq0yJw3JxA"
OTHER_HASH = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$BBBJ4oN4KqVhOZ0vVb2wBzvXJYb6wq3f7Dq0yJw3JxA"
FINGERPRINT = "0123456789abcdef" * 4


def fullBox(asset: str = "350000000000001", **changes: Any) -> dict[str, Any]:
    """
    A box with every key.
    """
    colons = ":".join(FINGERPRINT[place : place + 2].upper() for place in range(0, 64, 2))
    return {
        "asset": asset,
        "revoked": True,
        "secret_hash": HASH,
        "certificate": colons,
        "metadata": {"vehicle": "Überlandbus 7", "depot": ""},
        **changes,
    }


def fullAccount(name: str = "acme", **changes: Any) -> dict[str, Any]:
    """
    An account with every key, and one box.
    """
    return {
        "name": name,
        "active": False,
        "cloud": "both",
        "secret_hash": HASH,
        "require_tls": True,
        "require_certificate": True,
        "message_expiry": 3600,
        "limits": {"links": 10, "connects_per_second": 0.5, "messages_per_second": 100, "bytes_per_second": 1e6},
        "privacy": {"drop_fields": [8, 9], "position_digits": 3, "pseudonymous": True},
        "channels": [{"name": "door", "message_expiry": 30.5}, {"name": "config"}],
        "fields": [{"id": 8, "name": "SPEED", "type": "int"}, {"id": 7001, "name": "MOOD", "type": "string"}],
        "box": [fullBox()],
        **changes,
    }


def toml(accounts: list[dict[str, Any]]) -> str:
    """
    A file of them.
    """
    return f"account = {_value(accounts)}\n"


def _value(value: Any) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{json.dumps(key)} = {_value(inner)}" for key, inner in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


@implementer(ILogObserver)
class LogKeeper:
    """
    Keeps what is logged.

    @ivar events: all of it
    """

    def __init__(self, case: SynchronousTestCase) -> None:
        """
        @param case: the test, at whose end it stops
        """
        self.events: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self)
        case.addCleanup(globalLogPublisher.removeObserver, self)

    def __call__(self, event: Any) -> None:
        """
        See L{ILogObserver}.
        """
        self.events.append(event)
