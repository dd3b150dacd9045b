"""
Memory of idle links: boxes that are connected, have sent a track, and say nothing.

    python -m benchmarks.idle_links [--links 10000] [--tls-links 2000]

Printed is what the gateway's resident memory grew by, over the number of links: plain, and TLS 1.3 with Python's ssl.
"""

from __future__ import annotations

import argparse
import resource
import socket
import ssl
import tempfile
import time

from benchmarks.mqttload import makeTrack
from benchmarks.pipeline import freePort, rssBytes, startGateway
from binaryserver.mqtt.packets import encodeConnect, encodePublish
from binaryserver.proto.md30_pb2 import TrackBatch
from tests.certificates import Authority


def connect(port: int, number: int, context: ssl.SSLContext | None) -> socket.socket:
    """
    One box, with its first track acked.
    """
    sock = socket.create_connection(("127.0.0.1", port), timeout=60)
    if context is not None:
        sock = context.wrap_socket(sock, server_hostname="localhost")
    track = makeTrack(time.time_ns() // 1_000_000, number)
    batch = TrackBatch(stream=7, first_index=1, tracks=[track]).SerializeToString()
    sock.sendall(encodeConnect(f"idle-{number:06}", keepAlive=0) + encodePublish("t", batch, 1, 1))
    answer = b""
    while len(answer) < 8:
        more = sock.recv(64)
        if not more:
            raise SystemExit("a link was closed")
        answer += more
    return sock


def measure(links: int, tls: bool) -> float:
    """
    KiB a link.
    """
    with tempfile.TemporaryDirectory() as folder:
        port = freePort()
        options = [f"--bus=sqlite:{folder}/bus.sqlite", "--flush-interval=0.001"]
        context = None
        if tls:
            authority = Authority()
            certificate, key = authority.issueServer().write(folder, "server")
            tlsPort = freePort()
            options.append(f"--md30=tls:{tlsPort}:interface=127.0.0.1:cert={certificate}:key={key}")
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        process = startGateway(port, folder, *options)
        try:
            wanted = tlsPort if tls else port
            socks = [connect(wanted, number, context) for number in range(50)]
            before = rssBytes(process.pid)
            socks += [connect(wanted, number, context) for number in range(50, 50 + links)]
            time.sleep(3)
            return (rssBytes(process.pid) - before) / links / 1024
        finally:
            process.terminate()
            process.wait()


def main() -> None:
    """
    Print one line a kind.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--links", type=int, default=10_000)
    parser.add_argument("--tls-links", type=int, default=2_000)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for kind, links in (("plain", options.links), ("TLS", options.tls_links)):
        print(f"{kind:6} {links:6} links: {measure(links, kind == 'TLS'):6.1f} KiB a link", flush=True)


if __name__ == "__main__":
    main()
