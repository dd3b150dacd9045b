"""
The parent of C{--workers N}: binds the ports, starts the workers, passes on what they say to each other, and starts
again what died.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.errors import ConfigError
from binaryserver.model import BoxKey
from binaryserver.ops.health import Check, merged
from binaryserver.ops.logs import levelTexts
from binaryserver.service import Component, ListeningService
from binaryserver.session.registry import NoPeers
from binaryserver.workers.channel import Channel
from binaryserver.workers.polling import Polling

_FIRST_LISTENER = 5
_RESTART_DELAYS = (0.1, 0.5, 1.0, 2.0, 5.0)
_HEALTHY = 10.0
_STOP_MARGIN = 5.0
"""s beyond the drain that a worker has to end."""
_SILENT = 5.0
"""s after which a worker that says nothing of its health is not well."""

_PROGRAM = "from binaryserver.tap import runWorker; runWorker()"


class WorkerState(Enum):
    """
    What the parent waits for.
    """

    starting = "its word that it listens"
    running = "its end"
    stopping = "its end, as it was told"
    waiting = "the time to start it again"
    ended = "nothing"


@dataclass(eq=False)
class Worker:
    """
    One slot, and the process in it.

    @ivar asked: questions under way at this worker: by their id there, who asked (L{None}: we), and who is to be told
    @ivar health: what it last said of itself
    @ivar heardAt: s of the reactor's clock, when
    @ivar isLeaving: it was asked to drain, and is to be started again
    """

    index: int
    instance: str
    state: WorkerState = WorkerState.ended
    incarnation: str = ""
    transport: Any = None
    channel: Channel | None = None
    started: Deferred[None] | None = None
    startedAt: float = 0.0
    failures: int = 0
    restart: IDelayedCall | None = None
    ended: Deferred[None] | None = None
    exitStatus: int | None = None
    asked: dict[int, tuple[Worker | None, Callable[[Any], None]]] = field(default_factory=dict)
    health: Mapping[str, Check] = field(default_factory=dict)
    heardAt: float = 0.0
    isLeaving: bool = False


class _WorkerProcess(ProcessProtocol):
    """
    The parent's end of one process.
    """

    def __init__(self, supervisor: Supervisor, worker: Worker) -> None:
        self._supervisor = supervisor
        self._worker = worker
        self.channel = Channel(self._received, lambda: None)

    def makeConnection(self, process: Any) -> None:
        """
        See L{ProcessProtocol.makeConnection}.
        """
        self.transport = process
        self.channel.makeConnection(_PipeTransport(process))

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """
        See L{ProcessProtocol.childDataReceived}.
        """
        self.channel.dataReceived(data)

    def _received(self, message: dict[str, Any]) -> None:
        self._supervisor.received(self._worker, message)

    def processEnded(self, reason: Failure) -> None:
        """
        See L{ProcessProtocol.processEnded}.
        """
        self._supervisor.workerEnded(self._worker, reason)


class _PipeTransport:
    """
    What a L{Channel} writes to: the pipe that the worker reads.
    """

    disconnecting = False

    def __init__(self, process: Any) -> None:
        self._process = process

    def write(self, data: bytes) -> None:
        """
        Write to the worker.
        """
        # Between the end of a pipe and the news that its process has ended there is nobody to write to.
        with suppress(KeyError):
            self._process.writeToChild(3, data)

    def writeSequence(self, data: Sequence[bytes]) -> None:
        """
        Write to the worker.
        """
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """
        End the worker's input: it drains and ends.
        """
        with suppress(KeyError):
            self._process.closeChildFD(3)


class WorkerPeers(NoPeers):
    """
    The workers, as the parent's own HTTP side reaches them where the session store knows no way.

    @ivar supervisor: of the workers
    """

    supervisor: Supervisor

    def disconnect(self, incarnation: str, box: BoxKey, linkEpoch: int) -> Deferred[bool | None]:
        """
        See L{binaryserver.interfaces.IPeers.disconnect}.
        """
        return self.supervisor.disconnect(incarnation, box, linkEpoch)


class Supervisor(Component):
    """
    @ivar workers: one for each number
    @ivar drainedWhole: every worker's last stop was a whole drain
    @ivar restarts: workers that were started again, since the start
    @ivar polling: what asks all workers
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        settings: Mapping[str, Any],
        listeners: Sequence[tuple[str, ListeningService]],
    ) -> None:
        """
        @param settings: of L{binaryserver.options.GatewayOptions}
        @param listeners: names of box protocols and what binds their sockets
        """
        self._reactor = reactor
        self._settings = dict(settings)
        self._listeners = listeners
        self._isStopping = False
        self._nextQuestion = 0
        self.drainedWhole = True
        self.restarts = 0
        self.polling = Polling(reactor)
        self.workers = [Worker(n, f"{settings['instance']}-{n}") for n in range(settings["workers"])]

    def begin(self) -> Deferred[None]:
        """
        See L{Component.begin}. Fires once every worker listens.
        """
        return Deferred.fromCoroutine(self._begin())

    async def _begin(self) -> None:
        for _, listener in self._listeners:
            # Bound here and read by the workers only: the parent never accepts.
            await listener.bind(Factory())
            listener.port.stopReading()  # type: ignore[union-attr]
        for worker in self.workers:
            if self._isStopping:
                return
            started: Deferred[None] = Deferred()
            worker.started = started
            self._spawn(worker)
            # One after the other: the first one makes what they share.
            await started

    def _spawn(self, worker: Worker) -> None:
        worker.state = WorkerState.starting
        worker.startedAt = self._reactor.seconds()
        worker.incarnation = f"{worker.instance}@{os.urandom(6).hex()}"
        worker.restart = None
        worker.exitStatus = None
        worker.isLeaving = False
        process = _WorkerProcess(self, worker)
        descriptors: dict[int, Any] = {0: os.open(os.devnull, os.O_RDONLY), 1: 1, 2: 2, 3: "w", 4: "r"}
        listening = []
        for number, (name, listener) in enumerate(self._listeners, _FIRST_LISTENER):
            port: Any = listener.port
            descriptors[number] = port.fileno()
            listening.append(
                {
                    "protocol": name,
                    "endpoint": listener.description,
                    "descriptor": number,
                    "family": port.addressFamily,
                }
            )
        try:
            worker.transport = self._reactor.spawnProcess(
                process,
                sys.executable,
                [sys.executable, "-c", _PROGRAM],
                env=None,
                childFDs=descriptors,
            )
        except OSError as error:
            self.workerEnded(worker, Failure(error))
            return
        finally:
            os.close(descriptors[0])
        worker.channel = process.channel
        process.channel.send(
            "start",
            settings={**self._settings, "instance": worker.instance},
            incarnation=worker.incarnation,
            worker=worker.index,
            listening=listening,
        )

    def channels(self) -> dict[str, Channel]:
        """
        Those to the workers that run, by the workers' numbers.
        """
        return {
            str(worker.index): worker.channel
            for worker in self.workers
            if worker.channel is not None and worker.state is WorkerState.running
        }

    def received(self, worker: Worker, message: dict[str, Any]) -> None:
        """
        A worker says something.
        """
        kind = message["kind"]
        if kind == "started":
            if worker.state is WorkerState.starting:
                worker.state = WorkerState.running
            self.log.info("worker {instance} runs", instance=worker.instance)
            if worker.started is not None:
                started, worker.started = worker.started, None
                started.callback(None)
        elif kind == "failed":
            error = ConfigError(message["option"], message["message"])
            if worker.started is not None:
                started, worker.started = worker.started, None
                started.errback(error)
            else:
                self.log.error("worker {instance} cannot start: {error}", instance=worker.instance, error=str(error))
        elif kind == "drained":
            worker.exitStatus = message["status"]
        elif kind == "health":
            worker.health = {name: Check(*check) for name, check in message["checks"].items()}
            worker.heardAt = self._reactor.seconds()
        elif kind in ("handOver", "disconnect"):
            self._ask(message, worker, partial(self._answer, worker, message["id"]))
        elif kind == "wake":
            self._wake(message)
        elif kind == "metrics":
            self.polling.answered(str(worker.index), message)
        elif kind == "answer":
            asked = worker.asked.pop(message["id"], None)
            if asked is not None:
                asked[1](message["answer"])

    def drainWorker(self, instance: str) -> bool:
        """
        See L{binaryserver.ops.control.Workers.drainWorker}.
        """
        for worker in self.workers:
            if worker.instance == instance and worker.state is WorkerState.running:
                self.log.info("worker {instance} is to drain, and is started again then", instance=instance)
                worker.isLeaving = True
                self._tell([worker], "stop")
                return True
        return False

    def setLevels(self, levels: Mapping[str, str]) -> None:
        """
        See L{binaryserver.ops.control.Workers.setLevels}.
        """
        self._settings["log-level"] = levelTexts(levels)
        self._tell(self.workers, "logs", levels=dict(levels))

    def reload(self, live: Mapping[str, Any]) -> None:
        """
        Have every worker take the settings that can change, and those that are started later begin with them.
        """
        # What is logged is told by itself.
        self._settings |= {name: value for name, value in live.items() if name != "log-level"}
        self._tell(self.workers, "reload", settings=dict(live))

    def _tell(self, workers: Sequence[Worker], kind: str, **fields: Any) -> None:
        for worker in workers:
            if worker.channel is not None:
                worker.channel.send(kind, **fields)

    def checks(self) -> dict[str, Check]:
        """
        What the workers say of themselves. They share their ports: while one drains or is started again, the others
        take the boxes.
        """
        now = self._reactor.seconds()
        running = [one for one in self.workers if one.state is WorkerState.running and not one.isLeaving]
        silent = [worker.instance for worker in running if now - worker.heardAt > _SILENT]
        detail = f"{len(running)} of {len(self.workers)} run"
        if silent:
            detail = f"{detail}; nothing is heard of {', '.join(silent)}"
        return {
            **merged({worker.instance: worker.health for worker in running}),
            "workers": Check(bool(running) and not silent, detail),
        }

    def disconnect(self, incarnation: str, box: BoxKey, linkEpoch: int) -> Deferred[bool | None]:
        """
        See L{binaryserver.interfaces.IPeers.disconnect}, of the workers.
        """
        done: Deferred[bool | None] = Deferred(lambda _: None)
        message = {"kind": "disconnect", "incarnation": incarnation, **box._asdict(), "epoch": linkEpoch}

        def answered(answer: Any) -> None:
            # Nobody may wait any more.
            if not done.called:
                done.callback(answer)

        self._ask(message, None, answered)
        return done

    def _ask(self, message: dict[str, Any], asker: Worker | None, answered: Callable[[Any], None]) -> None:
        """
        Pass a question on to the worker that is meant; L{None} is the answer of one that is gone.
        """
        for worker in self.workers:
            if worker.incarnation == message["incarnation"] and worker.state in (
                WorkerState.starting,
                WorkerState.running,
                WorkerState.stopping,
            ):
                self._nextQuestion += 1
                worker.asked[self._nextQuestion] = (asker, answered)
                assert worker.channel is not None
                worker.channel.send(
                    message["kind"],
                    id=self._nextQuestion,
                    account=message["account"],
                    asset=message["asset"],
                    epoch=message["epoch"],
                )
                return
        answered(None)

    def _wake(self, message: dict[str, Any]) -> None:
        for worker in self.workers:
            if worker.incarnation == message["incarnation"] and worker.channel is not None:
                worker.channel.send("wake", boxes=message["boxes"])

    def _answer(self, asker: Worker, id_: int, answer: Any) -> None:
        if asker.channel is not None:
            asker.channel.send("answer", id=id_, answer=answer)

    def workerEnded(self, worker: Worker, reason: Failure) -> None:
        """
        A worker's process is gone.
        """
        worker.channel = None
        asked, worker.asked = worker.asked, {}
        for _, answered in asked.values():
            answered(None)
        for other in self.workers:
            # Its successor numbers its questions from 1 again: what this one asked is not to answer them.
            other.asked = {number: by for number, by in other.asked.items() if by[0] is not worker}
        if worker.started is not None:
            started, worker.started = worker.started, None
            started.errback(ConfigError("--workers", f"{worker.instance} ended: {reason.getErrorMessage()}"))
        if self._isStopping or worker.state is WorkerState.stopping:
            worker.state = WorkerState.ended
            if worker.exitStatus != 0:
                self.drainedWhole = False
            if worker.ended is not None:
                ended, worker.ended = worker.ended, None
                ended.callback(None)
            return
        if worker.isLeaving and worker.exitStatus == 0:
            self._spawn(worker)
            return
        if self._reactor.seconds() - worker.startedAt > _HEALTHY:
            worker.failures = 0
        delay = _RESTART_DELAYS[min(worker.failures, len(_RESTART_DELAYS) - 1)]
        worker.failures += 1
        self.restarts += 1
        worker.state = WorkerState.waiting
        self.log.error(
            "worker {instance} ended ({reason}); it is started again in {delay} s",
            instance=worker.instance,
            reason=reason.getErrorMessage(),
            delay=delay,
        )
        worker.restart = self._reactor.callLater(delay, self._spawn, worker)

    def end(self) -> Deferred[None]:
        """
        See L{Component.end}. Workers that take longer than the drain may are killed.
        """
        self._isStopping = True
        ends = [self._stop(worker) for worker in self.workers]
        return DeferredList(ends).addCallback(self._unbind)

    def _stop(self, worker: Worker) -> Deferred[None]:
        if worker.restart is not None:
            worker.restart.cancel()
        if worker.state not in (WorkerState.starting, WorkerState.running):
            worker.state = WorkerState.ended
            return succeed(None)
        worker.state = WorkerState.stopping
        ended: Deferred[None] = Deferred()
        worker.ended = ended
        assert worker.channel is not None
        worker.channel.send("stop")
        kill = self._reactor.callLater(
            self._settings["drain-delay"] + self._settings["drain-timeout"] + _STOP_MARGIN,
            worker.transport.signalProcess,
            "KILL",
        )

        def done(_: None) -> None:
            if kill.active():
                kill.cancel()

        return ended.addCallback(done)

    def _unbind(self, _: object) -> Deferred[Any]:
        return DeferredList([listener.end() for _, listener in self._listeners])
