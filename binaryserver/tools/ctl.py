"""
C{binaryserver-ctl}: asks a gateway over its HTTP side, sends messages to boxes, and makes topics.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from binaryserver.bus.topics import DEFAULT_PREFIX, Topics
from binaryserver.tools import ctl_send, ctl_tail, ctl_topics

DEFAULT_HTTP = "http://127.0.0.1:8080"


def makeParser() -> argparse.ArgumentParser:
    """
    The command line.
    """
    parser = argparse.ArgumentParser(
        prog="binaryserver-ctl",
        description="See what a binaryserver gateway publishes, send messages to its boxes, and prepare its bus.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    tail = commands.add_parser(
        "tail",
        help="print events as they are published",
        description="Print the events that the gateway has published: from now on, or all that its bus still keeps.",
    )
    tail.add_argument("--http", default=DEFAULT_HTTP, metavar="URL", help="the gateway's HTTP side [%(default)s]")
    tail.add_argument(
        "--topic",
        action="append",
        default=[],
        metavar="T",
        help=f"only this topic ({', '.join(Topics._fields)}); repeatable [all but downlink]",
    )
    tail.add_argument("--asset", default="", metavar="A", help="only events of this box")
    tail.add_argument("--account", default="", metavar="NAME", help="only events of this account's boxes")
    tail.add_argument(
        "--from-start", action="store_true", help="begin with the oldest event that is kept, not with now"
    )
    tail.add_argument("--no-follow", action="store_true", help="end when everything that is there has been printed")
    tail.add_argument("--json", action="store_true", help="one JSON object a line, in the cloud protobuf's field names")
    tail.set_defaults(run=ctl_tail.run)

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
    send.add_argument("--http", default=DEFAULT_HTTP, metavar="URL", help="the gateway's HTTP side [%(default)s]")
    send.add_argument(
        "--json", action="store_true", help="print the gateway's answer and the final status, one JSON object a line"
    )
    send.set_defaults(run=ctl_send.run)

    topics = commands.add_parser("topics", help="prepare the bus's topics", description="Prepare the bus's topics.")
    actions = topics.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser(
        "create",
        help="make the topics that are missing",
        description="Make the topics that the gateway needs and that the bus does not have yet.",
    )
    create.add_argument("--bus", required=True, metavar="SPEC", help="as the gateway's --bus, e.g. kafka://HOST:9092")
    create.add_argument("--partitions", type=_positive, default=8, metavar="N", help="of each topic [%(default)s]")
    create.add_argument("--replication", type=_positive, default=3, metavar="R", help="copies of each [%(default)s]")
    create.add_argument("--topic-prefix", default=DEFAULT_PREFIX, metavar="P", help="as the gateway's [%(default)s]")
    create.set_defaults(run=ctl_topics.run)
    return parser


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
