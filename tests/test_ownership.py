"""Ownership as a model: workers that are stopped, killed and cut off at any await, in virtual time."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mcp_chat.commands import Cancel, Disconnect, Send
from mcp_chat.events import (
    Connected,
    Discarded,
    Disconnected,
    Entry,
    Failed,
    HandedOver,
    MessageAdded,
    TextDelta,
    TurnFinished,
    TurnStarted,
    is_final,
    order,
)
from mcp_chat.feed import Gap
from mcp_chat.stores.base import START
from tests.simulation import Asked, Process, World

pytestmark = pytest.mark.slow

USERS = ("ann", "bob")
SESSIONS = ("s", "t")
PLANS = ("3", "2 once 2", "2 safe 2", "1 once,safe 1 once 2", "0 once 1")
CI = bool(os.environ.get("CI"))
FUZZ = int(os.environ.get("FUZZ", "0"))
"""How many random examples are to be tried instead of those that are always the same."""

AGAIN = True
"""When the store loses a lease or all its data, ends may be told again, to those who have not heard them."""

Violations = Iterator[str]


# What must hold at every moment


def rising(world: World) -> Violations:
    """Entries rise in epoch and number, whatever the store has lost, and each epoch has one worker."""
    for user, logged in world.journal.logged.items():
        for before, after in pairwise(logged):
            if order(before.entry.id) >= order(after.entry.id):
                yield f"{user}: {before.worker}'s {before.entry.id}, then {after.worker}'s {after.entry.id}"
        owners = defaultdict(set)
        for each in logged:
            owners[order(each.entry.id)[0]].add(each.worker)
        yield from (f"{user}: epoch {epoch} of {names}" for epoch, names in owners.items() if len(names) > 1)


def one_at_a_time(world: World) -> Violations:
    """In one epoch a session's turns follow each other."""
    if AGAIN and world.journal.losses:
        return
    for user, logged in world.journal.logged.items():
        sessions: dict[str, str] = {}
        running: dict[tuple[int, str], str] = {}
        for each in logged:
            entry, epoch = each.entry, order(each.entry.id)[0]
            if isinstance(entry.event, TurnStarted):
                sessions[entry.command_id] = entry.event.session_id
            if entry.command_id not in sessions:
                continue
            place = epoch, sessions[entry.command_id]
            if isinstance(entry.event, HandedOver) or is_final(entry.event):
                if running.get(place) == entry.command_id:
                    del running[place]
            elif running.setdefault(place, entry.command_id) != entry.command_id:
                yield f"{user}: {entry.command_id} runs beside {running[place]} in {place}"


def one_end(world: World) -> Violations:
    """A command that has ended says no more, and does not end again."""
    if AGAIN and world.journal.losses:
        return
    for user in USERS:
        ended: set[str] = set()
        for entry in log_of(world, user):
            if entry.command_id in ended:
                yield f"{user}: {entry.command_id} goes on with {entry}"
            if is_final(entry.event):
                ended.add(entry.command_id)


def at_most_once(world: World) -> Violations:
    """A call is made once, unless its tool is safe."""
    calls = Counter(called.call_id for called in world.journal.called if called.name != "safe")
    yield from (f"{call_id} was made {n} times" for call_id, n in calls.items() if n > 1)


def read_whole(world: World) -> Violations:
    """Readers have the log, without a gap that they were not told of, in order and once."""
    for reading in world.journal.readings:
        log = log_of(world, reading.user)
        place = {entry.id: n for n, entry in enumerate(log)}
        at = place.get(reading.after, -1)
        told = world.journal.losses > 0 and at < 0
        for found in reading.found:
            if isinstance(found, Gap):
                told = True
                continue
            n = place[found.id]
            if found != log[n] or n <= at or not (told or n == at + 1):
                yield f"a reader of {reading.user}'s, from {reading.after}, has {found} behind {at}"
            at, told = n, False


def no_crash(world: World) -> Violations:
    """Nothing fails in a way nobody has thought of."""
    yield from world.journal.crashes
    yield from (str(line) for line in world.logs if line["event"].endswith(".crashed"))


def once_in_history(world: World) -> Violations:
    """No message is in a history twice, or in two of them."""
    assert world.archive
    ids = Counter((user, m.id) for (user, _), found in world.archive.messages.items() for m in found.values())
    yield from (f"{message} is there {n} times" for message, n in ids.items() if n > 1)


ALWAYS: tuple[Callable[[World], Violations], ...] = (
    rising,
    one_at_a_time,
    one_end,
    at_most_once,
    read_whole,
    no_crash,
)


# What must hold when all is quiet again


def all_ended(world: World) -> Violations:
    """What was accepted has ended, in log and record alike, and waits nowhere."""
    for user in USERS:
        finals = {
            e.entry.command_id: e.entry.event for e in world.journal.logged[user] if is_final(e.entry.event)
        }
        for asked in accepted(world, user):
            end = finals.get(asked.command.id)
            row = world.archive and world.archive.commands.get((user, asked.command.id))
            if world.journal.losses and end is None and row and row.outcome:
                continue  # told to whoever asks
            if isinstance(asked.command, Cancel) and world.journal.losses:
                continue  # a stop is in no record
            if end is None:
                yield f"{user}: {asked.command} has no end"
            if world.journal.losses:
                continue
            if asked.final and outcome(asked.final) != outcome(end):
                yield f"{user}: {asked.command.id} ended with {end}, and its sender has {asked.final}"
            if row and outcome(row.outcome) != outcome(end):
                yield f"{user}: {asked.command.id} ended with {end}, and the record has {row.outcome}"
        yield from (f"{user}: {command} waits" for command in waiting(world, user))


def waiting(world: World, user: str) -> list[Any]:
    """Return the commands in an inbox."""
    return [each.command for each in world.store.inbox._waiting[user]]


def outcome(event: Any) -> Any:
    """Return what counts of an end."""
    return (event.type, getattr(event, "code", ""), getattr(event, "stopped", "")) if event else None


def in_history(world: World) -> Violations:
    """What was answered is in the history once, and a session's messages are there as they were accepted."""
    for user in USERS:
        for session in SESSIONS:
            there = [m.id for m in history(world, user, session) if m.role == "user"]
            sent: dict[str, Asked] = {}
            for asked in accepted(world, user):
                if isinstance(asked.command, Send) and asked.command.session_id == session:
                    question = f"{asked.command.run}-q"
                    sent[question] = asked
                    if there.count(question) != 1 and not may_be_missing(world, asked):
                        yield f"{user}: {asked.command.id} is in the history {there.count(question)} times"
            for n, id_ in enumerate(there):
                for earlier in there[:n]:
                    one, other = sent.get(earlier), sent.get(id_)
                    if one and other and other.accepted and other.accepted < one.begun:
                        yield f"{user}: {one.command.id} stands before {other.command.id}"


def may_be_missing(world: World, asked: Asked) -> bool:
    """Tell whether a message was stopped before it began, or could not be written."""
    for each in world.journal.logged[asked.user]:
        if each.entry.command_id == asked.command.id and is_final(each.entry.event):
            event = each.entry.event
            return is_stopped(event) or (isinstance(event, Failed) and event.code == "store_unavailable")
    return False


def is_stopped(event: Any) -> bool:
    """Tell whether an event ends a turn because its user wanted so."""
    return isinstance(event, TurnFinished) and event.stopped


def gone(world: World) -> Violations:
    """After an acknowledged disconnect there is nothing more of what was accepted before it."""
    for asked in world.journal.asked:
        if not (isinstance(asked.command, Disconnect) and isinstance(asked.final, Disconnected)):
            continue
        before = {
            a.command.id
            for a in accepted(world, asked.user)
            if (a.accepted or 0) < asked.begun and not isinstance(a.command, Cancel)
        }
        for each in world.journal.logged[asked.user]:
            if each.tick > (asked.answered or 0) and each.entry.command_id in before:
                yield f"{asked.user}: {each.entry} after the disconnect {asked.command.id}"


def open_at(world: World, user: str, tick: int) -> list[Any]:
    """Return the commands that were accepted and had not ended at a moment."""
    logged = world.journal.logged[user]
    ended = {each.entry.command_id for each in logged if each.tick < tick and is_final(each.entry.event)}
    return [
        asked.command
        for asked in accepted(world, user)
        if (asked.accepted or 0) < tick and asked.command.id not in ended
    ]


def read_to_the_end(world: World) -> Violations:
    """Readers at workers that live have all that the log has."""
    for reading in world.journal.readings:
        there = world.store.sim_log._entries[reading.user]
        found = [each.id for each in reading.found if isinstance(each, Entry)]
        at = (found or [reading.after])[-1]
        if there and reading.process in world.open and not reading.broken and at != there[-1].id:
            yield f"{reading.user}: a reader has {at} of {there[-1].id}"


def text_of(world: World) -> Violations:
    """What readers were told of a turn, less what was discarded, is what the history has of it."""
    for user in USERS:
        for entries in turns_of(world, user):
            first = entries[0].event
            assert isinstance(first, TurnStarted)
            written = history(world, user, first.session_id)
            said = [m.content for m in written if m.id.startswith(f"{first.run}-a") and m.content]
            if heard(entries) != "\n\n".join(said):
                yield f"{user}: readers have {heard(entries)!r} of {said}"


def turns_of(world: World, user: str) -> Iterator[list[Entry]]:
    """Return the entries of the turns that began, and did not end because nothing could be written."""
    turns: dict[str, list[Entry]] = defaultdict(list)
    for entry in log_of(world, user):
        if isinstance(entry.event, TurnStarted) or entry.command_id in turns:
            turns[entry.command_id].append(entry)
    for entries in turns.values():
        last = entries[-1]
        unwritten = isinstance(last.event, Failed) and last.event.code == "store_unavailable"
        if not world.journal.losses and not unwritten:
            yield entries


def heard(entries: list[Entry]) -> str:
    """Return a turn's text as a reader has it who applies discards."""
    pieces: list[tuple[str, str]] = []
    for entry in entries:
        if isinstance(entry.event, TextDelta):
            pieces.append((entry.id, entry.event.text))
        elif isinstance(entry.event, Discarded):
            after = order(entry.event.after)
            pieces = [piece for piece in pieces if order(piece[0]) <= after]
    return "".join(text for _, text in pieces)


def told_of_all(world: World) -> Violations:
    """Each message of a turn was told."""
    for user in USERS:
        for entries in turns_of(world, user):
            first = entries[0].event
            assert isinstance(first, TurnStarted)
            told = {entry.event.message.id for entry in entries if isinstance(entry.event, MessageAdded)}
            written = {m.id for m in history(world, user, first.session_id)}
            missing = {id_ for id_ in written if id_.startswith(f"{first.run}-")} - told
            yield from (f"{user}: {id_} was not told" for id_ in missing)


def log_of(world: World, user: str) -> list[Entry]:
    """Return all entries that a log ever had."""
    return [each.entry for each in world.journal.logged[user]]


def history(world: World, user: str, session: str) -> list[Any]:
    """Return what was recorded in a session."""
    if world.archive:
        return list(world.archive.messages[user, session].values())
    return list(world.store.window._messages.get((user, session), ()))


def accepted(world: World, user: str) -> list[Asked]:
    """Return what was acknowledged, each command once."""
    found: dict[str, Asked] = {}
    begun: dict[str, int] = {}
    for asked in world.journal.asked:
        begun.setdefault(asked.command.id, asked.begun)  # the first time, acknowledged or not
        if asked.user == user and asked.accepted is not None:
            found.setdefault(asked.command.id, replace(asked, begun=begun[asked.command.id]))
    return list(found.values())


FINALLY: tuple[Callable[[World], Violations], ...] = (
    *ALWAYS,
    all_ended,
    in_history,
    gone,
    read_to_the_end,
    text_of,
    told_of_all,
)

WORKER = st.integers(0, 7)
SOON = st.integers(0, 40)


class Workers(RuleBasedStateMachine):
    """Users, workers, and what can happen to both."""

    fencing = True
    archive = True

    def __init__(self) -> None:
        super().__init__()
        self.world: World
        self.sends: dict[str, Send] = {}
        self.owner_of: dict[str, str] = {}

    @initialize(seed=st.integers(0, 2**16), workers=st.integers(2, 3))
    def begin(self, seed: int, workers: int) -> None:
        self.world = World(seed=seed, archive=self.archive, fencing=self.fencing)
        self.world.__enter__()
        for _ in range(workers):
            self.world.start()
        self.world.run(0.1)
        for n, user in enumerate(USERS):
            self.world.ask(self.world.workers[n], user, self.world.connect(user))
        self.world.run(0.2)

    def door(self, number: int) -> Process | None:
        """Return a worker that takes requests."""
        doors = self.world.open
        return doors[number % len(doors)] if doors else None

    # What users do

    @rule(
        user=st.sampled_from(USERS),
        session=st.sampled_from(SESSIONS),
        plan=st.sampled_from(PLANS),
        worker=WORKER,
        interrupt=st.integers(0, 4),
    )
    def send(self, user: str, session: str, plan: str, worker: int, interrupt: int) -> None:
        number = len(self.sends)
        send = Send(
            id=f"m{number}", run=f"r{number:03}", session_id=session, text=plan, interrupt=interrupt == 0
        )
        self.sends[send.id] = send
        self.owner_of[send.id] = user
        if door := self.door(worker):
            self.world.ask(door, user, send)
        self.world.run(self.world.random.choice((0.001, 0.02, 0.1, 0.5, 1.5)))

    @precondition(lambda self: self.sends)
    @rule(data=st.data(), worker=WORKER)
    def send_again(self, data: st.DataObject, worker: int) -> None:
        send = self.sends[data.draw(st.sampled_from(sorted(self.sends)))]
        if door := self.door(worker):
            self.world.ask(door, self.owner_of[send.id], send)
        self.world.run(self.world.random.choice((0.001, 0.02, 0.1, 0.5, 1.5)))

    @rule(user=st.sampled_from(USERS), session=st.sampled_from([*SESSIONS, None]), worker=WORKER)
    def cancel(self, user: str, session: str | None, worker: int) -> None:
        if door := self.door(worker):
            self.world.ask(door, user, Cancel(session_id=session))
        self.world.run(self.world.random.choice((0.001, 0.02, 0.1, 0.5, 1.5)))

    @rule(user=st.sampled_from(USERS), worker=WORKER)
    def connect(self, user: str, worker: int) -> None:
        if door := self.door(worker):
            self.world.ask(door, user, self.world.connect(user))
        self.world.run(self.world.random.choice((0.001, 0.02, 0.1, 0.5, 1.5)))

    @rule(user=st.sampled_from(USERS), worker=WORKER)
    def disconnect(self, user: str, worker: int) -> None:
        if door := self.door(worker):
            self.world.ask(door, user, Disconnect())
        self.world.run(self.world.random.choice((0.001, 0.02, 0.1, 0.5, 1.5)))

    @rule(user=st.sampled_from(USERS), worker=WORKER, place=st.integers(0, 200))
    def read(self, user: str, worker: int, place: int) -> None:
        if door := self.door(worker):
            places = [START, *(each.entry.id for each in self.world.journal.logged[user])]
            self.world.read(door, user, places[-1 - place % len(places)])

    # What happens

    @rule(seconds=st.sampled_from([0.02, 0.1, 0.3, 1, 3, 7]))
    def pass_time(self, seconds: float) -> None:
        self.world.run(seconds)

    @rule(worker=WORKER, steps=SOON)
    def stop(self, worker: int, steps: int) -> None:
        if door := self.door(worker):
            door.countdown, door.then = steps, door.stop

    @rule()
    def go_on(self) -> None:
        for worker in self.world.alive:
            worker.go_on()

    @rule(worker=WORKER, steps=SOON, reported=st.booleans())
    def kill(self, worker: int, steps: int, reported: bool) -> None:
        if door := self.door(worker):

            def die() -> None:
                door.kill()
                if reported:
                    self.world.bury(door)

            door.countdown, door.then = steps, die

    @rule()
    def start(self) -> None:
        if len(self.world.alive) < 4:
            self.world.start()
        self.world.run(0.05)

    @rule(worker=WORKER)
    def drain(self, worker: int) -> None:
        if door := self.door(worker):
            door.draining.set()

    @rule(lost=st.booleans())
    def lose_bells(self, lost: bool) -> None:
        self.world.store.sim_bells.lost = lost

    @rule(part=st.sampled_from(["store", "archive"]), seconds=st.sampled_from([0.1, 1.0, 4.0, 9.0]))
    def cut(self, part: Any, seconds: float) -> None:
        self.world.cut(part, seconds)

    @rule(worker=WORKER)
    def drop_beat(self, worker: int) -> None:
        self.world.store.sim_leases.drop_beat(f"w{worker % len(self.world.workers)}")

    @precondition(lambda self: self.archive)
    @rule(user=st.sampled_from(USERS))
    def drop_lease(self, user: str) -> None:
        self.world.journal.losses += 1
        self.world.store.sim_leases.drop_lease(user)

    @precondition(lambda self: self.archive)
    @rule()
    def drop_seen(self) -> None:
        self.world.store.sim_log.seen.clear()

    @precondition(lambda self: self.archive)
    @rule()
    def flush(self) -> None:
        self.world.store.flush()

    # What must hold

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "world"):
            self.judge(ALWAYS)

    def judge(self, rules: tuple[Callable[[World], Violations], ...]) -> None:
        """Fail with all that does not hold."""
        found = [f"{each.__name__}: {one}" for each in rules for one in each(self.world)]
        assert not found, "\n".join(found)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.settle()
            self.judge(FINALLY)
        finally:
            self.world.__exit__()

    def settle(self) -> None:
        """Let all faults end, and wait until nothing happens any more."""
        world = self.world
        world.store.sim_bells.lost = False
        for worker in world.alive:
            worker.go_on()
        world.cut("store", 0)
        world.cut("archive", 0)
        if not world.open:
            world.start()
        world.run(1)
        for user in USERS:  # they come back: nobody else looks after a stop that its worker has lost
            world.ask(world.open[-1], user, Cancel(session_id="none"))
        world.run(0.5)
        if not world.until(self.quiet, 60):  # an end that the record has missed is the next owner's to record
            before = world.open
            world.start()
            world.run(1)
            for worker in before:
                worker.draining.set()
            world.until(self.quiet, 60)
        world.run(3)

    def quiet(self) -> bool:
        """Tell whether everything has ended."""
        world = self.world
        rows = world.archive.commands.values() if world.archive else ()
        return not any(waiting(world, user) for user in USERS) and all(row.outcome for row in rows)


PROFILE = settings(
    derandomize=not FUZZ,  # what a landing must pass does not depend on luck; `make fuzz` looks further
    max_examples=FUZZ or (120 if CI else 60),
    stateful_step_count=60 if CI or FUZZ else 30,
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)

TestWorkers = pytest.mark.timeout(0 if FUZZ else 900)(Workers.TestCase)
TestWorkers.settings = PROFILE


class WorkersWithoutArchive(Workers):
    """The store is all there is, and loses nothing but heartbeats and bells."""

    archive = False


TestWorkersWithoutArchive = pytest.mark.timeout(0 if FUZZ else 900)(WorkersWithoutArchive.TestCase)
TestWorkersWithoutArchive.settings = PROFILE


class Unfenced(Workers):
    """Its stores take what any epoch writes."""

    fencing = False


def test_without_fences_the_machine_finds_a_violation() -> None:
    profile = settings(PROFILE, max_examples=300, phases=(Phase.generate,), derandomize=True)
    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(Unfenced, settings=profile)


def test_without_fences_one_pause_is_a_violation() -> None:
    """An owner that was stopped while it spoke goes on beside the next one; with fences it does not."""
    assert list(paused(fencing=True)) == []
    assert any("rising" in found for found in paused(fencing=False))


def paused(*, fencing: bool) -> list[str]:
    """Return what does not hold when an owner is stopped in the middle of its words, and goes on."""
    with World(fencing=fencing) as world:
        owner, other = serving(world)
        world.ask(other, "ann", Send(id="m", run="r", session_id="s", text="9 once 9"))
        world.run(0.2)
        owner.stop()
        world.run(12)
        owner.go_on()
        world.run(12)
        assert len({each.worker for each in world.journal.logged["ann"]}) == 2
        return [f"{each.__name__}: {one}" for each in ALWAYS for one in each(world)]


# Faults that the machine has found, each in its smallest form


def serving(world: World) -> tuple[Process, Process]:
    """Start a worker that serves ann, and one that serves nobody."""
    owner = world.start()
    world.run(0.1)
    world.do(owner.dispatch.outcome("ann", world.connect("ann")))
    other = world.start()
    world.run(0.1)
    return owner, other


def accept(world: World, worker: Process, command: Any) -> Asked:
    """Send a command and wait until it is accepted."""
    asked = world.ask(worker, "ann", command)
    assert world.until(lambda: asked.accepted is not None, 5)
    return asked


def ends(world: World, command_id: str) -> list[str]:
    """Return the types of a command's ends in the log."""
    return [e.event.type for e in log_of(world, "ann") if e.command_id == command_id and is_final(e.event)]


def behind_the_end(world: World, command_id: str) -> list[Entry]:
    """Return what a command has said behind its first end."""
    said = [entry for entry in log_of(world, "ann") if entry.command_id == command_id]
    first = next((n for n, entry in enumerate(said) if is_final(entry.event)), len(said))
    return said[first + 1 :]


def test_what_has_ended_is_not_carried_out_again_when_the_store_has_lost_it() -> None:
    """FLUSHALL between a turn's end and the moment at which its follower would have heard of it."""
    with World() as world:
        _, other = serving(world)
        accept(world, other, Send(id="m", run="r", session_id="s", text="3"))
        other.stop()
        assert world.until(lambda: bool(ends(world, "m")))
        world.run(1)
        world.store.flush()
        other.go_on()
        world.ask(other, "ann", Send(id="n", run="r2", session_id="s", text="3"))
        world.run(20)
        assert behind_the_end(world, "m") == []


def test_a_disconnect_is_the_end_of_what_waits_for_a_connect() -> None:
    with World() as world:
        owner, _ = serving(world)
        accept(world, owner, world.connect("ann"))
        accept(world, owner, world.connect("ann"))
        left = accept(world, owner, Disconnect())
        world.run(10)
        assert isinstance(left.final, Disconnected)
        assert world.archive
        assert world.archive.configs == {}


def test_an_end_that_was_recorded_is_told_by_the_next_owner() -> None:
    """The owner dies between recording a connect's end and telling it."""
    with World() as world:
        owner, other = serving(world)
        owner.trap = lambda name, args: name == "end"
        asked = world.ask(other, "ann", world.connect("ann"))
        world.run(30)
        assert owner.dead
        assert isinstance(asked.final, Connected)


def test_the_text_of_an_end_that_was_recorded_is_told_by_the_next_owner() -> None:
    """The owner dies between recording a turn's end and telling it; so do its last words."""
    with World() as world:
        owner, other = serving(world)
        owner.trap = lambda name, args: name == "add" and args[0].ends is not None
        asked = world.ask(other, "ann", Send(id="m", run="r", session_id="s", text="3"))
        world.run(30)
        assert owner.dead
        assert isinstance(asked.final, TurnFinished)
        told = [e.event.message.content for e in log_of(world, "ann") if isinstance(e.event, MessageAdded)]
        assert told[-1] == history(world, "ann", "s")[-1].content == heard(asked.seen)


def test_a_disconnect_does_not_end_a_connect_that_has_ended() -> None:
    for delay in range(0, 160, 2):
        with World(seed=delay) as world:
            owner, _ = serving(world)
            connect = world.connect("ann")
            world.ask(owner, "ann", connect)
            world.run(delay / 1000)
            world.ask(owner, "ann", Disconnect())
            world.run(3)
            assert len(ends(world, connect.id)) == 1, delay


def test_a_turn_that_has_ended_is_not_told_anew_when_the_lease_is_lost() -> None:
    for delay in range(100, 240, 2):
        with World(seed=delay) as world:
            owner, _ = serving(world)
            world.ask(owner, "ann", Send(id="m", run="r", session_id="s", text="3"))
            world.run(delay / 1000)
            world.store.sim_leases.drop_lease("ann")
            world.run(10)
            assert ends(world, "m") == ["turn_finished"], delay
            assert behind_the_end(world, "m") == [], delay


def test_a_question_is_told_although_its_turn_is_stopped() -> None:
    for delay in range(0, 60, 1):
        with World(seed=delay) as world:
            owner, _ = serving(world)
            world.ask(owner, "ann", Send(id="m", run="r", session_id="s", text="3"))
            world.run(delay / 1000)
            world.ask(owner, "ann", Cancel(session_id="s"))
            world.run(3)
            told = {e.event.message.id for e in log_of(world, "ann") if isinstance(e.event, MessageAdded)}
            assert {message.id for message in history(world, "ann", "s")} <= told, delay


def test_who_brings_a_command_too_late_hears_its_end() -> None:
    """A worker is stopped between record and inbox; meanwhile the owner finds the command in the record."""
    with World() as world:
        _, other = serving(world)

        def stop(name: str, args: tuple[Any, ...]) -> bool:
            if name == "accept":
                other.stop()
            return False

        other.trap = stop
        asked = world.ask(other, "ann", Send(id="m", run="r", session_id="s", text="3"))
        assert world.until(lambda: bool(ends(world, "m")), 30)
        other.trap = lambda name, args: False
        other.go_on()
        world.run(30)
        assert isinstance(asked.final, TurnFinished)
        assert ends(world, "m") == ["turn_finished"]


def stops_after(worker: Process, call: str) -> None:
    """Stop a worker when it has made a call of the record or the store."""

    def stop(name: str, args: tuple[Any, ...]) -> bool:
        if name == call:
            worker.trap = lambda name, args: False
            worker.stop()
        return False

    worker.trap = stop


def loses_the_store(world: World, worker: Process, command_id: str) -> None:
    """Cut the store off for a moment when a command is in the record, and not yet in the inbox."""

    def lose(name: str, args: tuple[Any, ...]) -> bool:
        if name == "accept" and args[1].id == command_id:
            worker.trap = lambda name, args: False
            world.cut("store", 0.1)
        return False

    worker.trap = lose


def test_an_epoch_is_not_claimed_when_the_store_has_forgotten_a_later_one() -> None:
    with World() as world:
        owner, other = serving(world)
        world.store.sim_leases.drop_lease("ann")
        stops_after(other, "next_epoch")
        world.ask(other, "ann", Cancel(session_id="s"))
        assert world.until(lambda: other.stopped, 1)
        world.store.flush()
        world.ask(owner, "ann", world.connect("ann"))
        world.run(1)
        world.store.flush()
        other.go_on()
        world.run(20)
        assert list(rising(world)) == []


def test_a_message_that_was_brought_again_is_not_withdrawn_by_the_one_who_is_refused() -> None:
    with World() as world:
        owner, other = serving(world)
        third = world.start()
        world.run(0.1)
        send = Send(id="m", run="r", session_id="s", text="3")
        stops_after(other, "accept")
        refused = world.ask(other, "ann", send)
        assert world.until(lambda: other.stopped, 1)
        owner.stop()
        again = accept(world, third, send)
        world.cut("store", 1)
        other.go_on()
        assert world.until(lambda: bool(refused.error), 10)
        owner.go_on()
        world.run(30)
        assert isinstance(again.final, TurnFinished)
        assert list(in_history(world)) == []


def test_what_the_record_has_is_carried_out_although_the_inbox_could_not_take_it() -> None:
    with World() as world:
        _, other = serving(world)
        world.cut("store", 2)
        refused = world.ask(other, "ann", Send(id="m", run="r", session_id="s", text="3"))
        world.run(30)
        assert refused.error or isinstance(refused.final, TurnFinished)
        again = accept(world, other, Send(id="m", run="another", session_id="s", text="3"))
        world.run(1)
        assert isinstance(again.final, TurnFinished)
        assert [message.id for message in history(world, "ann", "s")] == ["r-q", "r-a0"]


def test_a_turn_that_has_begun_is_brought_to_its_end_before_one_that_was_accepted_earlier() -> None:
    with World() as world:
        owner, other = serving(world)
        third = world.start()
        world.run(0.1)
        stops_after(other, "accept")
        world.ask(other, "ann", Send(id="early", run="r1", session_id="s", text="3"))
        assert world.until(lambda: other.stopped, 1)
        accept(world, third, Send(id="begun", run="r2", session_id="s", text="9"))
        assert world.until(lambda: any(isinstance(e.event, TextDelta) for e in log_of(world, "ann")), 5)

        def check(name: str, args: tuple[Any, ...]) -> bool:
            if name == "open_commands":  # as somebody does who finds the user neglected meanwhile
                third.trap = lambda name, args: False
                for actor in third.ownership._actors.values():
                    actor.check()
            return False

        third.trap = check
        owner.kill()
        world.run(30)
        assert [message.id for message in history(world, "ann", "s")] == ["r2-q", "r2-a0", "r1-q", "r1-a0"]


def test_a_message_is_in_the_history_although_it_could_not_be_written_at_first() -> None:
    with World() as world:
        owner, other = serving(world)

        def cut(name: str, args: tuple[Any, ...]) -> bool:
            if name == "log.append" and isinstance(args[2][0].event, TurnStarted):
                world.cut("archive", 4)
            return False

        owner.trap = cut
        world.ask(other, "ann", Send(id="m", run="r", session_id="s", text="3"))
        world.run(20)
        assert [message.id for message in history(world, "ann", "s")] == ["r-q"]


def test_a_log_that_is_lost_while_a_turn_is_taken_up_again_is_told_from_its_beginning() -> None:
    with World() as world:
        owner, other = serving(world)
        asked = world.ask(other, "ann", Send(id="m", run="r", session_id="s", text="3 safe 9"))
        assert world.until(lambda: heard(asked.seen).startswith("w00 w01 w02 \n\nw"), 5)

        def lose(name: str, args: tuple[Any, ...]) -> bool:
            if name == "retry":  # it has read the log, and begins
                world.store.flush()
            return False

        other.trap = lose
        owner.kill()
        world.run(30)
        assert isinstance(asked.final, TurnFinished)
        said = [message.content for message in history(world, "ann", "s") if message.role == "assistant"]
        assert heard(asked.seen) == "\n\n".join(said)


def test_a_disconnect_ends_what_only_the_record_has() -> None:
    """A message was recorded, and the store did not answer: it is not to begin behind the disconnect."""
    with World() as world:
        _, other = serving(world)
        loses_the_store(world, other, "m")
        refused = world.ask(other, "ann", Send(id="m", run="r", session_id="s", text="3"))
        assert world.until(lambda: bool(refused.error), 1)
        world.run(0.2)
        left = accept(world, other, Disconnect())
        assert world.until(lambda: left.final is not None, 5)
        end = world.journal.logged["ann"][-1].tick
        world.run(20)
        assert [each.entry for each in world.journal.logged["ann"] if each.tick > end] == []
        assert world.archive
        assert all(row.outcome for row in world.archive.commands.values())


def test_a_connect_that_was_refused_is_not_carried_out_behind_a_later_one() -> None:
    with World() as world:
        owner, other = serving(world)
        first, second = world.connect("ann"), world.connect("ann")
        loses_the_store(world, other, first.id)
        refused = world.ask(other, "ann", first)
        assert world.until(lambda: bool(refused.error), 1)
        world.run(0.2)
        assert isinstance(world.do(owner.dispatch.outcome("ann", second)), Connected)
        world.run(20)
        assert ends(world, first.id) == []


def test_a_stop_is_carried_out_although_the_record_cannot_be_asked_what_is_missing() -> None:
    with World() as world:
        owner, other = serving(world)
        asked = world.ask(other, "ann", Send(id="m", run="r", session_id="s", text="9 once 9"))
        assert world.until(lambda: heard(asked.seen) != "", 5)
        world.cut("archive", 9)
        for actor in owner.ownership._actors.values():
            actor.check()
        stop = world.ask(other, "ann", Cancel(session_id="s"))
        assert world.until(lambda: stop.final is not None, 5)


def test_a_message_that_the_record_has_is_taken_whatever_the_inbox_has_no_room_for() -> None:
    with World() as world:
        owner, other = serving(world)
        loses_the_store(world, other, "m")
        send = Send(id="m", run="r", session_id="s", text="3")
        refused = world.ask(other, "ann", send)
        assert world.until(lambda: bool(refused.error), 1)
        world.run(0.2)
        owner.stop()
        for n in range(17):
            accept(world, other, Send(id=f"n{n}", run=f"n{n}", session_id="t", text="1"))
        again = accept(world, other, send)
        owner.go_on()
        assert world.until(lambda: isinstance(again.final, TurnFinished), 60)


def test_readers_have_what_was_recorded_and_not_told_although_the_turn_is_stopped_at_once() -> None:
    with World() as world:
        owner, other = serving(world)
        asked = world.ask(other, "ann", Send(id="m", run="r", session_id="s", text="3 once 3"))
        owner.trap = lambda name, args: name == "add" and args[0].messages[0].id == "r-a0"
        assert world.until(lambda: owner.dead, 5)
        world.ask(other, "ann", Cancel(session_id="s"))
        assert world.until(lambda: asked.final is not None, 30)
        assert outcome(asked.final) == ("turn_finished", "", True)
        assert heard(asked.seen) == "w00 w01 w02 "


def test_a_turn_of_a_dead_worker_waits_for_a_place_where_a_new_one_is_refused() -> None:
    with World(turns=1) as world:
        owner, other = serving(world)
        for user in ("bob", "cas"):
            world.do(other.dispatch.outcome(user, world.connect(user)))
        bobs = world.ask(other, "bob", Send(id="b", run="rb", session_id="s", text="400"))
        anns = world.ask(other, "ann", Send(id="m", run="r", session_id="s", text="9 once 9"))
        assert world.until(lambda: bool(heard(anns.seen) and heard(bobs.seen)), 5)
        owner.kill()
        assert world.until(lambda: "ann" in other.ownership._actors, 30)
        world.run(1)
        assert (anns.final, bobs.final) == (None, None)
        refused = world.ask(other, "cas", Send(id="n", run="rn", session_id="t", text="1"))
        assert world.until(lambda: bool(refused.error), 5)
        assert refused.accepted is None
        assert world.until(lambda: anns.final is not None, 120)
        assert (outcome(anns.final)[0], outcome(bobs.final)[0]) == ("turn_finished", "turn_finished")
        logged = [(each.entry.command_id, each.worker) for each in world.journal.logged["ann"]]
        assert ("m", other.name) in logged


def test_a_message_for_a_worker_without_a_place_is_refused_wherever_it_is_sent() -> None:
    with World(turns=1) as world:
        owner, other = serving(world)
        world.do(owner.dispatch.outcome("bob", world.connect("bob")))
        anns = world.ask(owner, "ann", Send(id="m", run="r", session_id="s", text="100"))
        assert world.until(lambda: heard(anns.seen) != "", 5)
        world.run(1.5)  # a heartbeat
        for n, worker in enumerate((owner, other)):
            refused = world.ask(worker, "bob", Send(id=f"n{n}", run=f"n{n}", session_id="t", text="1"))
            assert world.until(lambda: bool(refused.error), 5)  # noqa: B023 - used at once
            assert refused.accepted is None
        assert world.until(lambda: anns.final is not None, 30)
        world.run(1.5)
        later = world.ask(other, "bob", Send(id="n1", run="n1", session_id="t", text="1"))
        assert world.until(lambda: isinstance(later.final, TurnFinished), 30)
