"""
Word that the directory has changed, as it is handed over by HTTP: onto the topic C{directory} of the bus.
"""

from __future__ import annotations

from binaryserver.directory.records import Change
from binaryserver.model import Record
from binaryserver.ops.fields import Fields
from binaryserver.ops.outlet import Outlet
from binaryserver.proto.cloudnext_pb2 import DirectoryChange
from binaryserver.transcode.envelope import CONTENT_TYPE

_EVERYTHING = b"*"
"""The key of a change of everything; no account has this name."""


def parseChange(body: bytes) -> Change:
    """
    From a request's body: one JSON object, of C{account} and C{asset}, neither of which needs to be there.

    @raise ValueError: it cannot be understood
    """
    fields = Fields(body)
    change = Change(fields.name("account", isOptional=True), fields.name("asset", isOptional=True))
    fields.checkAllRead()
    if change.asset and not change.account:
        raise ValueError("an asset needs its account")
    return change


def changeRecord(change: Change) -> Record:
    """
    The record of C{directory}.
    """
    key = "/".join(name for name in (change.account, change.asset) if name).encode()
    message = DirectoryChange(account=change.account, asset=change.asset)
    return Record(key or _EVERYTHING, message.SerializeToString(), (CONTENT_TYPE,))


async def tellChange(change: Change, outlet: Outlet, topic: str) -> dict[str, object]:
    """
    Publish a change; done once it is durable.

    @param topic: C{directory}
    @return: what whoever asked is told
    @raise Refusal: it was not published, or is not known to be
    """
    partition = await outlet.publish(topic, changeRecord(change), "the change")
    return {"account": change.account, "asset": change.asset, "topic": topic, "partition": partition}
