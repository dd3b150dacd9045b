"""
Generates C{binaryserver/proto/} from C{proto/}.

    python -m tests.protos
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "binaryserver" / "proto"


def generate(folder: Path) -> None:
    """
    Generate the modules and their stubs into a folder.

    @raise RuntimeError: protoc does not like a C{.proto}
    """
    from grpc_tools import protoc

    sources = sorted((ROOT / "proto").glob("*.proto"))
    arguments = ["protoc", f"-I{ROOT / 'proto'}", f"--python_out={folder}", f"--pyi_out={folder}", *map(str, sources)]
    if protoc.main(arguments):
        raise RuntimeError("protoc failed")
    for path in folder.glob("*_pb2.py*"):
        # protoc knows no packages: it imports its own modules as if they were on the top level.
        names = "|".join(source.stem for source in sources)
        text = re.sub(
            rf"^import ({names})_pb2 as", r"from binaryserver.proto import \1_pb2 as", path.read_text(), flags=re.M
        )
        path.write_text(text)


if __name__ == "__main__":
    generate(TARGET)
    sys.exit(0)
