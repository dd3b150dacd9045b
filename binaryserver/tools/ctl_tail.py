"""
C{binaryserver-ctl tail}.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from typing import Any

from binaryserver.tools.ctl_http import AskFailed, HttpSide, ask, fail, tell
from binaryserver.tools.terminal import printable

_SHOWN = 120
"""Characters of a payload in base64; --json shows all."""


def run(options: argparse.Namespace) -> int:
    """
    Print events until there are no more, or the reader of our output is gone.

    @return: the exit status
    """
    arguments: list[tuple[str, object]] = [("topic", topic) for topic in options.topic]
    arguments += [(name, value) for name in ("asset", "account") if (value := getattr(options, name))]
    arguments += [("from_start", int(options.from_start)), ("follow", int(not options.no_follow))]
    try:
        # A tail may be silent for hours.
        for line in ask(HttpSide.of(options), "/api/tail", arguments=arguments).lines(None):
            if not tell(line.decode() if options.json else describe(json.loads(line))):
                break
    except AskFailed as error:
        return fail(error)
    except ValueError:
        return fail(f"{options.http}: is this a gateway's HTTP side?")
    except KeyboardInterrupt:
        pass
    return 0


def _time(unixMs: str) -> str:
    try:
        text = datetime.fromtimestamp(int(unixMs) / 1000, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        # No calendar's: a box's clock may say anything.
        return f"{unixMs}ms"
    return text.replace("+00:00", "Z")


def describe(event: dict[str, Any]) -> str:
    """
    One event in one line, for a person.

    @param event: as the HTTP side gives it
    """
    box = f"{event.get('account', '?')}/{event.get('asset', '?')}"
    if "track" in event:
        where = "unindexed" if event["unindexed"] else f"{event['stream']}:{event['index']}"
        return printable(f"{_time(event['event_time'])} {box} track {where} {_track(event)}")
    if "message" in event:
        message = event["message"]
        words = [message["channel"], message["payload"]]
        if message["ack_of"]:
            words.append(f"answers {message['ack_of']}: {message['ack_status'].removeprefix('ACK_STATUS_')}")
        return printable(f"{_time(event['event_time'])} {box} message {' '.join(word for word in words if word)}")
    if "presence" in event:
        presence = event["presence"]
        kind = presence["type"].removeprefix("PRESENCE_TYPE_").lower()
        words = [kind, presence["reason"], presence["detail"], presence["peer_address"]]
        return printable(f"{_time(event['event_time'])} {box} {' '.join(word for word in words if word)}")
    if "message_status" in event:
        return printable(f"{_time(event['event_time'])} {box} status {_status(event['message_status'])}")
    if "no_queue" in event:
        return printable(f"{box} downlink {_downlink(event)}")
    if "code" in event:
        return printable(f"{_time(event['ingest_time'])} {box} rejected {event['code']}: {event['reason']}")
    if "account" in event:
        changed = "/".join(name for name in (event["account"], event["asset"]) if name)
        return printable(f"directory changed {changed or 'everything'}")
    return printable(f"{event.get('topic')} {event.get('partition')} {event.get('offset')}: {event.get('error', '?')}")


def _status(status: dict[str, Any]) -> str:
    words = [status["message_id"], status["status"].removeprefix("DELIVERY_STATUS_").lower(), status["reason"]]
    if status["attempts"]:
        words.append(f"(attempt {status['attempts']})")
    return " ".join(word for word in words if word)


def _downlink(event: dict[str, Any]) -> str:
    """
    A C{cloudnext.v1.DownlinkMessage}, which without an id has that of its place.
    """
    words = [event["id"] or f"{event['topic']}/{event['partition']}/{event['offset']}", event["channel"]]
    payload = event["payload"]
    words.append(payload if len(payload) <= _SHOWN else f"{payload[:_SHOWN]}...")
    words += [name for name in ("no_queue", "want_ack") if event[name]]
    if event["expires_at"] != "0":
        words.append(f"expires_at={_time(event['expires_at'])}")
    return " ".join(words)


def _track(event: dict[str, Any]) -> str:
    track = event["track"]
    words = []
    if "latitude" in track and "longitude" in track:
        words.append(f"{track['latitude'] / 1e7:.5f},{track['longitude'] / 1e7:.5f}")
    labels = event.get("field_labels", [])
    for place, (number, value) in enumerate(zip(track["field_numbers"], track["field_values"], strict=False)):
        name = labels[place]["name"] if place < len(labels) else ""
        words.append(f"{name or number}={next(iter(value.values()), '')}")
    return " ".join(words)
