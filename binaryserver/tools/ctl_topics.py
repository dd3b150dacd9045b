"""
C{binaryserver-ctl topics create}.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from binaryserver.bus.topics import Topics
from binaryserver.errors import BinaryServerError
from binaryserver.interfaces import IBusPlugin
from binaryserver.plugins import BackEndContext, createBackEnd

BUS_VARIABLE = "BINARYSERVER_BUS"
"""The gateway's own: where C{--bus} is looked for if it is not given."""


async def create(reactor: Any, options: argparse.Namespace) -> list[str]:
    """
    Make what is missing.

    @return: the names of the topics made
    @raise BinaryServerError: the bus cannot be understood, reached, or refuses
    """
    topics = Topics.named(options.topic_prefix)
    bus = createBackEnd(IBusPlugin, options.bus or os.environ[BUS_VARIABLE], BackEndContext(reactor, "--bus"))
    made: list[str] = await bus.createTopics(topics.all, options.partitions, options.replication)
    return made


def run(options: argparse.Namespace) -> int:
    """
    Make the topics, say which.

    @return: the exit status
    """
    failures: list[BinaryServerError] = []

    async def attempt(reactor: Any) -> None:
        try:
            made = await create(reactor, options)
        except BinaryServerError as error:
            print(f"binaryserver-ctl: {error}", file=sys.stderr)
            failures.append(error)
        else:
            for topic in Topics.named(options.topic_prefix).all:
                print(f"{topic}: {'made' if topic in made else 'is there already'}")

    try:
        react(lambda reactor: Deferred.fromCoroutine(attempt(reactor)))
    except SystemExit as ended:
        # How react always ends.
        return int(bool(ended.code or failures))
