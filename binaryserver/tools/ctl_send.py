"""
C{binaryserver-ctl send}.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import time
import uuid
from pathlib import Path
from typing import Any, BinaryIO, Final

from binaryserver.tools.ctl_http import Answer, AskFailed, HttpSide, ask, fail, tell
from binaryserver.tools.ctl_tail import describe

ACKED: Final = 0
NOT_DELIVERED: Final = 1
NOT_KNOWN: Final = 3
"""The exit statuses; 2 is a command line that cannot be understood."""

_MAX_PAYLOAD: Final = 1024 * 1024
"""bytes read of a payload; what is more no gateway takes"""
ANSWER_TIMEOUT: Final = 45.0
"""s; a gateway gives up on its bus before"""
_FINAL: Final = {
    "DELIVERY_STATUS_ACKED": ACKED,
    "DELIVERY_STATUS_REFUSED": NOT_DELIVERED,
    "DELIVERY_STATUS_EXPIRED": NOT_DELIVERED,
    "DELIVERY_STATUS_REJECTED": NOT_DELIVERED,
}
UNKNOWN_SINCE: Final = 504
"""The HTTP status that says that a message may or may not be published."""


def run(options: argparse.Namespace) -> int:
    """
    Send a message, and wait for what becomes of it if that is asked for.

    @return: the exit status
    """
    try:
        payload = _payload(options.payload)
    except OSError as error:
        return fail(f"PAYLOAD: {error.filename or options.payload}: {error.strerror}")
    except ValueError as error:
        return fail(f"PAYLOAD: {error}")
    # Known before it is sent, so that it can be looked for, and sent again, whatever happens.
    messageId = options.id or uuid.uuid4().hex
    try:
        statuses = _openStatuses(options) if options.wait else None
        told = _send(options, messageId, payload)
        if options.json:
            tell(json.dumps(told))
        else:
            tell(f"message {told['id']} for {told['account']}/{told['asset']} is on its way")
        return ACKED if statuses is None else _wait(options, statuses, told)
    except AskFailed as error:
        isLost = error.wasSent and error.status in (0, UNKNOWN_SINCE)
        return fail(error, NOT_KNOWN if isLost else NOT_DELIVERED)
    except KeyboardInterrupt:
        return NOT_KNOWN


def _payload(given: str) -> bytes:
    """
    @raise OSError: it cannot be read
    @raise ValueError: it is too large
    """
    if given == "-":
        return _readAll(sys.stdin.buffer, "standard input")
    if given.startswith("@"):
        with Path(given[1:]).open("rb") as file:
            return _readAll(file, given[1:])
    # What the command line had that is no UTF-8 goes out as it came in.
    return given.encode("utf-8", "surrogateescape")


def _readAll(file: BinaryIO, name: str) -> bytes:
    data = file.read(_MAX_PAYLOAD + 1)
    if len(data) > _MAX_PAYLOAD:
        raise ValueError(f"{name} has more than {_MAX_PAYLOAD} bytes")
    return data


def _openStatuses(options: argparse.Namespace) -> Answer:
    """
    From now on; the answer's head comes once the gateway reads its bus.
    """
    arguments: list[tuple[str, object]] = [("topic", "statuses"), ("asset", options.asset)]
    if options.account:
        arguments.append(("account", options.account))
    try:
        return ask(HttpSide.of(options), "/api/tail", arguments=arguments)
    except AskFailed as error:
        error.wasSent = False  # the message was not
        raise


def _send(options: argparse.Namespace, messageId: str, payload: bytes) -> dict[str, Any]:
    body: dict[str, object] = {
        "asset": options.asset,
        "channel": options.channel,
        "payload": base64.b64encode(payload).decode(),
        "id": messageId,
        "no_queue": options.no_queue,
        "want_ack": options.want_ack,
    }
    if options.account:
        body["account"] = options.account
    if options.correlation_id:
        body["correlation_id"] = options.correlation_id
    if options.expires is not None:
        body["expires_in"] = options.expires
    side = HttpSide.of(options)
    return ask(side, "/api/messages", body=body, expected=202, timeout=ANSWER_TIMEOUT).json()


def _wait(options: argparse.Namespace, statuses: Answer, told: dict[str, Any]) -> int:
    """
    Until the message has its final status.
    """
    until = time.monotonic() + options.timeout
    try:
        for line in statuses.lines(until):
            event = json.loads(line)
            status = event.get("message_status", {})
            if status.get("message_id") != told["id"] or event.get("account") != told["account"]:
                continue
            ending = _FINAL.get(status["status"])
            if not options.json:
                tell(describe(event))
            elif ending is not None:
                tell(line.decode())
            if ending is not None:
                return ending
    except TimeoutError:
        hint = "; a box's second message of one id has none" if options.id else ""
        return fail(f"message {told['id']} has no final status after {options.timeout:g} s{hint}", NOT_KNOWN)
    except ValueError:
        return fail(f"{options.http}: is this a gateway's HTTP side?", NOT_KNOWN)
    return fail(f"{options.http}: the gateway ended the answer before message {told['id']} was done", NOT_KNOWN)
