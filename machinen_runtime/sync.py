"""The same API without async, for scripts and notebooks: every call waits for its result.

    from machinen_runtime import sync

    with sync.boot(name="web") as vm:
        print(vm.exec("uname -a").stdout)
        fork = vm.fork(name="web-2")

Nothing is written twice: each name is made from the asynchronous one of the same name when it is
first used. Calls run in an event loop in a thread of its own, so they work in a notebook, whose own
loop runs already, and from several threads. Callbacks such as `on_log` are called in that thread
and must not call back; hooks that are `async` there (the `install` of provision()) are plain
functions here. `sync.pyi` says the types; it is generated, too.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from functools import partial, wraps
from typing import Any, cast

import anyio.to_thread
from anyio.abc import ByteReceiveStream, ByteSendStream

import machinen_runtime
from machinen_runtime.sync_portal import LOOP, in_loop

HOOKS = frozenset({"install", "read_free"})
"""Options that are asynchronous functions there and plain ones here."""
NEEDS_LOOP = frozenset({"boot_pty"})
"""Plain functions whose result lives in a loop."""
WRAPPED = (
    "PtyVmHandle",
    "Sandboxes",
    "Supervisor",
    "TerminalSession",
    "VmHandle",
    "VsockExec",
    "VsockExecPtyHandle",
    "VsockFiles",
    "VsockSecrets",
    "VsockWinsize",
)
"""Classes with something to wait for."""
STREAMS: tuple[type, ...] = (ByteReceiveStream, ByteSendStream)


class Wrapper:
    """Base of the classes here: stands for one object of the asynchronous class."""

    _kind: type
    _inner: Any
    _block: AbstractContextManager[Any]

    def __init__(self, *args: Any, **options: Any) -> None:
        self._inner = in_loop(self._kind, *map(_unwrap, args), **_unwrap_options(options))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        value = getattr(self._inner, name)
        return _calling(value) if inspect.isroutine(value) else _wrap(value)

    def __enter__(self) -> Any:
        self._block = LOOP.enter(self._inner)
        self._block.__enter__()
        return self

    def __exit__(self, *details: Any) -> bool | None:
        return self._block.__exit__(*details)

    def __iter__(self) -> Iterator[Any]:
        return _iterate(self._inner)

    def __repr__(self) -> str:
        return f"<sync {self._inner!r}>"


def __getattr__(name: str) -> Any:
    """Make a name when it is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name not in _MADE:  # not globals(): there, the name `list` would hide Python's
        thing = getattr(machinen_runtime, name)
        if name in WRAPPED:
            thing = _wrapper_of(thing)
        elif inspect.iscoroutinefunction(thing) or name in NEEDS_LOOP:
            thing = _calling(thing)
        _MADE[name] = thing
    return _MADE[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _wrapper_of(kind: type) -> type[Wrapper]:
    """The class that stands for `kind`, with a method for each of its."""
    known = _WRAPPERS.get(kind)
    if known is not None:
        return known
    body: dict[str, Any] = {"_kind": kind, "__doc__": kind.__doc__, "__module__": __name__}
    for name, member in inspect.getmembers_static(kind):
        if name.startswith("_"):
            continue
        if isinstance(member, staticmethod | classmethod):
            body[name] = staticmethod(_calling(getattr(kind, name)))
        elif inspect.isfunction(member):
            body[name] = _method(name, member)
        elif isinstance(member, property):
            body[name] = _property(name, member)
    made = cast("type[Wrapper]", type(kind.__name__, (Wrapper,), body))
    return _WRAPPERS.setdefault(kind, made)


_WRAPPERS: dict[type, type[Wrapper]] = {}
_MADE: dict[str, Any] = {}


def _method(name: str, member: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(member)
    def call(self: Wrapper, *args: Any, **options: Any) -> Any:
        return _calling(getattr(self._inner, name))(*args, **options)  # pyright: ignore[reportPrivateUsage]

    return call


def _property(name: str, member: property) -> property:
    def read(self: Wrapper) -> Any:
        value = getattr(self._inner, name)  # pyright: ignore[reportPrivateUsage]
        if isinstance(value, Awaitable):
            awaited = cast("Awaitable[Any]", value)
            return _wrap(in_loop(lambda: awaited))
        return _wrap(value)

    return property(read, doc=member.__doc__)


def _calling(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, called in the loop."""

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        arguments = [_unwrap(each) for each in args]
        return _wrap(in_loop(function, *arguments, **_unwrap_options(options)))

    return call


def _wrap(value: Any) -> Any:
    """What a caller without a loop can use."""
    for kind in (*(getattr(machinen_runtime, name) for name in WRAPPED), *STREAMS):
        if isinstance(value, kind):
            wrapper = object.__new__(_wrapper_of(kind))
            wrapper._inner = value  # pyright: ignore[reportPrivateUsage]
            return wrapper
    if isinstance(value, list):
        return [_wrap(each) for each in cast("list[Any]", value)]
    if isinstance(value, AbstractAsyncContextManager):
        return _block(cast("AbstractAsyncContextManager[Any]", value))
    if isinstance(value, AsyncIterator):
        return _iterate(cast("AsyncIterator[Any]", value))
    return value


@contextmanager
def _block(context: AbstractAsyncContextManager[Any]) -> Generator[Any]:
    with LOOP.enter(context) as value:
        yield _wrap(value)


def _iterate(items: Any) -> Iterator[Any]:
    iterator = aiter(items)
    while True:
        try:
            yield _wrap(in_loop(iterator.__anext__))
        except StopAsyncIteration:
            return


def _unwrap(value: Any) -> Any:
    return value._inner if isinstance(value, Wrapper) else value  # pyright: ignore[reportPrivateUsage]


def _unwrap_options(options: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name: _unwrap(value) for name, value in options.items()}
    for name in HOOKS & plain.keys():
        if plain[name] is not None:
            plain[name] = partial(_run_hook, plain[name])
    return plain


async def _run_hook(hook: Callable[..., Any], *args: Any) -> Any:
    """A plain function as an asynchronous hook: in a thread of its own, so that it may call us."""
    return _unwrap(await anyio.to_thread.run_sync(partial(hook, *map(_wrap, args))))


__all__ = machinen_runtime.__all__  # pyright: ignore[reportUnsupportedDunderAll]
