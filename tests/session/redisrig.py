"""
Real Redis for tests: a prefix of a test's own on the shared one, and servers that a test may freeze and kill.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from binaryserver.plugins import BackEndContext
from binaryserver.session.redisstore import RedisSessionStore
from tests.services import freePort, requireProgram, requireRedis
from tests.services.services import isListening, spawn
from tests.session.contract_base import reactor


class RedisServer:
    """
    A server of a test's own, in a folder of its own.

    @ivar port: where it listens
    """

    def __init__(self, *options: str, tls: bool = False) -> None:
        """
        @param options: of C{redis-server}; without any, it keeps nothing over a restart
        @param tls: C{port} is for TLS, by the options
        @raise SkipTest: there is no such program
        """
        self._program = requireProgram("redis-server", "redis-server")
        self.folder = Path(tempfile.mkdtemp(prefix="redis-"))
        self.port = freePort()
        ports = ("--port", "0", "--tls-port", str(self.port)) if tls else ("--port", str(self.port))
        self._command = [
            self._program,
            *ports,
            "--bind",
            "127.0.0.1",
            "--dir",
            str(self.folder),
            "--save",
            "",
            *options,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """
        Start it, and wait until it listens.
        """
        self._process = spawn(self._command, self.folder / "log")
        deadline = time.monotonic() + 20
        while not isListening(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"Redis does not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.02)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill9(self) -> None:
        """
        C{kill -9}.
        """
        assert self._process is not None
        self._signal(signal.SIGKILL)
        self._process.wait()

    def freeze(self) -> None:
        """
        SIGSTOP: it keeps its connections and answers nothing.
        """
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """
        SIGCONT.
        """
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """
        End it and remove its folder.
        """
        if self._process is not None and self._process.poll() is None:
            self.kill9()
        shutil.rmtree(self.folder, ignore_errors=True)


class RedisTestCase(TestCase):
    """
    Makes stores, and leaves nothing in the shared Redis.
    """

    timeout = 60

    def sharedSpec(self) -> str:
        """
        Of the shared Redis, with a prefix that no other test uses; what stands there goes with the test.
        """
        host, port = requireRedis()
        prefix = f"test-{uuid4().hex[:12]}:"
        spec = f"redis://{host}:{port}/0?prefix={prefix}"
        self.addCleanup(lambda: Deferred.fromCoroutine(self._clean(spec, prefix)))
        return spec

    async def _clean(self, spec: str, prefix: str) -> None:
        store = self.storeFor(spec)
        await store.start()
        keys = await store._link.call("KEYS", f"{prefix}*")
        for start in range(0, len(keys), 1000):
            await store._link.call("DEL", *keys[start : start + 1000])
        await store.stop()

    def startServer(self, *options: str, tls: bool = False) -> RedisServer:
        """
        A server of this test's own.
        """
        server = RedisServer(*options, tls=tls)
        self.addCleanup(server.close)
        server.start()
        return server

    def storeFor(self, spec: str, startTimeout: float = 10.0, stopTimeout: float = 5.0) -> RedisSessionStore:
        """
        A store that is not started.
        """
        context = BackEndContext(reactor, "--sessions", startTimeout=startTimeout, stopTimeout=stopTimeout)
        return RedisSessionStore(spec, context)

    async def startedStore(self, spec: str, stopTimeout: float = 5.0) -> RedisSessionStore:
        """
        A started one; stopped at the end of the test.
        """
        store = self.storeFor(spec, stopTimeout=stopTimeout)
        self.addCleanup(store.stop)
        await store.start()
        return store

    async def errorOf(self, deferred: Deferred[Any], *kinds: type[Exception]) -> Exception:
        """
        What a Deferred fails with.
        """
        error: Any = self.assertFailure(deferred, *kinds)
        return await error  # type: ignore[no-any-return]

    async def sleep(self, seconds: float) -> None:
        """
        Let time pass.
        """
        await deferLater(reactor, seconds, lambda: None)
