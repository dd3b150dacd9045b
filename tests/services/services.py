#!/usr/bin/env python3
"""
The real servers that the tests use: Apache Kafka (two versions) and Redis, on loopback.

    python3 tests/services/services.py start|stop|status [kafka44] [kafka39] [redis]

Standard library only: it runs before there is a virtual environment. Everything it makes is under C{var/services/}.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent / "var" / "services"
_READY = 60.0
_STOP = 20.0


class KafkaVersion(NamedTuple):
    """
    One version of Kafka and its ports; below 32768, where no outgoing connection can have taken them.
    """

    version: str
    port: int
    controllerPort: int


KAFKA = {
    "kafka44": KafkaVersion("4.4.0", 19092, 19093),
    "kafka39": KafkaVersion("3.9.2", 19192, 19193),
}
REDIS_PORT = 16379
NAMES = (*KAFKA, "redis")


class ServiceError(Exception):
    """
    A service cannot be had; the text is one line and says what to do.
    """


def isListening(port: int) -> bool:
    """
    Whether somebody listens on a loopback port.
    """
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex(("127.0.0.1", port)) == 0


def _need(program: str, package: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise ServiceError(f"{program} is missing: install it (Debian: apt-get install {package})")
    return path


def kafkaJars(name: str) -> Path:
    """
    The folder with the jars of a version of Kafka; fetched from Maven Central if it is not there.
    """
    version = KAFKA[name].version
    folder = ROOT / "jars" / version
    if (folder / "complete").exists():
        return folder
    _need("java", "default-jre-headless")
    maven = _need("mvn", "maven")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [maven, "-q", "-B", "-f", str(HERE / "pom.xml"), f"-Dkafka.version={version}"]
    command += ["dependency:copy-dependencies", f"-DoutputDirectory={folder}"]
    for attempt in (1, 2, 3):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode == 0:
            break
        if attempt == 3:
            raise ServiceError(f"mvn could not fetch Kafka {version}: {done.stdout.decode()[-300:]!r}")
        time.sleep(3 * attempt)
    (folder / "complete").touch()
    return folder


def kafkaProperties(folder: Path, port: int, controllerPort: int) -> Path:
    """
    Write the settings of a broker that is alone.
    """
    settings = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controllerPort}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controllerPort}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "log.dirs": str(folder / "data"),
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "group.initial.rebalance.delay.ms": "0",
        "log.segment.bytes": "67108864",
    }
    path = folder / "server.properties"
    path.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    return path


def kafkaCommand(jars: Path, *arguments: str, heap: str = "512m") -> list[str]:
    """
    A Java command with Kafka's classes.
    """
    java = _need("java", "default-jre-headless")
    logging = ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
    return [
        java,
        f"-Xmx{heap}",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        *logging,
        "-cp",
        f"{jars}/*",
        *arguments,
    ]


def formatKafka(jars: Path, folder: Path, properties: Path) -> None:
    """
    Format a broker's storage, if it is not.
    """
    if (folder / "data" / "meta.properties").exists():
        return
    done = subprocess.run(
        kafkaCommand(jars, "kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c", str(properties)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        raise ServiceError(f"Kafka's storage could not be formatted: {done.stdout.decode()[-300:]!r}")


def _pid(name: str) -> int | None:
    """
    The pid of a service that was started here and lives.
    """
    path = ROOT / name / "pid"
    try:
        pid, started = path.read_text().split()
    except (OSError, ValueError):
        return None
    return int(pid) if _startTime(int(pid)) == started else None


def _startTime(pid: int) -> str | None:
    # A pid alone may be another process's by now.
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if stat[0] == "Z" else stat[19]


def spawn(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """
    Start a server that outlives this process.
    """
    with open(log, "ab") as output:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd=log.parent
        )


def _launch(name: str, command: list[str], isReady: Callable[[], bool]) -> None:
    folder = ROOT / name
    process = spawn(command, folder / "log")
    (folder / "pid").write_text(f"{process.pid} {_startTime(process.pid)}")
    deadline = time.monotonic() + _READY
    while not isReady():
        if process.poll() is not None:
            raise ServiceError(f"{name} ended at once; see {folder / 'log'}")
        if time.monotonic() > deadline:
            raise ServiceError(f"{name} is not ready after {_READY:g} s; see {folder / 'log'}")
        time.sleep(0.1)


def start(name: str) -> str:
    """
    Start one service, if it does not run, and wait until it is ready.

    @return: what was done
    """
    port = KAFKA[name].port if name in KAFKA else REDIS_PORT
    if _pid(name) is not None and isListening(port):
        return f"{name} runs already on 127.0.0.1:{port}"
    if isListening(port):
        raise ServiceError(f"{name}: somebody else listens on 127.0.0.1:{port}")
    folder = ROOT / name
    folder.mkdir(parents=True, exist_ok=True)
    if name in KAFKA:
        jars = kafkaJars(name)
        properties = kafkaProperties(folder, port, KAFKA[name].controllerPort)
        formatKafka(jars, folder, properties)
        _launch(name, kafkaCommand(jars, "kafka.Kafka", str(properties)), lambda: isListening(port))
    else:
        program = _need("redis-server", "redis-server")
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
        command += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        _launch(name, command, lambda: isListening(port))
    return f"{name} runs on 127.0.0.1:{port}"


def stop(name: str) -> str:
    """
    Stop one service that was started here.

    @return: what was done
    """
    pid = _pid(name)
    if pid is None:
        return f"{name} does not run"
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP
    while _startTime(pid) is not None:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            break
        time.sleep(0.1)
    (ROOT / name / "pid").unlink(missing_ok=True)
    return f"{name} is stopped"


def status(name: str) -> str:
    """
    Whether one service runs.
    """
    pid = _pid(name)
    return f"{name}: {'does not run' if pid is None else f'runs as {pid}'}"


def main(arguments: list[str]) -> int:
    """
    The command line.
    """
    actions = {"start": start, "stop": stop, "status": status}
    if not arguments or arguments[0] not in actions or not set(arguments[1:]) <= set(NAMES):
        print(f"usage: services.py {'|'.join(actions)} [{'] ['.join(NAMES)}]", file=sys.stderr)
        return 2
    failed = False
    for name in arguments[1:] or NAMES:
        try:
            print(actions[arguments[0]](name), flush=True)
        except ServiceError as error:
            print(f"services: {error}", file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
