"""The context managers behind `open_hub`, `open_server` and `connect`.

`opening` makes an async context manager of an async generator, as `contextlib.asynccontextmanager` does.
Any other use than by `async with` raises an error that says so.

`open_nursery` is Trio's, but an exception leaves it as it was raised. Trio puts even a single one into
an `ExceptionGroup`, because several tasks may raise at once. Here the tasks are an implementation
detail, because the application sees one block, and one exception that it raised there.

`Alive` and `check_thread` notice that an object of running tasks is copied, or used in another thread.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Generic, NoReturn, ParamSpec, TypeVar

import trio

__all__ = ["Alive", "Opening", "check_thread", "open_nursery", "opening"]

P = ParamSpec("P")
T_co = TypeVar("T_co", covariant=True)


class Opening(AbstractAsyncContextManager[T_co, bool | None], Generic[T_co]):
    """The result of `open_server()` and its like, which is entered with `async with`, once."""

    def __init__(self, manager: AbstractAsyncContextManager[T_co, bool | None], name: str) -> None:
        self._manager = manager
        self._name = name
        self._entered = False

    async def __aenter__(self) -> T_co:
        """Run the function up to its `yield`; return what it yields."""
        if self._entered:
            raise RuntimeError(f"{self._name}() was entered already; call it once for each `async with`")
        self._entered = True
        return await self._manager.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Run the function to its end."""
        return await self._manager.__aexit__(kind, error, traceback)  # noqa: ASYNC102 - it passes on what the block was left with

    def __repr__(self) -> str:
        return f"<{self._name}(), to be entered with `async with`>"

    if not TYPE_CHECKING:  # a type checker finds the mistake by itself, if it doesn't see these

        def __getattr__(self, name):
            raise AttributeError(f"{name}: {self._fix()}", name=name, obj=self)

        def _refuse(self, *_):
            raise TypeError(self._fix())

        __await__ = __aiter__ = __enter__ = __exit__ = _refuse

    def _fix(self) -> str:
        return f"{self._name}() must be entered first: async with {self._name}(...) as it:"


def opening(function: Callable[P, AsyncIterator[T_co]]) -> Callable[P, Opening[T_co]]:
    """Decorate an async generator function that yields once, so that it returns an `Opening`."""
    manager = asynccontextmanager(function)

    @wraps(function)
    def open_it(*args: P.args, **kwargs: P.kwargs) -> Opening[T_co]:
        return Opening(manager(*args, **kwargs), function.__name__)

    return open_it


@asynccontextmanager
async def open_nursery() -> AsyncGenerator[trio.Nursery, None]:
    """Open a nursery that raises a single exception bare, whether it is from the block or a task.

    Several exceptions are raised in their group, and a group of the block's own stays as it is.
    """
    bare: BaseException | None = None
    own_group = False
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except BaseExceptionGroup:
                own_group = True
                raise
    except BaseExceptionGroup as group:
        _, errors = group.split(trio.Cancelled)
        if errors is None or len(errors.exceptions) != 1:
            raise
        bare = errors.exceptions[0]
        while isinstance(bare, BaseExceptionGroup) and len(bare.exceptions) == 1 and not own_group:
            bare = bare.exceptions[0]  # of nurseries inside of a task
    # This is outside of the handler, so that the group doesn't become the context of the exception.
    if bare is not None:
        raise bare


class Alive:
    """A base of objects that tasks use. A copy of one would share its tasks and sockets with it."""

    __slots__ = ()

    def __reduce_ex__(self, _: object, /) -> NoReturn:
        name = type(self).__name__
        raise TypeError(f"{name}: must not be copied or pickled, because it belongs to running tasks")


def check_thread(name: str, owner: str = "hub", used: object = True, *, run: str = "run_sync") -> None:
    """Raise RuntimeError outside of Trio's thread, where the method `name` would damage Trio's state.

    `used` is None for an owner that no task uses yet.
    """
    if used is not None and not trio.lowlevel.in_trio_run():
        raise RuntimeError(
            f"{name}: must be called in Trio's thread; in another one, write"
            f" trio.from_thread.{run}({owner}.{name}, ...)"
        )
