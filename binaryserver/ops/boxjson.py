"""
Boxes as JSON. Numbers of 64 bits are texts, as in protobuf's JSON; times are Unix ms.
"""

from __future__ import annotations

from typing import Any

from binaryserver.model import BoxKey
from binaryserver.session.boxrecords import BoxEvent, BoxRecord, BoxSummary

_MAX_SUBSCRIPTIONS = 50
"""of one box that are shown"""
_MAX_FILTER = 256
"""characters of each; it may have 64 KiB"""


def summaryJson(summary: BoxSummary) -> dict[str, Any]:
    """
    A box of the list.
    """
    owner = summary.owner
    return {
        **summary.box._asdict(),
        "connected": owner.connected,
        "protocol": summary.protocol,
        "peer": summary.peer,
        "since": summary.since,
        "seen": owner.seenAt,
        "link_epoch": owner.linkEpoch,
        "instance": owner.incarnation,
        "listening": summary.isListening,
    }


def recordJson(box: BoxKey, record: BoxRecord) -> dict[str, Any]:
    """
    All that is kept of a box.
    """
    summary = None if record.summary is None else summaryJson(record.summary)
    mqtt = None
    if record.mqtt is not None:
        made = record.mqtt.subscriptions
        mqtt = {
            "subscriptions": [{"filter": one[:_MAX_FILTER], "qos": qos} for one, qos in made[:_MAX_SUBSCRIPTIONS]],
            "subscription_count": len(made),
            "received": len(record.mqtt.received),
        }
    return {
        **box._asdict(),
        "session": summary and {name: value for name, value in summary.items() if name not in box._fields},
        "instance_alive": record.isOwnerAlive,
        "streams": [
            {"stream": str(mark.stream), "committed": str(mark.committed), "latest": mark.latest}
            for mark in record.marks
        ],
        "fingerprints": record.fingerprints,
        "mqtt": mqtt,
        "mailbox": {
            "messages": record.mailbox.messages,
            "bytes": record.mailbox.size,
            "oldest": record.mailbox.oldest,
        },
        "events": [eventJson(event) for event in record.events],
    }


def eventJson(event: BoxEvent) -> dict[str, Any]:
    """
    Something that happened to a box.
    """
    return {
        "kind": event.kind.value,
        "at": event.at,
        "since": event.since,
        "times": event.times,
        "reason": event.reason,
        "detail": event.detail,
        "protocol": event.protocol,
        "peer": event.peer,
        "instance": event.instance,
        "link_epoch": event.linkEpoch,
    }
