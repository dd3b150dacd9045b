"""
C{binaryserver-ctl}: asks a gateway over its HTTP side, lists and explains boxes, sends them messages, disconnects and
erases them, tells what changed in the directory, hashes their secrets, drains instances, changes what they log, checks
their configuration, and makes topics.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from binaryserver.bus.topics import DEFAULT_PREFIX, Topics
from binaryserver.secretvalues import holdsSecret
from binaryserver.tools import (
    ctl_box,
    ctl_boxes,
    ctl_config,
    ctl_control,
    ctl_directory,
    ctl_erase,
    ctl_secret,
    ctl_send,
    ctl_tail,
    ctl_topics,
)
from binaryserver.tools.ctl_http import addHttpOptions

_Commands = Any
"""What C{argparse} adds commands to; it has no public name."""


def makeParser() -> argparse.ArgumentParser:
    """
    The command line.
    """
    parser = argparse.ArgumentParser(
        prog="binaryserver-ctl",
        description="See what a binaryserver gateway publishes, list its boxes and say why one is offline, send them "
        "messages, disconnect and erase them, hash their secrets, tell what changed in the directory, prepare the bus.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _addTail(commands)
    _addSend(commands)
    _addDirectory(commands)
    _addBoxes(commands)
    _addShow(commands)
    _addExplain(commands)
    _addDisconnect(commands)
    _addErase(commands)
    _addDrain(commands)
    _addLogs(commands)
    _addConfig(commands)
    _addSecret(commands)
    _addTopics(commands)
    return parser


def _addTail(commands: _Commands) -> None:
    tail = commands.add_parser(
        "tail",
        help="print events as they are published",
        description="Print the events that the gateway has published: from now on, or all that its bus still keeps.",
    )
    tail.add_argument(
        "--topic",
        action="append",
        default=[],
        metavar="T",
        help=f"only this topic ({', '.join(Topics._fields)}); repeatable [all but downlink and directory]",
    )
    tail.add_argument("--asset", default="", metavar="A", help="only events of this box")
    tail.add_argument("--account", default="", metavar="NAME", help="only events of this account's boxes")
    tail.add_argument(
        "--from-start", action="store_true", help="begin with the oldest event that is kept, not with now"
    )
    tail.add_argument("--no-follow", action="store_true", help="end when everything that is there has been printed")
    tail.add_argument("--json", action="store_true", help="one JSON object a line, in the cloud protobuf's field names")
    addHttpOptions(tail)
    tail.set_defaults(run=ctl_tail.run)


def _addSend(commands: _Commands) -> None:
    send = commands.add_parser(
        "send",
        help="send a message to a box",
        description="Send a message to a box; if the box is away, it waits until it expires. Exit status: 0 sent or, "
        "with --wait, acked; 1 not sent or, with --wait, refused, expired or rejected; 3 not known, as there was no "
        "answer in time.",
    )
    send.add_argument("asset", metavar="ASSET", help="the box")
    send.add_argument("channel", metavar="CHANNEL", help="of the box's application that it is for")
    send.add_argument(
        "payload", metavar="PAYLOAD", help="text; @FILE: what stands in that file; -: what comes on standard input"
    )
    send.add_argument(
        "--account", default="", metavar="A", help="whose box it is [the only one that it was ever connected as]"
    )
    send.add_argument("--expires", type=_seconds, metavar="S", help="not to be delivered after S seconds from now")
    send.add_argument("--no-queue", action="store_true", help="refused at once unless the box is connected")
    send.add_argument(
        "--want-ack", action="store_true", help="acked once the box's application has answered, not just the box"
    )
    send.add_argument(
        "--id",
        default="",
        metavar="ID",
        help="of the message; a box gets only one with it, however often it is sent [drawn]",
    )
    send.add_argument("--correlation-id", default="", metavar="C", help="your own; statuses repeat it")
    send.add_argument("--wait", action="store_true", help="print what becomes of it, until its final status")
    send.add_argument(
        "--timeout", type=_seconds, default=60.0, metavar="S", help="wait no longer than S seconds [%(default)g]"
    )
    send.add_argument(
        "--json", action="store_true", help="print the gateway's answer and the final status, one JSON object a line"
    )
    addHttpOptions(send)
    send.set_defaults(run=ctl_send.run)


def _addDirectory(commands: _Commands) -> None:
    directory = commands.add_parser(
        "directory", help="tell what changed in the directory", description="Tell what changed in the directory."
    )
    actions = directory.add_subparsers(dest="action", required=True, metavar="ACTION")
    changed = actions.add_parser(
        "changed",
        help="have the gateways ask again",
        description="Have every gateway ask the directory again: for one box of an account, for the account itself "
        "with its fields and channels, or for everything. Who may not be in any more is disconnected.",
    )
    changed.add_argument("account", nargs="?", default="", metavar="ACCOUNT", help="whose [everybody's]")
    changed.add_argument("asset", nargs="?", default="", metavar="ASSET", help="its box [the account itself]")
    addHttpOptions(changed)
    changed.set_defaults(run=ctl_directory.run)


def _addBoxes(commands: _Commands) -> None:
    boxes = commands.add_parser(
        "boxes",
        help="list the boxes",
        description="List the boxes that were ever connected, by account and asset. Any gateway answers for all.",
    )
    boxes.add_argument("--account", default="", metavar="A", help="only this account's")
    boxes.add_argument("--prefix", default="", metavar="P", help="only those whose asset begins with P")
    boxes.add_argument("--state", default="", choices=["connected", "disconnected"], help="only those")
    boxes.add_argument("--limit", type=_positive, metavar="N", help="no more than N")
    boxes.add_argument("--after", default="", metavar="ACCOUNT/ASSET", help="only those behind this one")
    boxes.add_argument("--json", action="store_true", help="one JSON object a line")
    addHttpOptions(boxes)
    boxes.set_defaults(run=ctl_boxes.run)


def _addShow(commands: _Commands) -> None:
    show = commands.add_parser(
        "show",
        help="show what is kept of a box",
        description="Show what is kept of a box: its link and its owner, how far its tracks are durable, its MQTT "
        "session, what waits for it, and its last events.",
    )
    _addBox(show, "print it as one JSON object")
    show.set_defaults(run=ctl_box.show)


def _addExplain(commands: _Commands) -> None:
    explain = commands.add_parser(
        "explain",
        help="say why a box is offline",
        description="Say why a box is offline, and what to do: how its last links ended, why it was refused, what "
        "was last heard of it, and what the directory says of it.",
    )
    _addBox(explain, "print it as one JSON object")
    explain.set_defaults(run=ctl_box.explain)


def _addDisconnect(commands: _Commands) -> None:
    disconnect = commands.add_parser(
        "disconnect",
        help="close a box's link",
        description="Close the link that a box has now, whichever gateway has it. The box may come back: revoke it in "
        "the directory to keep it out. Exit status: 0 closed; 1 not; 3 not known, as there was no answer in time.",
    )
    _addBox(disconnect, "print the gateway's answer as one JSON object")
    disconnect.set_defaults(run=ctl_box.disconnect)


def _addBox(command: argparse.ArgumentParser, json: str) -> None:
    """
    What commands on one box have.

    @param json: what C{--json} is for
    """
    command.add_argument("asset", metavar="ASSET", help="the box")
    command.add_argument("--account", default="", metavar="A", help="whose box it is [the only one that was heard of]")
    command.add_argument("--json", action="store_true", help=json)
    addHttpOptions(command)


def _addErase(commands: _Commands) -> None:
    erase = commands.add_parser(
        "erase",
        help="remove what the gateway keeps of a box",
        description="Remove what the gateway keeps of a box (session, marks, messages that wait, events on its own "
        "bus), and tell what was removed and what remains elsewhere. The box must not be connected: revoke it first. "
        "Exit status: 0 removed; 1 not; 3 not known, as there was no answer in time: ask again.",
    )
    erase.add_argument("asset", metavar="ASSET", help="the box")
    erase.add_argument(
        "--account", default="", metavar="A", help="whose box it is [the only one that it was ever connected as]"
    )
    erase.add_argument("--yes", action="store_true", help="do not ask whether it is meant")
    erase.add_argument("--json", action="store_true", help="print the gateway's report as one JSON object")
    addHttpOptions(erase)
    erase.set_defaults(run=ctl_erase.run)


def _addDrain(commands: _Commands) -> None:
    drain = commands.add_parser(
        "drain",
        help="have an instance stop in good order",
        description="Have an instance drain and end, as SIGTERM does: the one that is asked, with all its workers, or "
        "one worker of it, which is started again then.",
    )
    drain.add_argument("--instance", default="", metavar="ID", help="which [the one that is asked]")
    drain.add_argument("--json", action="store_true", help="print the gateway's answer as one JSON object")
    addHttpOptions(drain)
    drain.set_defaults(run=ctl_control.runDrain)


def _addLogs(commands: _Commands) -> None:
    logs = commands.add_parser(
        "logs",
        help="tell, or change, what is logged",
        description="Tell what a gateway logs. With a level: log that much from now on, until it is changed again, "
        "read again (SIGHUP), or the gateway ends.",
    )
    logs.add_argument(
        "words",
        nargs="*",
        metavar="[NAMESPACE] LEVEL",
        help="debug, info, warn, error, critical; for one NAMESPACE (binaryserver.bus, say) also default, which it has "
        "without a level of its own",
    )
    logs.add_argument("--json", action="store_true", help="print the gateway's answer as one JSON object")
    addHttpOptions(logs)
    logs.set_defaults(run=ctl_control.runLogs)


def _addConfig(commands: _Commands) -> None:
    config = commands.add_parser("config", help="check a configuration file", description="Check a configuration file.")
    actions = config.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser(
        "check",
        help="tell what is wrong with it",
        description="Tell all that is wrong with a gateway's --config file, each with its line. Nothing is opened, "
        "though certificates and the like are read. Exit status: 0 nothing; 1 something.",
    )
    check.add_argument("file", metavar="FILE", help="the file")
    check.add_argument("--json", action="store_true", help="print what is wrong as one JSON object")
    check.set_defaults(run=ctl_config.run)


def _addSecret(commands: _Commands) -> None:
    hashed = commands.add_parser(
        "hash-secret",
        help="hash a box's secret for the directory",
        description="Read a secret from standard input, or without echo from a terminal, and print its argon2id hash, "
        "as the directory keeps it.",
    )
    hashed.add_argument(
        "--memory",
        type=_positive,
        default=ctl_secret.DEFAULT_MEMORY,
        metavar="KIB",
        help="that each check of it takes for a moment [%(default)s]",
    )
    hashed.add_argument(
        "--time",
        type=_positive,
        default=ctl_secret.DEFAULT_TIME,
        metavar="N",
        help="passes over that memory [%(default)s]",
    )
    hashed.set_defaults(run=ctl_secret.run)


def _addTopics(commands: _Commands) -> None:
    topics = commands.add_parser("topics", help="prepare the bus's topics", description="Prepare the bus's topics.")
    actions = topics.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser(
        "create",
        help="make the topics that are missing",
        description="Make the topics that the gateway needs and that the bus does not have yet.",
    )
    create.add_argument(
        "--bus",
        type=_shownToAll,
        required=ctl_topics.BUS_VARIABLE not in os.environ,
        metavar="SPEC",
        help=f"as the gateway's --bus, e.g. kafka://HOST:9092 [{ctl_topics.BUS_VARIABLE} in the environment]",
    )
    create.add_argument("--partitions", type=_positive, default=8, metavar="N", help="of each topic [%(default)s]")
    create.add_argument("--replication", type=_positive, default=3, metavar="R", help="copies of each [%(default)s]")
    create.add_argument("--topic-prefix", default=DEFAULT_PREFIX, metavar="P", help="as the gateway's [%(default)s]")
    create.set_defaults(run=ctl_topics.run)


def _shownToAll(text: str) -> str:
    if holdsSecret(text):
        raise argparse.ArgumentTypeError(
            f"everybody on this host can see a password here: use password-file=PATH, or {ctl_topics.BUS_VARIABLE}"
        )
    return text


def _positive(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return number


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 366 * 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds, more than 0 and within 366 days")
    return seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """
    The program.

    @return: the exit status
    """
    options = makeParser().parse_args(arguments)
    status: int = options.run(options)
    return status


if __name__ == "__main__":
    sys.exit(main())
