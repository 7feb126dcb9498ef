"""A client that may open few files: `python -m tests.faults.limited LIMIT OPERATION OPTIONS`.

LIMIT is that of this process and of all it starts; the options are JSON. The last line on stdout is
`["done", ""]`, or the error's code and sentence.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

import anyio

from machinen_runtime.attach import attach
from machinen_runtime.boot import boot
from machinen_runtime.errors import MachinenError
from machinen_runtime.restore import restore


async def act(operation: str, options: dict[str, Any]) -> tuple[str, str]:
    """Do it; how it went."""
    try:
        match operation:
            case "boot":
                async with await boot(**options) as vm:
                    await vm.exec("true")
            case "restore":
                async with await restore(**options) as vm:
                    await vm.exec("true")
            case "fork":
                async with await (await attach(pid=options.pop("pid"))).fork(**options) as vm:
                    await vm.exec("true")
            case "snapshot":
                await (await attach(pid=options.pop("pid"))).snapshot(**options)
            case _:
                raise ValueError(operation)
    except MachinenError as error:
        return error.code, str(error)
    return "done", ""


if __name__ == "__main__":
    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    result = anyio.run(act, sys.argv[2], json.loads(sys.argv[3]))
    sys.stdout.write(json.dumps(result) + "\n")
