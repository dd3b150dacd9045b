"""
Real services for the tests: Apache Kafka 4.4 and 3.9 (KRaft, one process each) and Redis, on loopback.

    python3 tests/services/services.py start|stop|status [kafka44|kafka39|redis ...]

Needs only Python's standard library, since it runs before there is a virtual environment. Jars, data, logs and pid files
are kept under C{var/services/}; starting what runs is a no-op, and C{stop} ends exactly the processes that C{start} began.
A fixed port that something else holds can be moved: C{BINARYSERVER_KAFKA44_PORT=19292 … start}. Tests find the port
where C{start} wrote it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent / "var" / "services"
READY_TIMEOUT = 90.0
STOP_TIMEOUT = 20.0
HOST = "127.0.0.1"


class ServiceError(Exception):
    """
    A service cannot be had; C{str()} is one line that says what to do.
    """


# --- processes and their pid files -----------------------------------------------------------------------------------


def processStart(pid: int) -> str | None:
    """
    When a process started, as an opaque text that tells it from a later process of the same number.

    @return: L{None} if there is no such process, or only its zombie
    """
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] == "Z" else fields[19]
    shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.strip() or None


@dataclass(frozen=True)
class Running:
    """
    What a pid file says of a process that runs.
    """

    pid: int
    port: int


def readPidFile(path: Path) -> Running | None:
    """
    The process that a pid file names, if it still runs; a stale file is removed.
    """
    try:
        pid, port, started = path.read_text().split(maxsplit=2)
    except (FileNotFoundError, ValueError):
        return None
    if processStart(int(pid)) == started.strip():
        return Running(int(pid), int(port))
    path.unlink(missing_ok=True)
    return None


def spawn(command: Sequence[str], folder: Path, port: int, pidFile: Path) -> subprocess.Popen[bytes]:
    """
    Start a process detached from this one, its output in C{folder/log}, its pid in C{pidFile}.
    """
    with open(folder / "log", "ab") as log:
        child = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    pidFile.write_text(f"{child.pid} {port} {processStart(child.pid)}\n")
    return child


def endProcess(running: Running, pidFile: Path) -> None:
    """
    SIGTERM, after L{STOP_TIMEOUT} SIGKILL, and wait for the end.
    """
    started = processStart(running.pid)
    for number, patience in ((signal.SIGTERM, STOP_TIMEOUT), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.pid, number)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):  # ours to reap only if this very process started it
                os.waitpid(running.pid, os.WNOHANG)
            if processStart(running.pid) != started:
                pidFile.unlink(missing_ok=True)
                return
            time.sleep(0.05)
    raise ServiceError(f"process {running.pid} does not end")


def portHeld(port: int) -> bool:
    """
    Whether somebody listens on a loopback port.
    """
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0


def awaitReady(name: str, ready: Callable[[int], bool], pidFile: Path) -> None:
    """
    Wait until a process that was spawned answers.

    @raise ServiceError: it ended, or does not answer within L{READY_TIMEOUT}
    """
    deadline = time.monotonic() + READY_TIMEOUT
    while time.monotonic() < deadline:
        running = readPidFile(pidFile)
        if running is None:
            raise ServiceError(f"{name} ended while starting; see {pidFile.parent / 'log'}")
        try:
            if ready(running.port):
                return
        except OSError:
            pass  # refused, reset or too slow: not yet
        time.sleep(0.1)
    raise ServiceError(f"{name} is not ready after {READY_TIMEOUT:.0f} s; see {pidFile.parent / 'log'}")


@contextlib.contextmanager
def lockedServices() -> Iterator[None]:
    """
    One start or stop at a time on this working copy.
    """
    ROOT.mkdir(parents=True, exist_ok=True)
    with open(ROOT / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def needProgram(name: str, package: str) -> str:
    """
    @return: the program's path
    @raise ServiceError: it is not installed
    """
    found = shutil.which(name)
    if found is None:
        raise ServiceError(f"{name} is missing: install it (Debian: apt-get install {package})")
    return found


# --- Kafka -----------------------------------------------------------------------------------------------------------


def jarFolder(version: str) -> Path:
    """
    Where the jars of a Kafka version are kept.
    """
    return ROOT / "jars" / f"kafka-{version}"


def haveJars(version: str) -> bool:
    """
    Whether they were fetched whole.
    """
    return (jarFolder(version) / "complete").exists()


def fetchJars(version: str) -> None:
    """
    Fetch the jars of a Kafka version with Maven, unless they are there.
    """
    if haveJars(version):
        return
    needProgram("java", "default-jre-headless")
    maven = needProgram("mvn", "maven")
    folder = jarFolder(version)
    print(f"fetching Apache Kafka {version} from Maven Central", flush=True)
    done = subprocess.run(
        [maven, "-q", "-B", "-f", str(HERE / f"kafka-{version}" / "pom.xml"), "dependency:copy-dependencies",
         f"-DoutputDirectory={folder}", "-DincludeScope=runtime"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines()
        raise ServiceError(f"Maven could not fetch Kafka {version}: {lines[0] if lines else done.returncode}")
    (folder / "complete").touch()


@dataclass(frozen=True)
class KafkaNode:
    """
    One broker that is its own controller.

    @ivar folder: its data, configuration and log
    @ivar port: of the broker; the controller has C{controllerPort}
    @ivar jvm: options for Java beside the heap's
    """

    version: str
    folder: Path
    port: int
    controllerPort: int
    jvm: tuple[str, ...] = ()

    @property
    def pidFile(self) -> Path:
        """
        Where its pid is kept.
        """
        return self.folder / "pid"

    def configuration(self) -> str:
        """
        The text of its C{server.properties}.
        """
        return "\n".join(
            [
                "process.roles=broker,controller",
                "node.id=1",
                f"controller.quorum.voters=1@{HOST}:{self.controllerPort}",
                f"listeners=PLAINTEXT://{HOST}:{self.port},CONTROLLER://{HOST}:{self.controllerPort}",
                f"advertised.listeners=PLAINTEXT://{HOST}:{self.port}",
                "controller.listener.names=CONTROLLER",
                "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
                f"log.dirs={self.folder / 'data'}",
                "auto.create.topics.enable=false",
                "offsets.topic.replication.factor=1",
                "offsets.topic.num.partitions=1",
                "transaction.state.log.replication.factor=1",
                "transaction.state.log.min.isr=1",
                "transaction.state.log.num.partitions=1",
                "group.initial.rebalance.delay.ms=0",
                # Tests make many small topics: no 10 MB index files for each, and nothing kept for longer than a day.
                "log.index.size.max.bytes=1048576",
                "log.retention.hours=24",
                "",
            ]
        )

    def _java(self, mainClass: str, *arguments: str) -> list[str]:
        return [
            needProgram("java", "default-jre-headless"), "-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            *self.jvm, "-cp", f"{jarFolder(self.version)}/*", mainClass, *arguments,
        ]  # fmt: skip

    def format(self) -> None:
        """
        Write its configuration, and format its storage unless that was done before.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        properties = self.folder / "server.properties"
        properties.write_text(self.configuration())
        if (self.folder / "data" / "meta.properties").exists():
            return
        done = subprocess.run(
            self._java("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(properties)),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise ServiceError(f"Kafka {self.version}'s storage cannot be formatted: {done.stderr.strip()[-300:]}")

    def launch(self) -> subprocess.Popen[bytes]:
        """
        Start the process; C{awaitReady} with L{kafkaReady} tells when it serves.
        """
        return spawn(self._java("kafka.Kafka", "server.properties"), self.folder, self.port, self.pidFile)


CLUSTER_ID = "YmluYXJ5c2VydmVyLXRlcw"
"""A base64 UUID; every test broker is its own cluster, so one does for all."""


def kafkaReady(port: int) -> bool:
    """
    Whether a broker serves: it answers Metadata (version 1, no topics) and names itself among the live brokers.
    """
    request = struct.pack(">hhihi", 3, 1, 1, -1, 0)
    with socket.create_connection((HOST, port), timeout=2.0) as link:
        link.sendall(struct.pack(">i", len(request)) + request)
        answer = link.recv(12, socket.MSG_WAITALL)
    return len(answer) == 12 and bool(struct.unpack(">iii", answer)[2] > 0)


# --- the services by name --------------------------------------------------------------------------------------------


class Service:
    """
    One service with a fixed loopback port and a folder.
    """

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.port = int(os.environ.get(f"BINARYSERVER_{name.upper()}_PORT", port))
        self.folder = ROOT / name

    @property
    def pidFile(self) -> Path:
        """
        Where its pid and port are kept while it runs.
        """
        return self.folder / "pid"

    def running(self) -> Running | None:
        """
        Its process, if C{start} began one that still runs.
        """
        return readPidFile(self.pidFile)

    def prepared(self) -> bool:
        """
        Whether it can be started at once, with nothing to fetch.
        """
        raise NotImplementedError

    def launch(self) -> None:
        """
        Start its process.
        """
        raise NotImplementedError

    def ready(self, port: int) -> bool:
        """
        Whether it answers.
        """
        raise NotImplementedError

    def begin(self) -> bool:
        """
        Start it unless it runs.

        @return: whether there was something to start
        """
        if self.running() is not None:
            return False
        if portHeld(self.port):
            raise ServiceError(
                f"{self.name}: something else listens on {HOST}:{self.port}; "
                f"end it or set BINARYSERVER_{self.name.upper()}_PORT"
            )
        self.launch()
        return True


class KafkaService(Service):
    """
    One Kafka version.
    """

    def __init__(self, name: str, version: str, port: int) -> None:
        super().__init__(name, port)
        self.version = version

    def prepared(self) -> bool:
        """
        See L{Service.prepared}.
        """
        return haveJars(self.version) and shutil.which("java") is not None

    def launch(self) -> None:
        """
        See L{Service.launch}.
        """
        fetchJars(self.version)
        node = KafkaNode(self.version, self.folder, self.port, self.port + 1)
        node.format()
        node.launch()

    def ready(self, port: int) -> bool:
        """
        See L{Service.ready}.
        """
        return kafkaReady(port)


class RedisService(Service):
    """
    Redis that syncs every write, as the gateway asks for.
    """

    def prepared(self) -> bool:
        """
        See L{Service.prepared}.
        """
        return shutil.which("redis-server") is not None

    def launch(self) -> None:
        """
        See L{Service.launch}.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        program = needProgram("redis-server", "redis-server")
        options = {"bind": HOST, "port": str(self.port), "appendonly": "yes", "appendfsync": "always", "save": ""}
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        spawn([program, *arguments], self.folder, self.port, self.pidFile)

    def ready(self, port: int) -> bool:
        """
        See L{Service.ready}.
        """
        with socket.create_connection((HOST, port), timeout=2.0) as link:
            link.sendall(b"PING\r\n")
            return link.recv(7, socket.MSG_WAITALL) == b"+PONG\r\n"


def services() -> dict[str, Service]:
    """
    All of them, by name.
    """
    everyone: list[Service] = [
        KafkaService("kafka44", "4.4.0", 19092),
        KafkaService("kafka39", "3.9.2", 19192),
        RedisService("redis", 16379),
    ]
    return {service.name: service for service in everyone}


def start(chosen: Sequence[Service]) -> None:
    """
    Start services and wait until each answers.
    """
    with lockedServices():
        begun = {service.name for service in chosen if service.begin()}
        for service in chosen:
            awaitReady(service.name, service.ready, service.pidFile)
            running = service.running()
            assert running is not None
            word = "started" if service.name in begun else "runs already"
            print(f"{service.name} {word}: {HOST}:{running.port}, pid {running.pid}", flush=True)


def stop(chosen: Sequence[Service]) -> None:
    """
    End the services that L{start} began.
    """
    with lockedServices():
        for service in chosen:
            running = service.running()
            if running is not None:
                endProcess(running, service.pidFile)
            print(f"{service.name} {'stopped' if running else 'does not run'}", flush=True)


def status(chosen: Sequence[Service]) -> None:
    """
    Say which services run.
    """
    for service in chosen:
        running = service.running()
        print(f"{service.name} " + (f"runs: {HOST}:{running.port}, pid {running.pid}" if running else "does not run"))


def main(arguments: Sequence[str]) -> int:
    """
    The command line.

    @return: the exit status
    """
    known = services()
    verbs = {"start": start, "stop": stop, "status": status}
    unknown = [name for name in arguments[1:] if name not in known]
    if not arguments or arguments[0] not in verbs or unknown:
        print(f"usage: services.py {'|'.join(verbs)} [{'|'.join(known)} ...]", file=sys.stderr)
        return 2
    try:
        verbs[arguments[0]]([known[name] for name in arguments[1:] or known])
    except ServiceError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
