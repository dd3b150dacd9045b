"""
sslyze, a scanner of TLS servers that nobody here wrote, in a virtual environment of its own under C{var/}, as its
dependencies are not those of the gateway.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest

from tests.services import REQUIRE

PINNED = ("sslyze==6.3.1", "nassl==5.4.0")
_VAR = Path(__file__).resolve().parent.parent / "var"
_INSTALL, _SCAN = 180.0, 55.0

SCANS = (
    *("sslv2", "sslv3", "tlsv1", "tlsv1_1", "tlsv1_2", "tlsv1_3"),
    *("compression", "reneg", "heartbleed", "robot", "openssl_ccs", "resum", "fallback", "early_data", "ems"),
    "elliptic_curves",
)
"""All that sslyze can look for, but for what is HTTP's and who signed the certificate."""


def _run(command: list[str], timeout: float) -> None:
    """
    @raise OSError: it cannot be run, fails, or takes too long
    """
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{command[0]} takes longer than {timeout:g} s") from error
    if done.returncode:
        lines = done.stdout.decode(errors="replace").strip().splitlines()
        raise OSError(lines[-1] if lines else f"{command[0]} ended with status {done.returncode}")


def requireScanner() -> str:
    """
    The Python that has it; it is installed if it was not yet. Blocks.

    @raise SkipTest: it cannot be installed; where services are required that is a failure
    """
    folder = _VAR / "-".join(PINNED).replace("==", "-")
    python = str(folder / "bin" / "python")
    _VAR.mkdir(exist_ok=True)
    with open(_VAR / "scanner.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            try:
                _run([sys.executable, "-m", "venv", "--clear", str(folder)], _INSTALL)
                _run([python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *PINNED], _INSTALL)
            except OSError as error:
                sentence = f"{PINNED[0]} cannot be installed: {error}"
                raise AssertionError(sentence) if os.environ.get(REQUIRE) == "1" else SkipTest(sentence) from error
            (folder / "complete").touch()
    return python


def scan(python: str, port: int) -> dict[str, Any]:
    """
    What it finds on a loopback port: by scan, its result. Blocks for some 10 s.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = f"{folder}/scan.json"
        command = [python, "-W", "ignore", "-m", "sslyze", *(f"--{one}" for one in SCANS)]
        _run([*command, "--mozilla_config=disable", "--quiet", f"--json_out={output}", f"127.0.0.1:{port}"], _SCAN)
        with open(output, "rb") as file:
            found = json.load(file)["server_scan_results"][0]
    assert found["scan_status"] == "COMPLETED", found["connectivity_error_trace"]
    done = {name: one for name, one in found["scan_result"].items() if one["status"] != "NOT_SCHEDULED"}
    failed = {name: one["error_trace"] for name, one in done.items() if one["status"] != "COMPLETED"}
    assert not failed, failed
    return {name: one["result"] for name, one in done.items()}
