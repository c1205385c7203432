"""The conditions that one run must meet."""

from __future__ import annotations

import base64
from collections import Counter

from tests.damage.damages import PAGE, Damage
from tests.damage.events import Content
from tests.damage.pages import offsets_by_page
from tests.damage.readers import Heard
from tests.damage.templates import DATABASE, LOCK, WAL, Template
from tests.damage.wire import Told
from trionotify import Hub, StoreError

__all__ = ["Verdict"]


class Verdict:
    """Made by the run, which tells it what happens; `faults` is what must not be."""

    def __init__(self, template: Template, damages: list[Damage], path: str) -> None:
        self.template = template
        self.path = path
        self.faults: list[str] = []
        self.notes: Counter[str] = Counter()
        #: That of the log as it was opened; None if it was refused.
        self.epoch: str | None = None
        self._damages = damages
        #: What is in the log, by offset, as far as it isn't lost.
        self._truth = dict(template.truth)
        self._new: dict[int, Content] = {}
        self._refused: set[Content] = set()
        self._lost: set[int] = set()
        self._snapshot = False
        self._start = 0

    @property
    def _kept(self) -> set[int]:
        return {offset for offset in self.template.truth if offset > self.template.start}

    @property
    def renewed(self) -> bool:
        """Whether clients hear at once that something is missing."""
        return self.epoch != self.template.epoch

    @property
    def cant_be_told(self) -> bool:
        """Whether the files are those of an earlier moment: see the package."""
        return self._snapshot

    @property
    def noticed(self) -> str:
        """When the damage was noticed."""
        if self._snapshot:
            return "a snapshot"
        if self.epoch is None:
            return "refused"
        if self.renewed:
            return "new epoch"
        if self._lost:
            return "when read"
        return "when written" if self._refused else "nothing lost"

    # --- what happens ---

    def opened(self, hub: Hub) -> None:
        """The log could be opened."""
        self.epoch, head = hub.log.epoch, hub.log.head
        self._start = hub.log.start
        if self.renewed != (hub.log.renewed is not None):
            self.faults.append(f"renewed: {hub.log.renewed!r}, and the epoch says otherwise")
        if self.renewed:
            self._truth = {offset: what for offset, what in self._truth.items() if offset <= head}
            return
        is_old = any(damage.file == LOCK and damage.way == "old copy" for damage in self._damages)
        if head < self.template.head:
            self._snapshot = is_old
            if not is_old:
                self.faults.append(
                    f"it ends at {head} instead of {self.template.head}, in the same epoch"
                )
        elif self._start > self.template.start:
            self.faults.append(f"it begins at {self._start} instead of {self.template.start}")

    def refused(self, group: BaseExceptionGroup[StoreError]) -> None:
        """It couldn't be opened; or something else failed later."""
        if self.epoch is not None:
            self.faults.append(f"StoreError was raised when it was open: {group.exceptions[0]}")
        for error in group.exceptions:
            if self.path not in str(error):
                self.faults.append(f"the refusal doesn't name the file: {error}")

    def published(self, offset: int, what: Content) -> None:
        """A new one was acknowledged."""
        if offset in self._new:
            self.faults.append(f"the offset {offset} was given to two new ones")
        elif offset <= self.template.head and not self.renewed:
            self.faults.append(f"the offset {offset} was given again")
        self._truth[offset] = self._new[offset] = what

    def refused_to_publish(self, what: Content, error: StoreError) -> None:
        """A new one was not."""
        self._refused.add(what)
        self.notes["publishing refused"] = 1
        if self.path not in str(error):
            self.faults.append(f"the refusal to publish doesn't name the file: {error}")

    def opened_again(self, hub: Hub) -> None:
        """It was closed and opened once more."""
        if hub.log.epoch != self.epoch:
            self.notes["new epoch at the second start"] = 1
            self.epoch = hub.log.epoch
            self._truth = {
                offset: what for offset, what in self._truth.items() if offset <= hub.log.head
            }

    def refused_again(self, group: BaseExceptionGroup[StoreError]) -> None:
        """It couldn't be opened once more."""
        self.notes["refused at the second start"] = 1
        for error in group.exceptions:
            if self.path not in str(error):
                self.faults.append(f"the second refusal doesn't name the file: {error}")

    # --- what was heard ---

    def judge(self, since: str, heard: Heard | None) -> None:
        """A reader has come to the head."""
        epoch = since.rpartition(":")[0]
        if heard is None:
            if epoch == "":
                self.faults.append("nothing can be read from the start on")
            return
        if epoch not in {"", self.epoch}:
            self.faults.append(f"{since} was resumed in the epoch {self.epoch}")
        self.faults += [f"since {since}: {fault}" for fault in heard.faults]
        lost = heard.lost_offsets
        found = dict(heard.found)
        for offset, what in heard.found:
            if what in self._refused:
                self.faults.append(f"since {since}: {offset} was refused: {what}")
            elif self._truth.get(offset) != what:
                due = self._truth.get(offset)
                self.faults.append(f"since {since}: {offset} is {what} instead of {due}")
        missing = sorted(
            offset
            for offset in self._truth
            if offset > heard.begin and offset not in found.keys() | lost
        )
        if missing:
            self.faults.append(f"since {since}: {_short(missing)} are missing, and nobody says so")
        if both := sorted(found.keys() & lost):
            self.faults.append(f"since {since}: {_short(both)} came, and are said to be lost")
        self._lost |= lost

    def judge_told(self, since: str, told: dict[str, Told], head: int) -> None:
        """Clients over the network have come to the head, or to their end."""
        self.notes["read on the wire"] += 1
        renewed = since.rpartition(":")[0] not in {"", self.epoch}
        lost = told["events"].lost
        for name, one in told.items():
            where = f"since {since}, {name}"
            if one.lost or one.ended or one.recovered is False:
                self.notes[f"{name}: {one.ended or ('gap' if one.lost else 'not recovered')}"] += 1
            if renewed and one.recovered is not False:
                self.faults.append(f"{where}: recovered is {one.recovered} in another epoch")
            if one.recovered is False:
                if name != "events" and one.ended != "410":
                    self.faults.append(f"{where}: ended with {one.ended!r} instead of 410")
                continue
            told_so = one.lost or one.ended in {"1013 damaged", "the end"}
            if one.ended and not (told_so and (self._lost or lost)):
                self.faults.append(f"{where}: ended with {one.ended!r}, and nothing is lost")
            for at, what in one.found.items():
                due = self._truth.get(at)
                if due is None or not _same(what, due):
                    self.faults.append(f"{where}: {at} is {what} instead of {due}")
            missing = self._truth.keys() & set(range(one.begin + 1, head + 1)) - one.found.keys()
            if missing - one.lost and not told_so:
                self.faults.append(f"{where}: {_short(sorted(missing))} are missing without a word")
        self._lost |= lost

    def look_at(self, hub: Hub) -> None:
        """When all have read: what the operator sees, and whether no more is lost than was damaged."""
        if self._lost and not hub.log.damage:
            self.faults.append("something is lost, and the log doesn't know of any damage")
        allowed = self._damaged_offsets()
        if allowed is not None and (more := sorted(self._lost & self._kept - allowed)):
            self.faults.append(f"{_short(more)} are lost, and lie on pages that weren't damaged")
        if new := sorted(self._lost & self._new.keys()):
            self.notes["new ones lost"] = 1
            if len(self._damages) == 1 and not self.renewed and allowed is not None:
                self.faults.append(f"{_short(new)} were acknowledged by this process, and are lost")

    def _damaged_offsets(self) -> set[int] | None:
        """The offsets that one damage to pages with entries can have touched; None if unknown."""
        if len(self._damages) != 1 or self._damages[0].file != DATABASE or WAL in self.template.files:
            return None
        (damage,) = self._damages
        if damage.end > len(self.template.files[DATABASE]) or damage.way == "old copy":
            return None
        pages = offsets_by_page(self.template.files[DATABASE])
        touched = range(damage.begin // PAGE + 1, (damage.end - 1) // PAGE + 2)
        if any(page not in pages for page in touched):
            return None
        return {offset for page in touched for offset in pages[page]}


def _same(heard: Content, due: Content) -> bool:
    """Whether it is what is due, as far as a client that speaks this format hears."""
    if len(heard) > 1:
        return heard == due[: len(heard)]
    data = due[0]
    plain = data.encode() if isinstance(data, str) else data or b""
    return heard[0] in {plain, plain.decode(), base64.b64encode(plain).decode()}


def _short(offsets: list[int]) -> str:
    return f"{offsets[:5]}{f' and {len(offsets) - 5} more' if len(offsets) > 5 else ''}"
