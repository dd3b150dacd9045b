"""
C{binaryserver-ctl}: asks a gateway over its HTTP side, and makes topics.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from binaryserver.bus.topics import DEFAULT_PREFIX, Topics
from binaryserver.tools import ctl_tail, ctl_topics

DEFAULT_HTTP = "http://127.0.0.1:8080"


def makeParser() -> argparse.ArgumentParser:
    """
    The command line.
    """
    parser = argparse.ArgumentParser(
        prog="binaryserver-ctl", description="See what a binaryserver gateway publishes, and prepare its bus."
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
        help=f"only this topic ({', '.join(Topics._fields)}); repeatable [all]",
    )
    tail.add_argument("--asset", default="", metavar="A", help="only events of this box")
    tail.add_argument("--account", default="", metavar="NAME", help="only events of this account's boxes")
    tail.add_argument(
        "--from-start", action="store_true", help="begin with the oldest event that is kept, not with now"
    )
    tail.add_argument("--no-follow", action="store_true", help="end when everything that is there has been printed")
    tail.add_argument("--json", action="store_true", help="one JSON object a line, in the cloud protobuf's field names")
    tail.set_defaults(run=ctl_tail.run)

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
