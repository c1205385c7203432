"""The Wire: partial writes, its life, and cancellation at any moment."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import trionotify
from tests.kernel import FakeKernel, Peer
from trionotify.connection.frames import message_frame
from trionotify.connection.wire import TRANSITIONS, State, Step, Wire
from trionotify.errors import Disconnected


def make(credit: int | None = None, **options: Any) -> tuple[Wire, FakeKernel, Peer]:
    kernel = FakeKernel(credit, **options)
    kernel.taken += b"HTTP/1.1 101 .\r\n\r\n"
    return Wire(kernel), kernel, Peer(kernel)


MESSAGE = "grüße " * 30
FRAME = message_frame(MESSAGE)


@pytest.mark.parametrize("k", range(len(FRAME) + 1))
async def test_the_kernel_takes_k_of_n_bytes(k: int) -> None:
    """However many bytes of a frame are refused, the rest follows, and nothing gets in between."""
    wire, kernel, peer = make(credit=k)
    assert wire.write(FRAME) is (k == len(FRAME))
    assert bool(wire.owed) == (k < len(FRAME))
    wire_is_free = wire.write(message_frame("second"))
    assert not wire_is_free
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.drained)
        await trio.testing.wait_all_tasks_blocked()
        assert peer.look().messages == ([MESSAGE] if k == len(FRAME) else [])
        kernel.grant(len(FRAME) - k + 3)
        await trio.testing.wait_all_tasks_blocked()
        assert peer.look().messages == [MESSAGE]
        kernel.grant(100)
    assert peer.look().messages == [MESSAGE, "second"]
    assert not wire.owed


@pytest.mark.parametrize("k", range(0, len(FRAME), 7))
async def test_who_drains_may_be_cancelled_and_the_next_goes_on(k: int) -> None:
    """A cancelled writer leaves no torn frame on a socket: another task finishes it."""
    wire, kernel, peer = make(credit=k)
    wire.write(FRAME)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.drained)
            nursery.start_soon(wire.drained)
            await trio.testing.wait_all_tasks_blocked()
            kernel.grant(5)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    kernel.grant(1000)
    await wire.drained()
    assert peer.look().messages == [MESSAGE]


async def test_what_becomes_owed_meanwhile_goes_out_too() -> None:
    """A task that waits also writes what was added after its own bytes."""
    wire, kernel, peer = make(credit=0)
    wire.write(FRAME)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.drained)
        await trio.testing.wait_all_tasks_blocked()
        wire.write(message_frame("second"))
        kernel.grant(len(FRAME))
        await trio.testing.wait_all_tasks_blocked()
        assert peer.look().messages == [MESSAGE]
        kernel.grant(100)
    assert peer.look().messages == [MESSAGE, "second"]


async def test_a_cancelled_send_on_a_stream_ends_the_connection() -> None:
    """A stream cut somewhere in a frame is dead: nothing more is written to it."""
    wire, kernel, _ = make(credit=10, synchronous=False)
    wire.write(FRAME)
    with trio.move_on_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.drained)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert wire.state is State.LOST
    assert kernel.closed
    with pytest.raises(Disconnected):
        wire.write(FRAME)


STEPS: dict[Step, Callable[[Wire], object]] = {
    Step.CLOSE: lambda wire: wire.close(1000),
    Step.LOSE: Wire.lose,
    Step.FINISH: Wire.finish,
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("step", Step)
def test_the_table_is_what_happens(state: State, step: Step) -> None:
    """Each step in each state leads where the table says, and nowhere else."""
    wire, _, _ = make()
    wire.state = state
    STEPS[step](wire)
    assert wire.state is TRANSITIONS.get((state, step), state)


def test_every_life_ends() -> None:
    """From each state that is no end, a lost connection is lost; an end is for good."""
    ends = set(State) - {state for state, _ in TRANSITIONS}
    assert ends == {State.CLOSED, State.LOST}
    for state in set(State) - ends:
        assert TRANSITIONS[state, Step.LOSE] is State.LOST


def test_nothing_is_written_behind_the_last_word() -> None:
    """Only the first Close frame counts, and nothing follows it."""
    wire, _, peer = make()
    assert wire.close(1001, "bye")
    assert not wire.close(1000)
    with pytest.raises(Disconnected):
        wire.write(FRAME)
    assert peer.look().close == (1001, "bye")


def test_a_lost_wire_keeps_no_bytes() -> None:
    """Its record may live on."""
    wire, kernel, _ = make(credit=0)
    wire.write(FRAME)
    wire.abort()
    assert not wire.owed
    assert kernel.was_reset


async def test_the_log_does_not_write_into_an_answer() -> None:
    """While anything is owed, and on a stream always, nothing of the log goes out by `write_some`."""
    wire, _, _ = make(credit=5)
    assert wire.write_some(FRAME) == 5
    wire.owe(memoryview(FRAME)[5:])
    assert wire.write_some(FRAME) == 0
    stream, _, _ = make(synchronous=False)
    assert stream.write_some(FRAME) is None
    lost, kernel, _ = make()
    kernel.reset()
    with pytest.raises(Disconnected):
        lost.write_some(FRAME)
    assert lost.state is State.LOST


def test_the_diagram_is_drawn_from_the_table() -> None:
    """In docs/how-it-works.md."""
    page = (Path(trionotify.__file__).parent.parent / "docs" / "how-it-works.md").read_text()
    arrows = re.findall(r"^    ([A-Z]+) --> ([A-Z]+): (\w+)$", page, re.MULTILINE)
    table = [(old.name, new.name, step.name.lower()) for (old, step), new in TRANSITIONS.items()]
    assert sorted(arrows) == sorted(table)
