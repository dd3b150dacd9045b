"""
Members of consumer groups in processes of their own, to be killed and frozen.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

MEMBER = """
import sys
from twisted.internet import task
from twisted.internet.defer import Deferred
from binaryserver.interfaces import IBusPlugin
from binaryserver.plugins import BackEndContext, createBackEnd

spec, topic, group, committed = sys.argv[1:]

async def main(reactor):
    bus = createBackEnd(IBusPlugin, spec, BackEndContext(reactor, "--bus", topics=(topic,)))
    await bus.start()
    consumer = await bus.openConsumer([topic], group)
    while True:
        for one in await consumer.read(100):
            number = int(one.value.rpartition(b"-")[2])
            print(number, flush=True)
            if number < int(committed):
                await consumer.commit({(one.topic, one.partition): one.offset + 1})

task.react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
"""
"""
Arguments: the bus, the topic, the group, and the number below which records are committed. Prints the records' numbers.
"""


class Member:
    """
    A process.
    """

    def __init__(self, program: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
        )
        assert self._process.stdout is not None
        self._output = self._process.stdout

    def numbers(self, count: int) -> list[int]:
        """
        The next numbers that it prints. Blocks.
        """
        return [int(self._output.readline()) for _ in range(count)]

    def signal(self, number: int) -> None:
        """
        Send it a signal.
        """
        self._process.send_signal(number)

    def kill(self) -> None:
        """
        C{kill -9}; does nothing where that was done already.
        """
        if self._process.poll() is None:
            self.signal(signal.SIGKILL)
            self._process.wait()

    def left(self) -> list[int]:
        """
        Once it is killed: what else it had printed.
        """
        found = [int(line) for line in self._output.read().split()]
        self._output.close()
        return found
