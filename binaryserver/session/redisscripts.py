"""
The scripts that are the atomic steps of the session store in Redis.
"""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import NamedTuple

from binaryserver.model import DRAW_BURST, EPOCH_2010_MS, KEPT_STREAMS, NO_QUEUE_MS, REMEMBERED_MS, RETRY_MS
from binaryserver.session.boxrecords import KEPT_EVENTS
from binaryserver.session.memorybox import EPOCH_KEPT_MS


class Script(NamedTuple):
    """
    @ivar text: its source
    @ivar hash: what Redis knows it by
    """

    text: str
    hash: str


_SESSIONS = (
    "claim",
    "release",
    "restore",
    "adopt",
    "marks",
    "mqtt",
    "lease",
    "renew",
    "bury",
    "fingerprints",
    "append",
    "draw",
    "refused",
    "list",
)
_MAILBOXES = ("put", "take", "progress", "remove", "due", "mailbox", "record")
_ERASING = ("erase", "purge")

_CONSTANTS = (
    "local KEPT_STREAMS, NO_QUEUE_MS, RETRY_MS, REMEMBERED_MS, EPOCH_2010_MS, EPOCH_KEPT_MS, DRAW_BURST, KEPT_EVENTS = "
    f"{KEPT_STREAMS}, {NO_QUEUE_MS}, {RETRY_MS}, {REMEMBERED_MS}, {EPOCH_2010_MS}, {EPOCH_KEPT_MS}, {DRAW_BURST}, "
    f"{KEPT_EVENTS}\n"
)


def loadScripts() -> dict[str, Script]:
    """
    Read them all, by their names.
    """
    folder = files("binaryserver.session")

    def read(*names: str) -> Script:
        text = _CONSTANTS + "\n".join(folder.joinpath(f"redis_{name}.lua").read_text("ascii") for name in names)
        return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())

    scripts = {name: read("common", name) for name in _SESSIONS}
    scripts.update((name, read("common", "mail", name)) for name in _MAILBOXES)
    scripts.update((name, read("common", "mail", "erasing", name)) for name in _ERASING)
    return scripts
