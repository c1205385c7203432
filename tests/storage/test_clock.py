"""The durable log's clock: the wall clock's time, without its jumps."""

from __future__ import annotations

import logging
import time

import pytest

from trionotify.storage.clock import CORRECTION, SETTLED, LogClock, steady


class Sources:
    """A wall clock that can be set, and a steady one."""

    def __init__(self) -> None:
        self.wall = 1_000_000.0
        self.steady = 50.0

    def go_on(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds

    def clock(self) -> LogClock:
        return LogClock(lambda: self.wall, lambda: self.steady)


def followed(clock: LogClock) -> float:
    """By how much it follows the wall clock now."""
    moves: list[tuple[float, float]] = []
    clock.take_over(lambda by, now: moves.append((by, now)))
    for _, now in moves:
        assert clock.now() == now
    return sum(by for by, _ in moves)


@pytest.fixture
def sources() -> Sources:
    return Sources()


def test_it_is_the_wall_clock(sources: Sources, caplog: pytest.LogCaptureFixture) -> None:
    """As long as that goes on as it should, and by its small corrections, however many there are."""
    clock = sources.clock()
    for correction in (0.0, 0.001, -0.5, CORRECTION, -CORRECTION, *[0.5] * 100):
        sources.go_on(5.0)
        sources.wall += correction
        assert clock.now() == pytest.approx(sources.wall)
        assert followed(clock) == 0.0
    assert not caplog.records


@pytest.mark.parametrize("jump", [10 * 365 * 86_400.0, 7200.0, 2.5, -7200.0, -1e6])
def test_a_jump_in_passing(sources: Sources, jump: float, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged once, and changes nothing."""
    clock = sources.clock()
    right = sources.wall
    sources.wall += jump
    for _ in range(int(SETTLED / 5) - 1):
        assert clock.now() == pytest.approx(right)
        assert followed(clock) == 0.0
        sources.go_on(5.0)
        right += 5.0
    sources.wall = right
    assert clock.now() == pytest.approx(right)
    sources.go_on(SETTLED)
    assert (followed(clock), clock.now()) == (0.0, pytest.approx(right + SETTLED))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert (record.event, record.seconds) == ("clock_jumped", pytest.approx(jump))  # type: ignore[attr-defined] # extra


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_jump_that_stays(sources: Sources, jump: float, caplog: pytest.LogCaptureFixture) -> None:
    """It is followed after some minutes, by all of it, small corrections included."""
    clock = sources.clock()
    sources.wall += jump
    clock.now()
    sources.go_on(SETTLED / 2)
    sources.wall += 1.0
    assert followed(clock) == 0.0
    sources.go_on(SETTLED / 2)
    before = clock.now()
    assert followed(clock) == pytest.approx(jump + 1.0)
    assert clock.now() == pytest.approx(before + jump + 1.0) == pytest.approx(sources.wall)
    assert followed(clock) == 0.0
    assert [record.event for record in caplog.records] == ["clock_jumped", "clock_followed"]  # type: ignore[attr-defined] # extra


def test_what_was_stored_cannot_be_moved(sources: Sources, caplog: pytest.LogCaptureFixture) -> None:
    """Then the clock goes on as before, so that what is stored meanwhile fits, and follows later."""
    clock = sources.clock()
    sources.wall += 3600.0
    before = clock.now()
    sources.go_on(SETTLED)

    def fail(by: float, now: float) -> None:
        raise OSError("the disk is full")

    for _ in range(2):
        with pytest.raises(OSError, match="full"):
            clock.take_over(fail)
        assert clock.now() == pytest.approx(before + SETTLED)
    assert followed(clock) == pytest.approx(3600.0)
    assert [record.event for record in caplog.records] == ["clock_jumped", "clock_followed"]  # type: ignore[attr-defined] # extra


def test_a_clock_that_jumps_about(sources: Sources, caplog: pytest.LogCaptureFixture) -> None:
    """Only where it stays counts, from then on."""
    clock = sources.clock()
    for jump in (100.0, 200.0, -500.0):
        sources.wall += jump
        clock.now()
        sources.go_on(SETTLED - 1)
        assert followed(clock) == 0.0
    sources.go_on(1.0)
    assert followed(clock) == pytest.approx(-200.0)
    assert len(caplog.records) == 4


def test_the_machines_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself it asks the machine, at each call."""
    before = time.time()
    clock = LogClock()
    assert before - 1.0 < clock.now() < time.time() + 1.0
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert clock.now() > 1e9
    assert 0 <= steady() <= steady()


# --- going on where another process has stopped ---


@pytest.mark.parametrize("error", [0.0, 1.5, -1.5])
def test_it_goes_on_in_the_same_boot(
    sources: Sources, error: float, caplog: pytest.LogCaptureFixture
) -> None:
    """The steady clock says how long it was; a wall clock that agrees is followed."""
    last = sources.wall
    sources.go_on(3 * 86_400.0)
    sources.wall += error
    clock = sources.clock()
    clock.resume(last, 3 * 86_400.0, exact=True)
    assert clock.now() == pytest.approx(sources.wall)
    assert clock.unconfirmed() == 0.0
    assert not caplog.records


@pytest.mark.parametrize("jump", [1e9, -1e9, 3600.0])
def test_a_jump_while_no_process_was_there(sources: Sources, jump: float) -> None:
    """In the same boot it is a jump like any other."""
    last = sources.wall
    sources.go_on(60.0)
    right = sources.wall
    sources.wall += jump
    clock = sources.clock()
    clock.resume(last, 60.0, exact=True)
    assert clock.now() == pytest.approx(right)
    sources.go_on(SETTLED - 1.0)
    assert followed(clock) == 0.0
    assert clock.unconfirmed() == 0.0
    sources.go_on(1.0)
    assert followed(clock) == pytest.approx(jump)
    assert clock.now() == pytest.approx(sources.wall)


def test_after_another_boot_only_the_wall_clock_knows(sources: Sources) -> None:
    """Its time counts at once, but makes nothing older before it has stood for a while."""
    last = sources.wall
    sources.wall += 3 * 86_400.0
    clock = sources.clock()
    clock.resume(last, sources.steady, exact=False)
    assert clock.now() == pytest.approx(sources.wall)
    assert clock.unconfirmed() == pytest.approx(3 * 86_400.0 - sources.steady)
    sources.go_on(SETTLED - 1.0)
    assert clock.unconfirmed() == pytest.approx(3 * 86_400.0 - 50.0)
    sources.go_on(1.0)
    assert clock.unconfirmed() == 0.0
    assert followed(clock) == 0.0


@pytest.mark.parametrize(("exact", "more"), [(True, 0.0), (False, 86_400.0)])
def test_what_was_not_confirmed_to_earlier_processes(sources: Sources, exact: bool, more: float) -> None:
    """It must stand for as long again; what another boot adds comes on top."""
    last = sources.wall
    sources.go_on(60.0)
    sources.wall += more
    clock = sources.clock()
    clock.resume(last, 60.0, exact=exact, unconfirmed=3600.0)
    assert clock.now() == pytest.approx(sources.wall)
    sources.go_on(SETTLED - 1.0)
    assert clock.unconfirmed() == pytest.approx(3600.0 + more)
    sources.go_on(1.0)
    assert clock.unconfirmed() == 0.0


def test_a_clock_that_is_set_right_after_the_boot(sources: Sources) -> None:
    """Nothing was made older by it, not even for a moment."""
    last = sources.wall
    sources.wall += 1e9
    clock = sources.clock()
    clock.resume(last, 30.0, exact=False)
    wrong = clock.unconfirmed()
    assert wrong == pytest.approx(1e9 - 30.0)
    sources.go_on(60.0)
    sources.wall -= 1e9 - 300.0
    for _ in range(int(SETTLED)):
        clock.now()
        assert clock.unconfirmed() == wrong
        sources.go_on(1.0)
    assert followed(clock) == pytest.approx(300.0 - 1e9)
    assert clock.unconfirmed() == 0.0


def test_a_short_pause_between_two_boots(sources: Sources) -> None:
    """Is confirmed as far as the machine has been up."""
    last = sources.wall
    sources.go_on(31.0)
    clock = sources.clock()
    clock.resume(last, 30.0, exact=False)
    assert clock.unconfirmed() == 0.0
