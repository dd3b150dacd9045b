"""
The way back: from a record in Kafka to the PUBLISH on a box's socket, over two instances that share one Redis.

    python -m benchmarks.downlink [--boxes 1000] [--rate 2000] [--seconds 10]

Needs the Kafka and the Redis of C{make services}. Latency counts from the producer's call to the last byte of the
PUBLISH at the box, by one clock. CPU is that of the gateways' processes alone (user and system, all threads), per
message. The same messages go through one mosquitto broker, which keeps no mailbox and tells no statuses, in the same
run: the ratio is the figure to compare.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

from benchmarks.pipeline import cpuSeconds, freePort, startGateway, startMosquitto
from binaryserver.mqtt.events import Publish
from binaryserver.mqtt.framing import Framing
from binaryserver.mqtt.packets import Suback, encodeConnect, encodePubacks, encodePublish, encodeSubscribe
from binaryserver.mqtt.parsers import FROM_SERVER
from binaryserver.proto import cloudnext_pb2, md30_pb2

_TICK = 0.005


class Box:
    """
    One box that acks what it is sent.
    """

    def __init__(self, asset: str, port: int, topic: str) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.framing = Framing(FROM_SERVER, 1 << 20)
        self.sock.sendall(encodeConnect(asset, keepAlive=0))
        self._await(1)
        self.sock.sendall(encodeSubscribe(1, [(topic, 1)]))
        self._await(1)
        self.sock.setblocking(False)

    def _await(self, count: int) -> None:
        while count:
            packets = self.framing.feed(self.sock.recv(65_536))
            count -= len(packets)
            if any(isinstance(packet, Suback) and packet.codes != (1,) for packet in packets):
                raise SystemExit("a subscription was refused")

    def read(self) -> list[bytes]:
        """
        Ack what has come; give the payloads.
        """
        publishes = [packet for packet in self.framing.feed(self.sock.recv(262_144)) if isinstance(packet, Publish)]
        if publishes:
            self.sock.send(encodePubacks([publish.packetId for publish in publishes]))
        return [publish.payload for publish in publishes]


def pace(count: int, rate: float, seconds: float, send: Callable[[int], None], flush: Callable[[], object]) -> None:
    """
    Call C{send} with the numbers of boxes, in turn, at a rate.
    """
    started = time.monotonic()
    sent = 0
    while sent < rate * seconds:
        due = int((time.monotonic() - started) * rate)
        while sent < min(due, rate * seconds):
            send(sent % count)
            sent += 1
        flush()
        time.sleep(_TICK)


def produceToKafka(options: argparse.Namespace) -> None:
    """
    The cloud: messages into C{downlink}.
    """
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": options.kafka, "linger.ms": 1, "acks": "all"})

    def send(number: int) -> None:
        asset = f"bench-{number:06d}"
        message = cloudnext_pb2.DownlinkMessage(
            id=uuid4().hex, account="dev", asset=asset, channel="bench", payload=b"%d" % time.time_ns()
        )
        producer.produce(f"{options.prefix}downlink", message.SerializeToString(), f"dev/{asset}")

    pace(options.boxes, options.rate, options.seconds, send, lambda: producer.poll(0))
    producer.flush(10)


def produceToBroker(options: argparse.Namespace) -> None:
    """
    The same to the peer, with QoS 1.
    """
    sock = socket.create_connection(("127.0.0.1", options.port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(encodeConnect("cloud", keepAlive=0))
    sock.recv(4)
    out: list[bytes] = []
    packetId = 0

    def send(number: int) -> None:
        nonlocal packetId
        packetId = packetId % 65_535 + 1
        message = md30_pb2.Message(id=uuid4().hex, channel="bench", payload=b"%d" % time.time_ns())
        out.append(encodePublish(f"bench-{number:06d}", message.SerializeToString(), 1, packetId))

    def flush() -> None:
        sock.sendall(b"".join(out))
        out.clear()
        sock.setblocking(False)
        try:
            while sock.recv(65_536):
                pass
        except BlockingIOError:
            sock.setblocking(True)

    pace(options.boxes, options.rate, options.seconds, send, flush)
    time.sleep(1)


def measure(
    pids: Sequence[int],
    ports: Sequence[int],
    topic: Callable[[str], str],
    options: argparse.Namespace,
    produce: list[str],
) -> tuple[float, dict[str, float]]:
    """
    Connect the boxes, start the producer, and read until all has come.

    @return: CPU µs a message, and what the boxes saw
    """
    boxes = []
    selector = selectors.DefaultSelector()
    for number in range(options.boxes):
        asset = f"bench-{number:06d}"
        box = Box(asset, ports[number % len(ports)], topic(asset))
        selector.register(box.sock, selectors.EVENT_READ, box)
        boxes.append(box)
    time.sleep(2)
    cpu = sum(map(cpuSeconds, pids))
    producer = subprocess.Popen([sys.executable, "-m", "benchmarks.downlink", *produce])
    expected = int(options.rate * options.seconds)
    latencies: list[float] = []
    seen: set[str] = set()
    repeats = 0
    started = time.monotonic()
    while len(seen) < expected and time.monotonic() < started + options.seconds + 30:
        for key, _ in selector.select(0.2):
            now = time.time_ns()
            for payload in key.data.read():
                message = md30_pb2.Message.FromString(payload)
                repeats += message.id in seen
                seen.add(message.id)
                latencies.append((now - int(message.payload)) / 1e6)
    took = time.monotonic() - started
    if producer.wait():
        raise SystemExit("the producer failed")
    # What is told and removed after the last ack belongs to it.
    time.sleep(2)
    cpu = sum(map(cpuSeconds, pids)) - cpu
    for box in boxes:
        box.sock.close()
    # The first second brings the caches up.
    latencies = sorted(latencies[int(options.rate) :])
    if not latencies:
        raise SystemExit(f"only {len(seen)} of {expected} messages came")
    return cpu / len(seen) * 1e6, {
        "messages": len(seen),
        "missing": expected - len(seen),
        "repeats": repeats,
        "rate": len(seen) / took,
        "p50": latencies[len(latencies) // 2],
        "p99": latencies[len(latencies) * 99 // 100],
    }


def prepare(options: argparse.Namespace) -> None:
    """
    The topics of this run.
    """
    from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

    from binaryserver.bus.topics import Topics

    admin = AdminClient({"bootstrap.servers": options.kafka})
    for made in admin.create_topics([NewTopic(name, 4, 1) for name in Topics.named(options.prefix).all]).values():
        made.result()


def main() -> None:
    """
    Print one line a server.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kafka", default="127.0.0.1:19092")
    parser.add_argument("--redis", default="127.0.0.1:16379/9")
    parser.add_argument("--boxes", type=int, default=1000)
    parser.add_argument("--instances", type=int, default=2)
    parser.add_argument("--rate", type=float, default=2000)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--produce", choices=["kafka", "broker"], help=argparse.SUPPRESS)
    parser.add_argument("--prefix", default=f"bench-{uuid4().hex[:8]}.", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.produce:
        {"kafka": produceToKafka, "broker": produceToBroker}[options.produce](options)
        return
    prepare(options)
    common = [f"--boxes={options.boxes}", f"--rate={options.rate}", f"--seconds={options.seconds}"]
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        processes: list[Any] = []
        ports = [freePort() for _ in range(options.instances)]
        try:
            for number, port in enumerate(ports):
                own = f"{folder}/{number}"
                subprocess.check_call(["mkdir", own])
                gateway = [
                    f"--bus=kafka://{options.kafka}",
                    f"--sessions=redis://{options.redis}?prefix={options.prefix}",
                ]
                gateway += [f"--topic-prefix={options.prefix}", f"--instance=bench-{number}"]
                processes.append(startGateway(port, own, *gateway))
            # The consumer group is whole after its first rebalance.
            time.sleep(5)
            produce = ["--produce=kafka", f"--kafka={options.kafka}", f"--prefix={options.prefix}", *common]
            pids = [process.pid for process in processes]
            figures["binaryserver"] = measure(pids, ports, lambda asset: "d", options, produce)
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()
        port = freePort()
        broker = startMosquitto(port, folder)
        try:
            produce = ["--produce=broker", f"--port={port}", *common]
            figures["mosquitto"] = measure([broker.pid], [port], lambda asset: asset, options, produce)
        finally:
            broker.terminate()
            broker.wait()
    for name, (cpu, seen) in figures.items():
        print(
            f"{name:13} {cpu:7.1f} CPU us/message, {seen['rate']:7.0f} messages/s, "
            f"Kafka record to PUBLISH p50 {seen['p50']:.1f} ms, p99 {seen['p99']:.1f} ms; {json.dumps(seen)}"
        )
    print(f"{'ratio':13} {figures['binaryserver'][0] / figures['mosquitto'][0]:7.1f}")


if __name__ == "__main__":
    main()
