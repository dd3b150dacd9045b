"""
What an idle link costs in process memory, plain and with TLS.

C{python -m benchmarks.tls_memory [--links N] [--burst BYTES] [--proxied] [--tls12] [--certified]}: a server process
with nothing but the endpoints, and a client in this one. Every link is opened, sends C{burst} bytes (300, the size of a
CONNECT), gets 4 back, and idles; then the server's resident memory is read; what it grew by is divided by the links.
"""

from __future__ import annotations

import argparse
import gc
import resource
import socket
import ssl
import subprocess
import sys
import tempfile
from typing import Any

from twisted.internet.protocol import Factory, Protocol
from twisted.internet.stdio import StandardIO
from twisted.protocols.basic import LineOnlyReceiver

from binaryserver.endpoints.listening import serverFromString
from tests.certificates import Authority, replaceFile

WARM_UP = 50
"""Links opened before the first measurement, for what is loaded and allocated once."""
PROXY_HEADER = b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 2000\r\n"
ANSWER = b"\x20\x02\x00\x00"


class Answering(Protocol):
    """
    The server's side of a link.
    """

    __slots__ = ("factory", "missing", "transport")

    def __init__(self, burst: int) -> None:
        self.missing = burst

    def dataReceived(self, data: bytes) -> None:
        """
        Answer once the burst is complete.
        """
        self.missing -= len(data)
        transport: Any = self.transport
        if self.missing <= 0:
            transport.write(ANSWER)


class MemoryTeller(LineOnlyReceiver):
    """
    Answers each line on standard input with the process's resident bytes; ends the process with it.
    """

    delimiter = b"\n"

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor

    def lineReceived(self, line: bytes) -> None:
        """
        Tell.
        """
        gc.collect()
        with open("/proc/self/statm") as statm:
            self.sendLine(b"%d" % (int(statm.read().split()[1]) * resource.getpagesize()))

    def connectionLost(self, reason: object = None) -> None:
        """
        The client is done.
        """
        self.reactor.stop()


def serve(description: str, burst: int) -> None:
    """
    The server process: prints its port, then its memory whenever it is asked.
    """
    from twisted.internet import reactor

    factory: Any = Factory()
    factory.noisy = False
    factory.buildProtocol = lambda address: Answering(burst)
    listening: Any = serverFromString(reactor, description).listen(factory)
    listening.addCallback(lambda port: print(port.getHost().port, flush=True))
    StandardIO(MemoryTeller(reactor))
    run: Any = reactor
    run.run()


def connect(port: int, header: bytes, context: ssl.SSLContext | None, burst: int) -> socket.socket:
    """
    Open one link, until the server has answered.
    """
    link = socket.create_connection(("127.0.0.1", port), 10)
    link.sendall(header)
    if context is not None:
        link = context.wrap_socket(link, server_hostname="localhost")
    link.sendall(b"x" * burst)
    assert link.recv(len(ANSWER)) == ANSWER
    return link


def measure(description: str, arguments: argparse.Namespace, context: ssl.SSLContext | None) -> float:
    """
    Bytes that a link costs a new server process.
    """
    command = [sys.executable, "-m", "benchmarks.tls_memory", "--serve", description, "--burst", str(arguments.burst)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    asking, answers = server.stdin, server.stdout
    assert asking is not None and answers is not None

    def memory() -> int:
        asking.write(b"?\n")
        asking.flush()
        return int(answers.readline())

    links: list[socket.socket] = []
    count: int = arguments.links
    header = PROXY_HEADER if arguments.proxied else b""
    try:
        port = int(answers.readline())
        links += [connect(port, header, context, arguments.burst) for _ in range(WARM_UP)]
        before = memory()
        links += [connect(port, header, context, arguments.burst) for _ in range(count)]
        return (memory() - before) / count
    finally:
        for link in links:
            link.close()
        asking.close()
        server.wait(10)


def main() -> None:
    """
    See the module.
    """
    parser = argparse.ArgumentParser(description="memory of an idle link")
    parser.add_argument("--links", type=int, default=2000)
    parser.add_argument("--burst", type=int, default=300, help="bytes that each link sends before it idles")
    parser.add_argument("--proxied", action="store_true", help="with a PROXY protocol header")
    parser.add_argument("--tls12", action="store_true", help="TLS 1.2 instead of 1.3")
    parser.add_argument("--certified", action="store_true", help="with client certificates")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.burst)
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with tempfile.TemporaryDirectory() as directory:
        authority = Authority()
        certificate, key = authority.issueServer().write(directory, "server")
        replaceFile(f"{directory}/ca.pem", authority.certificatePem())
        context = ssl.create_default_context(cafile=f"{directory}/ca.pem")
        if arguments.tls12:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        plain = "tcp:0:interface=127.0.0.1"
        tls = f"tls:0:interface=127.0.0.1:cert={certificate}:key={key}"
        if arguments.certified:
            context.load_cert_chain(*authority.issueClient("862123", "fleet").write(directory, "client"))
            tls += f":clientca={directory}/ca.pem"
        if arguments.proxied:
            plain, tls = f"haproxy:{plain}", f"{tls}:proxy=yes"
        for name, description, client in (("plain", plain, None), ("TLS", tls, context)):
            cost = measure(description, arguments, client)
            print(f"{name:5} {cost / 1024:6.1f} KiB a link ({arguments.links} links, burst of {arguments.burst} bytes)")


if __name__ == "__main__":
    main()
