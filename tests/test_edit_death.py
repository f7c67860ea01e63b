"""Edits that are begun by one worker and ended by another: owners die at every point, and it is one edit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from mcp_chat.branch import Tree
from mcp_chat.commands import Send, SwitchBranch
from mcp_chat.events import Branched, BranchSwitched, Failed, TurnFinished, TurnStarted
from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import running, wait_until
from tests.simulation import Asked, World
from tests.test_recovery import Point, logged, written

# In a simulation: at every point


@pytest.fixture(params=[True, False], ids=["archive", "memory"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with World(archive=request.param) as world:
        yield world


def cut(name: str, args: tuple[Any, ...]) -> bool:
    """The owner dies when the cut is made, before it can say so."""
    return name in ("cut", "window.cut")


def never(name: str, args: tuple[Any, ...]) -> bool:
    """The owner does not die."""
    return False


POINTS = {
    "started": logged(TurnStarted),
    "cut": cut,
    "cut is told": logged(Branched),
    "question": written("user"),
    "answer": written("assistant"),
    "nobody": never,
}


def tree(world: World) -> Tree:
    return world.archive.tree("ann", "s") if world.archive else world.store.window._tree("ann", "s")


def line(world: World) -> list[str]:
    return [message.id for message in tree(world).line]


def sides(world: World) -> list[list[str]]:
    return [[message.id for message in side.messages] for side in tree(world).sides]


def said(world: World, ids: str, **fields: Any) -> Asked:
    """Send something through a worker that lives, and wait for its end."""
    door = next(iter(world.alive), None) or world.start()
    world.run(0.1)
    asked = world.ask(door, "ann", Send(id=ids, run=ids, session_id="s", text="1", **fields))
    world.until(lambda: asked.final is not None or bool(asked.error), 60)
    return asked


@pytest.mark.parametrize("second", [cut, written("user"), never], ids=["cut", "question", "nobody"])
@pytest.mark.parametrize("first", POINTS.values(), ids=POINTS)
def test_an_edit_whose_owners_die_is_one_cut_and_one_message(
    world: World, first: Point, second: Point
) -> None:
    owner = world.start()
    world.run(0.1)
    world.do(owner.dispatch.outcome("ann", world.connect("ann")))
    for ids in ("a", "b"):
        said(world, ids)
    heir, door = world.start(), world.start()
    world.run(0.1)
    owner.trap, heir.trap = first, second
    asked = world.ask(door, "ann", Send(id="c", run="c", session_id="s", text="1", replaces="b-q"))
    world.until(lambda: asked.final is not None or bool(asked.error), 90)
    assert not world.journal.crashes
    assert line(world)[:3] == ["a-q", "a-a0", "c-q"]
    assert len([id_ for id_ in line(world) if id_.startswith("c-q")]) == 1
    assert sides(world) == [["b-q", "b-a0"]]
    assert isinstance(asked.final, TurnFinished | Failed)
    if never in (first, second):
        assert line(world) == ["a-q", "a-a0", "c-q", "c-a0"]


@pytest.mark.parametrize("dies", ["cut", "switch", "nobody"])
def test_a_switch_whose_owner_dies_is_made_once(world: World, dies: str) -> None:
    owner = world.start()
    world.run(0.1)
    world.do(owner.dispatch.outcome("ann", world.connect("ann")))
    for ids in ("a", "b"):
        said(world, ids)
    said(world, "c", replaces="b-q")
    door = world.start()
    world.run(0.1)
    owner.trap = lambda name, args: name.rpartition(".")[2] == dies
    asked = world.ask(door, "ann", SwitchBranch(id="w", session_id="s", message_id="b-q"))
    world.until(lambda: asked.final is not None or bool(asked.error), 60)
    assert not world.journal.crashes
    assert line(world) == ["a-q", "a-a0", "b-q", "b-a0"]
    assert sides(world) == [["c-q", "c-a0"]]
    assert isinstance(asked.final, BranchSwitched)


# As it is run


@pytest.fixture(scope="module")
def model() -> ModelServer:
    """The model of all tests here."""
    return ModelServer()


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory, model: ModelServer) -> Iterator[Installation]:
    """Two workers."""
    with running(model.app) as url, Installation(tmp_path_factory.mktemp("edit"), f"{url}/v1") as chat:
        yield chat


@pytest.fixture
def owner(chat: Installation) -> psutil.Process:
    """The worker that owns the user."""
    return chat.workers()[0]


@pytest.fixture
def people(chat: Installation, owner: psutil.Process, name: str) -> Iterator[list[Person]]:
    """The user in front of the owner, and in front of the other worker."""
    other = chat.workers()[1]
    with chat.person(name, owner) as here, chat.person(name, other) as there:
        here.connect()
        yield [here, there]
    wait_until(lambda: len(chat.workers()) == 2, "two workers")


def told(person: Person) -> list[str]:
    return [message["content"] for message in person.history()]


def first_of(person: Person, text: str) -> str:
    return next(str(each["id"]) for each in person.history() if each["content"] == text)


def forks(person: Person) -> list[list[str]]:
    session = person.get("config/{me}").json()["session_id"]
    found = person.get(f"sessions/{session}/branches").json()["forks"]
    return [[branch["words"] for branch in fork["branches"]] for fork in found]


def test_what_is_edited_at_one_worker_is_read_and_switched_at_the_other(
    people: list[Person], model: ModelServer
) -> None:
    here, there = people
    model.will(*(Reply(text=text) for text in ("one", "two", "three", "four")))
    here.say("first")
    here.say("second")
    there.say("2b", edit=first_of(there, "second"))
    assert told(here) == told(there) == ["first", "one", "2b", "three"]
    session = here.get("config/{me}").json()["session_id"]
    with here.following() as events:
        old = there.get(f"sessions/{session}/branches").json()["forks"][0]["branches"][0]["id"]
        assert there.post(f"sessions/{session}/branches/{old}").status_code == 200
        assert next(event for event in events if event.name == "branch").data["session_id"] == session
    assert told(here) == told(there) == ["first", "one", "second", "two"]
    here.say("third")
    seen = [message["content"] for message in model.requests[-1]["messages"]]
    assert seen == ["first", "one", "second", "two", "third"], "the window has what is shown"


def test_an_edit_whose_owner_is_killed_is_one_cut_and_one_message(
    chat: Installation, owner: psutil.Process, people: list[Person], model: ModelServer
) -> None:
    here, there = people
    model.will(
        Reply(text="one"), Reply(text="two"), Reply(text="three four", hang_after=1), Reply(text="five")
    )
    here.say("first")
    here.say("second")
    model.will(Reply(text="three four", hang_after=2), Reply(text="five"))
    with there.streaming("2b", edit=first_of(there, "second")) as frames:
        assert next(frames)[0] == "token"
        assert owner in chat.talking_to_the_model()
        owner.kill()
        assert list(frames)[-1][0] == "final"
    assert told(there) == ["first", "one", "2b", "five"]
    assert forks(there) == [["second", "2b"]]
    seen = [message["content"] for message in model.requests[-1]["messages"]]
    assert seen == ["first", "one", "2b"]
