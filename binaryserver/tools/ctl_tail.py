"""
C{binaryserver-ctl tail}.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead, InvalidURL
from typing import Any
from urllib.parse import urlencode, urlsplit

_ANSWER_TIMEOUT = 20.0
"""s for the connection and for the answer's head, which comes once the gateway can read its bus"""
_MAX_READ = 65_536
"""bytes"""
_MAX_PROBLEM = 65_536
"""bytes read of an error's body"""


def run(options: argparse.Namespace) -> int:
    """
    Print events until there are no more, or the reader of our output is gone.

    @return: the exit status
    """
    try:
        answer = _ask(options)
        if answer.status != 200:
            return _fail(f"{options.http}: {_detail(answer)}")
        for line in _lines(answer):
            if not _tell(line.decode() if options.json else describe(json.loads(line))):
                return 0
    except InvalidURL as error:
        return _fail(f"{options.http}: {error}")
    except HTTPException as error:
        return _fail(f"{options.http}: the gateway ended the answer before its end ({type(error).__name__})")
    except OSError as error:
        return _fail(f"{options.http}: {error.strerror or error}")
    except ValueError as error:
        return _fail(f"--http: {options.http!r} {error}")
    except KeyboardInterrupt:
        return 0
    return 0


def _ask(options: argparse.Namespace) -> HTTPResponse:
    """
    Ask for the events; no proxy stands in between, whatever the environment says.

    @raise ValueError: the URL is none; C{str} of it goes on from the URL
    @raise InvalidURL: it is none that can be asked
    @raise OSError: the gateway cannot be reached
    """
    url = urlsplit(options.http)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("is no http:// URL")
    try:
        port = url.port
    except ValueError:
        raise InvalidURL("this port is none") from None
    query = urlencode(
        [
            *(("topic", topic) for topic in options.topic),
            *((name, value) for name in ("asset", "account") if (value := getattr(options, name))),
            ("from_start", int(options.from_start)),
            ("follow", int(not options.no_follow)),
        ]
    )
    kind = HTTPSConnection if url.scheme == "https" else HTTPConnection
    connection = kind(url.hostname, port, timeout=_ANSWER_TIMEOUT)
    connection.connect()
    # Once it has answered, the connection is the response's alone.
    socket = connection.sock
    connection.request("GET", f"{url.path.rstrip('/')}/api/tail?{query}")
    answer = connection.getresponse()
    # A tail may be silent for hours.
    socket.settimeout(None)
    return answer


def _lines(answer: HTTPResponse) -> Iterator[bytes]:
    """
    The lines of the body.

    @raise IncompleteRead: the connection ended before the body did (L{HTTPResponse.readline} would not tell)
    """
    rest = b""
    while data := answer.read1(_MAX_READ):
        *lines, rest = (rest + data).split(b"\n")
        yield from lines
    if rest:
        raise IncompleteRead(rest)


def _tell(text: str) -> bool:
    """
    Print a line at once.

    @return: whether somebody reads us still; C{head}, say, does so only for a while
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _fail(sentence: str) -> int:
    print(f"binaryserver-ctl: {sentence}", file=sys.stderr)
    return 1


def _detail(answer: HTTPResponse) -> str:
    """
    What an error says of itself, if it is a gateway's.
    """
    try:
        problem = json.loads(answer.read(_MAX_PROBLEM))
        return f"{answer.status} {problem['title']}: {problem['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"{answer.status} {answer.reason}: is this a gateway's HTTP side?"


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
