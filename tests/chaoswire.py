"""
A wire between one instance and Redis, that a test may cut, or stop without cutting it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

from tests.services import freePort

_CHUNK: Final = 65_536


class Wire:
    """
    Passes bytes on, in a thread of its own.

    @ivar port: where it listens
    """

    def __init__(self, target: int) -> None:
        """
        @param target: the loopback port that it leads to
        """
        self.port = freePort()
        self._target = target
        self._flows = asyncio.Event()
        self._flows.set()
        self._isCut = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._accepted, "127.0.0.1", self.port))

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _call(self, function: Callable[[], None]) -> None:
        async def call() -> None:
            function()

        self._do(call())

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self._isCut:
                return
            there, thither = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(thither)
            try:
                pumps = [asyncio.ensure_future(self._pump(*pair)) for pair in ((reader, thither), (there, writer))]
                self._tasks.update(pumps)
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                for pump in pumps:
                    pump.cancel()
                self._tasks.difference_update(pumps)
            finally:
                self._end(thither)
        except OSError:
            # Redis is away.
            return
        finally:
            self._end(writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()

    def _end(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        writer.transport.abort()

    def stall(self) -> None:
        """
        Nothing comes through, and nobody is told.
        """
        self._call(self._flows.clear)

    def flow(self) -> None:
        """
        What was held up arrives, and all goes on.
        """
        self._call(self._flows.set)

    def cut(self) -> None:
        """
        Drop the connections, and each new one.
        """

        def drop() -> None:
            self._isCut = True
            for writer in list(self._writers):
                writer.transport.abort()

        self._call(drop)

    def mend(self) -> None:
        """
        Take new ones.
        """

        def mended() -> None:
            self._isCut = False

        self._call(mended)

    def close(self) -> None:
        """
        End it.
        """

        async def end() -> None:
            self._server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.sleep(0)

        self._do(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        if not self._thread.is_alive():
            self._loop.close()
