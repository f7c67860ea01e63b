"""Users' configurations between two writers, at a store that fails half-way, and under a key that is lost."""

from __future__ import annotations

import base64
import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from mcp_chat.agents import Agents
from mcp_chat.app import create_app
from mcp_chat.commands import Connect
from mcp_chat.config import ModelConfig, UserConfig
from mcp_chat.configs import UserConfigs
from mcp_chat.equipment import Equipment, Ready
from mcp_chat.events import Failed
from mcp_chat.exceptions import NotConnected, StoreUnavailable
from mcp_chat.settings import Settings
from mcp_chat.stores.base import Archive, Lease
from mcp_chat.stores.database import migrate
from mcp_chat.stores.memory import MemoryConfigs, MemoryLeases
from mcp_chat.stores.sql import open_sql
from mcp_chat.toolbox import Toolbox
from mcp_chat.trail import Trail
from mcp_chat.workshop import Workshop
from tests.person import Person
from tests.running import running
from tests.simulation import VAULT, World

LEASE = Lease(user="ann", worker="w", epoch=1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Copies(MemoryConfigs):
    """The store's copies, on a wire that can be held up and cut.

    Attributes:
        hold: Whether the next copy that is written takes its time, and arrives in any case.
        reached: Set when it is on its way.
        go_on: Set to let it arrive.
        cut: Whether nothing can be deleted.
    """

    def __init__(self) -> None:
        super().__init__(MemoryLeases(lambda: 0.0))
        self.hold = self.cut = False
        self.reached = anyio.Event()
        self.go_on = anyio.Event()

    async def put(self, user: str, sealed: str, *, epoch: int) -> None:
        if self.hold:
            self.hold = False
            self.reached.set()
            with anyio.CancelScope(shield=True):
                await self.go_on.wait()
        await super().put(user, sealed, epoch=epoch)

    async def delete(self, user: str, *, epoch: int) -> None:
        if self.cut:
            raise StoreUnavailable
        await super().delete(user, epoch=epoch)


def config(model: str) -> UserConfig:
    return UserConfig(servers=(), model=ModelConfig(provider="openai", model=model))


@asynccontextmanager
async def opened(tmp_path: Path) -> AsyncIterator[tuple[Copies, Archive, UserConfigs]]:
    """Open a record and copies."""
    url = f"sqlite:///{tmp_path}/chat.db"
    migrate(url)
    copies = Copies()
    async with open_sql(url) as archive:
        yield copies, archive, UserConfigs(copies, archive, VAULT)


def shop_of(configs: UserConfigs) -> Workshop:
    """Return what equipment is made with, as far as it stores anything."""
    signed_in = SimpleNamespace(forget=forget_none)
    return cast(Workshop, SimpleNamespace(configs=configs, sign_ins=signed_in, session_ttl=60))


def equipped(configs: UserConfigs, tasks: Any) -> Equipment:
    """Return what a user's turns work with, as far as it stores anything."""
    return Equipment(
        LEASE, shop_of(configs), tasks, Trail(user="ann", worker="w", archive=None), lambda event: None
    )


async def forget_none(_user: str) -> None:
    """Nobody has signed in."""


async def a_turn(equipment: Equipment) -> None:
    """Begin a turn; what it is to open is not there."""
    with contextlib.suppress(NotConnected, AttributeError):
        await equipment.prepare()


async def until_current(configs: UserConfigs, model: str) -> None:
    while await current(configs) != model:  # noqa: ASYNC110 - a database has no event for it
        await anyio.sleep(0.01)


async def current(configs: UserConfigs) -> str:
    found = await configs.get("ann")
    return found.model.model if found else ""


@pytest.mark.anyio
@pytest.mark.parametrize("new", ["new", ""])
async def test_a_copy_that_comes_back_does_not_replace_what_was_stored_meanwhile(
    tmp_path: Path, new: str
) -> None:
    """A turn looks for its configuration while the user connects to something else, or disconnects."""
    async with opened(tmp_path) as (copies, _, configs), anyio.create_task_group() as tasks:
        await configs.put("ann", config("old"), epoch=1)
        await copies.delete("ann", epoch=1)  # it has expired
        equipment = equipped(configs, tasks)
        toolbox = Toolbox({})
        ready = Ready({}, toolbox, Agents(shop_of(configs), "ann", config("old").model, toolbox))
        await equipment.change(config("old"), ready)
        copies.hold = True
        tasks.start_soon(a_turn, equipment)
        await copies.reached.wait()
        tasks.start_soon(equipment.store, config(new)) if new else tasks.start_soon(equipment.forget)
        with anyio.move_on_after(0.3):  # what would overtake the copy has done so by then
            await until_current(configs, new)
        copies.go_on.set()
        with anyio.fail_after(5):
            await until_current(configs, new)
            await anyio.wait_all_tasks_blocked()
        assert await current(configs) == new


@pytest.mark.anyio
async def test_what_cannot_be_deleted_whole_is_still_there_as_before(tmp_path: Path) -> None:
    async with opened(tmp_path) as (copies, archive, configs):
        await configs.put("ann", config("old"), epoch=1)
        copies.cut = True
        with pytest.raises(StoreUnavailable):
            await configs.forget("ann", epoch=1)
        assert await archive.get("ann")  # else the copy alone would go on being used
        copies.cut = False
        await configs.forget("ann", epoch=1)
        assert not await configs.stored("ann")


def test_a_connect_that_cannot_be_read_is_no_bug_and_is_not_quoted() -> None:
    with World() as world:
        worker = world.start()
        world.run(0.1)
        sealed = VAULT.seal('{"model": "CANARY"}', user="ann", field="connect")
        outcome = world.do(worker.dispatch.outcome("ann", Connect(sealed=sealed)))
        assert isinstance(outcome, Failed)
        assert outcome.code == "not_connected"


@pytest.mark.parametrize("keep", [True, False])
def test_a_configuration_that_nobody_can_open_is_deleted_by_a_disconnect(
    settings: Callable[..., Settings], tmp_path: Path, name: str, keep: bool
) -> None:
    def stored() -> list[Any]:
        with sqlite3.connect(tmp_path / "chat.db") as connection:
            return [row[0] for row in connection.execute("SELECT config FROM chat_user") if row[0]]

    with running(create_app(settings())) as url, Person(url, name) as person:
        person.connect()
    assert len(stored()) == 1
    other = base64.b64encode(os.urandom(32)).decode()
    lost = create_app(settings(encryption_key=other, keep_history=keep))
    with running(lost) as url, Person(url, name) as person:
        assert person.get("status/{me}").json()["connected"] is False
        assert person.post("disconnect").json()["status"] == "disconnected"
        assert stored() == []
        assert person.post("disconnect").json()["status"] == "no_active_session"
        person.connect()
        assert person.say("hello")["response"]
