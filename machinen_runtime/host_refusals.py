"""What the operating system refuses, as errors of ours: no space, no descriptor, no process left.

Any step of a boot, a fork or a snapshot may meet it. Each undoes what it did by itself; here the
bare OSError that comes out becomes a code and a sentence.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from machinen_runtime.errors import ErrorCode, MachinenError
from vmm.errors import as_os_error, host_refusal, is_exhaustion

P = ParamSpec("P")
T = TypeVar("T")


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
                refused = as_os_error(error)
                if refused is None:
                    raise
                why = host_refusal(refused, doing)
                raise family(code, str(why), retryable=why.retryable) from error

        return wrapper

    return decorate


def pass_exhaustion(error: object) -> None:
    """Raise `error` if the host ran out of something: that says nothing about the file that was to
    be read, or the program that was to be started."""
    if isinstance(error, OSError) and is_exhaustion(error):
        raise error
