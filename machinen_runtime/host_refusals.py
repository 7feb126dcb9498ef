"""What the operating system refuses, as errors of ours: no space, no descriptor, no process left.

Any step of a boot, a fork or a snapshot may meet it. Each undoes what it did by itself; here the
bare OSError that comes out becomes a code and a sentence.
"""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from machinen_runtime.errors import ErrorCode, MachinenError
from vmm.errors import host_refusal

P = ParamSpec("P")
T = TypeVar("T")
_NO_THREAD = "can't start new thread"
"""What Python says where clone(2) says EAGAIN."""


def host_refusals(
    family: type[MachinenError], doing: str, code: ErrorCode = ErrorCode.HOST_REFUSED
) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, Coroutine[Any, Any, T]]]:
    """Let an async function raise `family` with `code` where the host refused it something.

    `doing` opens the sentence: "the VM cannot be started".
    """

    def decorate(
        function: Callable[P, Coroutine[Any, Any, T]],
    ) -> Callable[P, Coroutine[Any, Any, T]]:
        @functools.wraps(function)
        async def wrapper(*args: P.args, **options: P.kwargs) -> T:
            try:
                return await function(*args, **options)
            except (OSError, MemoryError, RuntimeError) as error:
                refused = _refused(error)
                if refused is None:
                    raise
                why = host_refusal(refused, doing)
                raise family(code, str(why), retryable=why.retryable) from error

        return wrapper

    return decorate


def _refused(error: OSError | MemoryError | RuntimeError) -> OSError | None:
    """The error as the kernel would have put it; None: it is another one."""
    if isinstance(error, OSError):
        return error
    if isinstance(error, MemoryError):
        return OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    if str(error) == _NO_THREAD:
        return OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return None
