"""
C{binaryserver-ctl show}, C{explain} and C{disconnect}.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from binaryserver.tools.ctl_boxes import moment
from binaryserver.tools.ctl_http import AskFailed, HttpSide, ask, fail, tell
from binaryserver.tools.ctl_send import ANSWER_TIMEOUT, NOT_KNOWN, UNKNOWN_SINCE
from binaryserver.tools.terminal import printable

_STATES = {"connected": "is connected", "disconnected": "is offline", "never_connected": "is offline"}


def show(options: argparse.Namespace) -> int:
    """
    Print all that is kept of a box.

    @return: the exit status
    """
    return _run(options, "", describe)


def explain(options: argparse.Namespace) -> int:
    """
    Print why a box is offline.

    @return: the exit status
    """
    return _run(options, "/explain", describeWhy)


def disconnect(options: argparse.Namespace) -> int:
    """
    Close a box's link.

    @return: the exit status
    """

    def done(told: dict[str, Any]) -> list[str]:
        return [f"disconnected {told['account']}/{told['asset']}: link {told['link_epoch']} at {told['instance']}"]

    return _run(options, "/disconnect", done, "POST")


def _run(
    options: argparse.Namespace, below: str, described: Callable[[dict[str, Any]], list[str]], method: str = "GET"
) -> int:
    try:
        arguments: list[tuple[str, object]] = [("account", options.account)] if options.account else []
        path = f"/api/boxes/{quote(options.asset, safe='')}{below}"
        side = HttpSide.of(options)
        told = ask(side, path, method=method, arguments=arguments, timeout=ANSWER_TIMEOUT).json()
        lines = [json.dumps(told)] if options.json else list(map(printable, described(told)))
    except AskFailed as error:
        isLost = method != "GET" and error.wasSent and error.status in (0, UNKNOWN_SINCE)
        return fail(error, NOT_KNOWN if isLost else 1)
    except (AttributeError, KeyError, TypeError):
        return fail(f"{options.http}: is this a gateway's HTTP side?", NOT_KNOWN if method != "GET" else 1)
    except KeyboardInterrupt:
        return NOT_KNOWN
    for line in lines:
        if not tell(line):
            break
    return 0


def describe(told: dict[str, Any]) -> list[str]:
    """
    A box, for a person.

    @param told: as the HTTP side gives it
    """
    session, mailbox, mqtt = told["session"], told["mailbox"], told["mqtt"]
    lines = [_name(told)]
    if session is None:
        lines.append("  it was never connected")
    else:
        state = "connected" if session["connected"] else "away"
        isAlive = "alive" if told["instance_alive"] else "dead"
        lines += [
            f"  {state} since {moment(session['since'] if session['connected'] else session['seen'])}",
            f"  link {session['link_epoch']} by {session['protocol']} from {session['peer']}",
            f"  instance {session['instance']} ({isAlive})",
            f"  {'subscribed' if session['listening'] else 'not subscribed'} to its downlink",
        ]
    if mqtt is not None:
        filters = ", ".join(f"{one['filter']} (QoS {one['qos']})" for one in mqtt["subscriptions"])
        lines.append(f"  MQTT session: {filters or 'no subscriptions'}")
    lines += [
        f"  stream {one['stream']}: up to index {one['committed']}, recorded until {moment(one['latest'])}"
        for one in told["streams"]
    ]
    if told["fingerprints"]:
        lines.append(f"  {told['fingerprints']} tracks known by their fingerprints")
    oldest = f", the oldest since {moment(mailbox['oldest'])}" if mailbox["oldest"] else ""
    lines.append(f"  {mailbox['messages']} messages of {mailbox['bytes']} bytes wait{oldest}")
    return lines + _events(told)


def describeWhy(told: dict[str, Any]) -> list[str]:
    """
    Why a box is offline, for a person.

    @param told: as the HTTP side gives it
    """
    lines = [f"{_name(told)} {_STATES[told['state']]}."]
    lines += [f"  {sentence}" for sentence in told["why"]]
    if told["advice"]:
        lines += ["What to do:", *(f"  {sentence}" for sentence in told["advice"])]
    return lines + _events(told)


def _name(told: dict[str, Any]) -> str:
    return f"{told['account'] or '(no account)'}/{told['asset']}"


def _events(told: dict[str, Any]) -> list[str]:
    return ["Last events:", *(f"  {_event(event)}" for event in told["events"])] if told["events"] else []


def _event(event: dict[str, Any]) -> str:
    words = [moment(event["at"]), event["kind"], event["reason"], event["detail"]]
    if event["peer"]:
        words.append(f"from {event['peer']}")
    words.append(f"at {event['instance']}")
    if event["times"] > 1:
        words.append(f"({event['times']} times since {moment(event['since'])})")
    return " ".join(word for word in words if word)
