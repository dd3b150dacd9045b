"""
Tests for C{docs/api.yaml}: it is an OpenAPI document, it names what is there and nothing else, and a real gateway
answers as it says: asked by schemathesis, which nobody here wrote.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from twisted.internet.defer import succeed
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SkipTest, SynchronousTestCase
from twisted.web.resource import Resource

from binaryserver.bus.memorybus import MemoryBus
from binaryserver.bus.topics import Topics
from binaryserver.mqtt.packets import encodeConnect
from binaryserver.ops.access import Access
from binaryserver.ops.control import Control
from binaryserver.ops.http import makeSite
from binaryserver.plugins import BackEndContext
from binaryserver.session.memorystore import MemorySessionStore
from tests.gatewayprocess import ROOT, GatewayProcess, boxesEnd, connect, startBoxes
from tests.ops.test_http import Client

DOCUMENT: Any = yaml.safe_load((ROOT / "docs" / "api.yaml").read_text("utf-8"))
METHODS = ("get", "post", "put", "delete", "patch")
TOKEN = "x" * 40
VERSION = "4.32.5"
ENVIRONMENT = ROOT / "var" / "schemathesis"
"""Of its own: it wants other versions of what the tests use."""


def resources(resource: Resource, path: str = "") -> Iterator[str]:
    """
    The paths of all that there is.
    """
    yield path
    for name, child in resource.children.items():
        yield from resources(child, f"{path}/{name.decode()}")


class DocumentTests(SynchronousTestCase):
    """
    The document itself, and the site.
    """

    def setUp(self) -> None:
        self.clock: Any = MemoryReactorClock()
        topics = Topics.named()
        bus = MemoryBus("memory:", BackEndContext(self.clock, "--bus", topics=topics.all))
        store = MemorySessionStore("memory:", BackEndContext(self.clock, "--sessions"))
        self.site: Any = makeSite(
            bus,
            store,
            topics,
            self.clock,
            access=Access(self.clock),
            control=Control("test", None, lambda: None),
            gather=lambda: succeed([]),
        )

    def test_valid(self) -> None:
        """
        It is OpenAPI 3.1; its examples are what its schemas say.
        """
        validate(DOCUMENT)
        for path in DOCUMENT["paths"].values():
            for method in METHODS:
                content = path.get(method, {}).get("requestBody", {}).get("content", {}).get("application/json", {})
                if "example" in content:
                    schema = {**content["schema"], "components": DOCUMENT["components"]}
                    self.assertEqual(list(Draft202012Validator(schema).iter_errors(content["example"])), [])

    def answer(self, path: str, method: str) -> Client:
        """
        What the site says to a method that it may not know.
        """
        target = path.replace("{asset}", "box-1")
        return Client(self.site).send(target, method, "Content-Length: 0")

    def test_pathsAreThere(self) -> None:
        """
        Of each path, exactly the document's methods are answered, and the others are refused in its words.
        """
        for path, operations in DOCUMENT["paths"].items():
            documented = {method.upper() for method in METHODS if method in operations}
            refused = self.answer(path, "PATCH")
            self.assertEqual(refused.status, 405, path)
            self.assertEqual(set(refused.headers["allow"].split(", ")) - {"HEAD"}, documented, path)

    def test_resourcesAreNamed(self) -> None:
        """
        Whatever answers is in the document.
        """
        found = set()
        root = self.site.resource
        for path in resources(root):
            if self.answer(path, "PATCH").status == 405:
                found.add(path)
        boxes = root.children[b"api"].children[b"boxes"]
        for path in resources(boxes.getChild(b"box-1", None)):
            found.add(f"/api/boxes/{{asset}}{path}")
        self.assertEqual(found, set(DOCUMENT["paths"]))


class SchemathesisTests(SynchronousTestCase):
    """
    A real gateway, asked at random for what the document allows and for what it does not.
    """

    def setUp(self) -> None:
        """
        The program; a gateway that knows some boxes, and wants a token.
        """
        self.program = ENVIRONMENT / "bin" / "schemathesis"
        if not self.installed():
            if os.environ.get("BINARYSERVER_REQUIRE_SERVICES"):
                raise AssertionError(f"schemathesis {VERSION} cannot be installed")
            raise SkipTest(f"schemathesis {VERSION} cannot be installed")
        tokens = Path(self.mktemp()).absolute()
        tokens.write_text(f"{TOKEN}\n")
        self.gateway = GatewayProcess(f"--http-token-file={tokens}")
        self.addCleanup(self.gateway.close)
        self.gateway.start()
        boxesEnd(startBoxes(self.gateway.port, "--boxes=5", "--tracks=3", "--first-asset=350000000000001"))
        link = connect(self.gateway.port)
        self.addCleanup(link.close)
        link.sendall(encodeConnect("350000000000002", True, 0))
        self.assertEqual(link.recv(4), b"\x20\x02\x00\x00")

    def installed(self) -> bool:
        """
        Make its environment, unless it is there.
        """
        mark = ENVIRONMENT / VERSION
        if mark.exists():
            return True
        pip = ENVIRONMENT / "bin" / "pip"
        commands = (
            [sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)],
            [str(pip), "install", "--quiet", "--disable-pip-version-check", f"schemathesis=={VERSION}"],
        )
        for command in commands:
            if subprocess.run(command, check=False, timeout=240, capture_output=True).returncode:
                return False
        mark.touch()
        return True

    def bounded(self) -> Path:
        """
        The document without what a schema cannot say, or would not end.
        """
        document = copy.deepcopy(DOCUMENT)
        for parameter in document["paths"]["/api/tail"]["get"]["parameters"]:
            if parameter["name"] == "follow":
                parameter.update(required=True, schema={"const": "0"})
        message = document["components"]["schemas"]["Message"]["properties"]
        # Bytes are not characters, and a time is not always within the next year.
        message["id"]["pattern"] = message["correlation_id"]["pattern"] = "^[ -~]*$"
        message["expires_at"].update(maximum=int(time.time() * 1000), pattern="^1[0-9]{12}$")
        path = Path(self.mktemp()).absolute().with_suffix(".yaml")
        path.write_text(yaml.safe_dump(document))
        return path

    def test_asItSays(self) -> None:
        """
        No answer is one that the document does not have, and nothing that it forbids is taken. A tail without its
        arguments would not end: it is only asked as it should be.
        """
        document = str(self.bounded())
        # Nor is it asked to end, or to log otherwise, as it would for all that comes behind.
        self.asked(document, "--exclude-path-regex=^/api/(tail|drain|logs)$")
        self.asked(document, "--include-path=/api/tail", "--mode=positive")
        self.assertNotIn("unforeseen", self.gateway.log())

    def asked(self, document: str, *options: str) -> None:
        """
        Have it ask.
        """
        command = [
            str(self.program),
            "run",
            document,
            *options,
            f"--url=http://127.0.0.1:{self.gateway.httpPort}",
            f"--header=Authorization:Bearer {TOKEN}",
            "--checks=all",
            "--phases=examples,coverage,fuzzing",
            "--max-examples=25",
            "--seed=8",
            "--generation-database=none",
            "--request-timeout=20",
            "--continue-on-failure",
            "--no-color",
        ]
        folder = Path(self.mktemp())
        folder.mkdir()
        done = subprocess.run(command, capture_output=True, timeout=240, check=False, cwd=folder)
        self.assertEqual(done.returncode, 0, (done.stdout + done.stderr).decode()[-12_000:])
