"""
C{binaryserver-ctl tail}.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import urlopen

_CONNECT_TIMEOUT = 10.0


def run(options: argparse.Namespace) -> int:
    """
    Print events until there are no more, or the reader of our output is gone.

    @return: the exit status
    """
    if urlsplit(options.http).scheme not in ("http", "https"):
        return _fail(f"--http: {options.http!r} is no http:// URL")
    query = urlencode(
        [
            *(("topic", topic) for topic in options.topic),
            *((name, value) for name in ("asset", "account") if (value := getattr(options, name))),
            ("from_start", int(options.from_start)),
            ("follow", int(not options.no_follow)),
        ]
    )
    try:
        # A tail may be silent for hours: the timeout is the connection's, and is lifted once it answers.
        with urlopen(f"{options.http.rstrip('/')}/api/tail?{query}", timeout=_CONNECT_TIMEOUT) as answer:
            answer.fp.raw._sock.settimeout(None)
            for line in answer:
                print(line.decode().rstrip("\n") if options.json else describe(json.loads(line)), flush=True)
    except HTTPError as error:
        return _fail(f"{options.http}: {_detail(error)}")
    except (URLError, HTTPException, OSError) as error:
        if isinstance(error, BrokenPipeError):
            # Whoever read us, e.g. head, has seen enough. Python would complain when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return _fail(f"{options.http}: {getattr(error, 'reason', error) or 'the gateway ended the answer'}")
    except KeyboardInterrupt:
        return 0
    return 0


def _fail(sentence: str) -> int:
    print(f"binaryserver-ctl: {sentence}", file=sys.stderr)
    return 1


def _detail(error: HTTPError) -> str:
    try:
        problem = json.loads(error.read(65_536))
        return f"{error.code} {problem['title']}: {problem.get('detail', '')}"
    except (ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}"


def _time(unixMs: str) -> str:
    text = datetime.fromtimestamp(int(unixMs) / 1000, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def describe(event: dict[str, Any]) -> str:
    """
    One event in one line, for a person.

    @param event: as the HTTP side gives it
    """
    box = f"{event.get('account', '?')}/{event.get('asset', '?')}"
    if "track" in event:
        where = "unindexed" if event["unindexed"] else f"{event['stream']}:{event['index']}"
        return _printable(f"{_time(event['event_time'])} {box} track {where} {_track(event)}")
    if "message" in event:
        message = event["message"]
        return _printable(f"{_time(event['event_time'])} {box} message {message['channel']} {message['payload']}")
    if "presence" in event:
        presence = event["presence"]
        kind = presence["type"].removeprefix("PRESENCE_TYPE_").lower()
        words = [kind, presence["reason"], presence["detail"], presence["peer_address"]]
        return _printable(f"{_time(event['event_time'])} {box} {' '.join(word for word in words if word)}")
    if "code" in event:
        return _printable(f"{_time(event['ingest_time'])} {box} rejected {event['code']}: {event['reason']}")
    return _printable(f"{event.get('topic')} {event.get('partition')} {event.get('offset')}: {event.get('error', '?')}")


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


def _printable(text: str) -> str:
    """
    Without the control characters that a box may have sent, which a terminal would obey.
    """
    return "".join(character if character.isprintable() else "�" for character in text)
