"""Tokens of MCP servers: sent to their server alone, renewed once for all workers, ended at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcp_chat.config import OAuthClient, ServerConfig
from mcp_chat.connections import Connection
from mcp_chat.dialer import Dialer
from mcp_chat.exceptions import SignInFailed, SignInNeeded
from mcp_chat.limits import ServerLimits
from mcp_chat.netguard import Lookups, Policy, guarded_client2
from mcp_chat.oauth.bearer import FRESH, Bearer, sign_ins_told
from mcp_chat.oauth.dial import Unreached
from mcp_chat.oauth.kept import FLOW_SECONDS
from mcp_chat.oauth.sign_ins import SignIns
from mcp_chat.papers import Papers
from mcp_chat.stores.memory import MemoryStore
from mcp_chat.vault import Vault
from tests.authorization_server import ProtectedMCP, agreed, guarded_server
from tests.running import running

pytestmark = pytest.mark.anyio

POLICY = Policy(allowed_networks=(ip_network("127.0.0.0/8"),))
VAULT = Vault([bytes(range(32))])
CALLBACK = "http://127.0.0.1:9/llmchat/oauth/callback"


@pytest.fixture
def anyio_backend() -> str:
    """What the chat runs on."""
    return "asyncio"


class Clock:
    """Seconds that a test lets pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class World:
    """Workers that share what is kept, and a user who signs in."""

    def __init__(self, far: ProtectedMCP) -> None:
        self.far = far
        self.by = far.by
        self.clock = Clock()
        self._documents = MemoryStore(clock=self.clock).documents
        self.server = ServerConfig(alias="far", url=far.url)

    def sign_ins(self, policy: Policy = POLICY) -> SignIns:
        """One worker's."""
        papers = Papers(self._documents, VAULT)
        return SignIns(papers, policy, Lookups(), redirect_uri=CALLBACK, client_url=None, timeout=30)

    def bearer(self, server: ServerConfig | None = None) -> Bearer:
        """What one worker's connection has."""
        bearer = self.sign_ins().auth("ann", server or self.server)
        assert bearer
        return bearer

    async def signed_in(self, server: ServerConfig | None = None) -> Bearer:
        """Sign in; return what a connection has then."""
        bearer = self.bearer(server)
        await self.agree(await wanted(bearer, self.far.url))
        return bearer

    async def agree(self, url: str) -> None:
        """Let the user agree there, and come back."""
        given = await anyio.to_thread.run_sync(agreed, url)
        error = given.get("error", "")
        await self.sign_ins().finish(
            "ann", given["state"], given.get("code", ""), given.get("iss"), error=error
        )


@pytest.fixture
def world() -> Iterator[World]:
    """A server, its authorization server, and us."""
    with guarded_server() as (_, far):
        yield World(far)


async def asked(bearer: Bearer, url: str, tool: str = "", **more: Any) -> httpx2.Response:
    """Send a request with what a connection has; the server's door looks at it, and at no more."""
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool}}
    async with guarded_client2(POLICY, timeout=30, auth=bearer) as http:
        return await http.post(url, json=call, **more)


async def wanted(bearer: Bearer, url: str, tool: str = "") -> str:
    """Where the user is sent."""
    with pytest.raises(SignInNeeded) as needed:
        await asked(bearer, url, tool)
    return needed.value.url


def scopes(url: str) -> set[str]:
    """What is asked for at an address."""
    return set(parse_qs(urlsplit(url).query)["scope"][0].split())


@asynccontextmanager
async def connected(world: World, bearer: Bearer) -> AsyncIterator[Connection]:
    """Hold a connection of the real kind open."""
    limits = ServerLimits()
    dialer = Dialer(POLICY, timeout=30, silence=30, limits=limits)
    connection = Connection(world.server, dialer, connect_timeout=30, tool_timeout=30, limits=limits)
    connection.auth = bearer
    async with anyio.create_task_group() as tasks:
        await tasks.start(connection.run)
        try:
            yield connection
        finally:
            await connection.close()


# Renewing


async def test_two_workers_that_find_a_token_old_renew_it_once(world: World) -> None:
    world.by.life = 0
    await world.signed_in()
    world.by.life, world.by.pause = 3600, 0.2
    workers = [world.bearer() for _ in range(4)]
    async with anyio.create_task_group() as tasks:
        for worker in workers * 2:
            tasks.start_soon(asked, worker, world.far.url)
    assert [form["grant_type"] for form in world.by.requests("/token")] == [
        "authorization_code",
        "refresh_token",
    ]
    old, new = world.by.tokens
    assert world.far.headers[1:] == [new] * 8
    assert old not in world.far.headers


async def test_a_token_that_is_refused_is_renewed_once_and_each_newer_one_after_it(world: World) -> None:
    bearer = await world.signed_in()
    for _ in range(3):
        world.by.tokens.clear()
        async with anyio.create_task_group() as tasks:
            for worker in (bearer, bearer, world.bearer()):
                tasks.start_soon(asked, worker, world.far.url)
        assert (await asked(bearer, world.far.url)).status_code != 401
    assert len(world.by.requests("/token")) == 4
    assert len(world.by.refreshers) == 1, "each refresh token was used once"


async def test_a_refused_renewal_means_a_new_sign_in(world: World) -> None:
    bearer = await world.signed_in()
    world.by.revoke_all()
    assert scopes(await wanted(bearer, world.far.url)) == {"read"}
    await world.agree(await wanted(bearer, world.far.url))
    assert (await asked(bearer, world.far.url)).status_code != 401


async def test_an_authorization_server_that_is_out_of_order_costs_nobody_their_sign_in(world: World) -> None:
    bearer = await world.signed_in()
    world.by.tokens.clear()
    world.by.token_status = 503
    with pytest.raises(Unreached):
        await asked(bearer, world.far.url)
    world.by.token_status = 200
    assert (await asked(bearer, world.far.url)).status_code != 401


async def test_a_renewed_token_is_kept_though_nobody_waits_for_it_any_more(world: World) -> None:
    bearer = await world.signed_in()
    world.by.tokens.clear()
    world.by.pause = 0.3
    with anyio.move_on_after(0.15):
        await asked(bearer, world.far.url)
    world.by.pause = 0
    assert (await asked(world.bearer(), world.far.url)).status_code != 401
    assert len(world.by.requests("/token")) == 2


# Ending


async def test_who_has_signed_out_is_out_at_each_worker(world: World) -> None:
    await world.signed_in()
    workers = [world.bearer() for _ in range(2)]
    for worker in workers:
        assert (await asked(worker, world.far.url)).status_code != 401
    world.by.metadata = {"revocation_endpoint": None}
    assert await world.sign_ins().forget("ann", "far")
    await anyio.sleep(FRESH)
    world.far.headers.clear()
    for worker in workers:
        await wanted(worker, world.far.url)
    assert set(world.far.headers) == {""}


async def test_a_renewal_does_not_bring_back_what_was_forgotten_meanwhile(world: World) -> None:
    bearer = await world.signed_in()
    world.by.tokens.clear()
    world.by.pause = 20
    world.far.headers.clear()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wanted, bearer, world.far.url)
        with anyio.fail_after(15):
            while len(world.by.requests("/token")) < 2:  # noqa: ASYNC110 - another thread is asked
                await anyio.sleep(0.01)
        await world.sign_ins().forget("ann", "far")
        world.by.pause = 0
    await wanted(world.bearer(), world.far.url)
    assert len([token for token in world.far.headers if token]) == 1, "the old one only"


async def test_who_signs_out_while_a_sign_in_ends_is_out(world: World) -> None:
    bearer = world.bearer()
    page = await wanted(bearer, world.far.url)
    world.by.pause = 20
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(refused, world, page)
        with anyio.fail_after(15):
            while not world.by.requests("/token"):  # noqa: ASYNC110 - another thread is asked
                await anyio.sleep(0.01)
        await world.sign_ins().forget("ann", "far")
        world.by.pause = 0
    assert (world.by.tokens, world.by.refreshers) == ({}, {})
    assert urlsplit(await wanted(world.bearer(), world.far.url)).query != urlsplit(page).query


async def refused(world: World, page: str) -> None:
    """Come back from a sign-in that is of no use any more."""
    with pytest.raises(SignInFailed, match="signed out of the server far meanwhile"):
        await world.agree(page)


async def test_all_is_forgotten_at_once_and_others_keep_theirs(world: World) -> None:
    await world.signed_in()
    await world.signed_in(replace(world.server, alias="near"))
    assert len(world.by.tokens) == 2
    assert not await world.sign_ins().forget("bob")
    assert await world.sign_ins().forget("ann")
    assert (world.by.tokens, world.by.refreshers) == ({}, {})


async def test_a_sign_in_takes_no_longer_than_it_may(world: World) -> None:
    url = await wanted(world.bearer(), world.far.url)
    world.clock.now = FLOW_SECONDS + 1
    with pytest.raises(SignInFailed, match="took too long"):
        await world.agree(url)


# Where tokens go


async def test_a_token_goes_to_its_server_only(world: World) -> None:
    bearer = await world.signed_in()
    heard: list[str | None] = []

    async def hear(request: Request) -> Response:
        heard.append(request.headers.get("authorization"))
        return Response(status_code=401, headers={"www-authenticate": "Bearer"})

    with running(Starlette(routes=[Route("/mcp", hear, methods=["POST"])]), grace=0) as elsewhere:
        assert (await asked(bearer, f"{elsewhere}/mcp")).status_code == 401
        world.far.redirect = f"{elsewhere}/mcp"
        await asked(bearer, world.far.url, follow_redirects=True)
    assert heard == [None, None]


async def test_an_address_of_the_same_alias_gets_nothing_of_another(world: World) -> None:
    await world.signed_in()
    with guarded_server() as (by, other):
        moved = replace(world.server, url=other.url)
        await wanted(world.bearer(moved), other.url)
        assert set(other.headers) == {""}
        assert by.requests("/token") == []


async def test_who_serves_tokens_for_a_server_may_change_and_learns_nothing_of_before(world: World) -> None:
    bearer = await world.signed_in()
    [before] = world.by.clients
    with guarded_server() as (new, _):
        world.far.by = new
        await world.agree(await wanted(bearer, world.far.url))
        assert (await asked(bearer, world.far.url)).status_code != 401
        [after] = new.clients
        assert before not in str(new.asked)
        assert not [token for token in (*world.by.tokens, *world.by.refreshers) if token in str(new.asked)]
    assert before != after


async def test_the_operators_secret_is_told_to_its_issuer_only(world: World) -> None:
    oauth = OAuthClient(client_id="ours", client_secret="s3cret", issuer=world.by.issuer)
    server = replace(world.server, operator=True, oauth=oauth)
    await world.signed_in(server)
    assert world.by.clients == {}
    with guarded_server() as (new, _):
        world.far.by = new
        bearer = world.bearer(server)
        await world.sign_ins().forget("ann")
        await world.agree(await wanted(bearer, world.far.url))
        assert "s3cret" not in str(new.asked)
        assert "ours" not in str(new.asked)


async def test_only_what_the_operator_names_is_dialled_wherever_it_is(world: World) -> None:
    nowhere = world.sign_ins(Policy())
    users = nowhere.auth("ann", world.server)
    unnamed = nowhere.auth("ann", replace(world.server, operator=True))
    named = replace(world.server, operator=True, oauth=OAuthClient(issuer=world.by.issuer))
    assert users
    assert unnamed
    for bearer in (users, unnamed):
        with pytest.raises(SignInFailed, match="not allowed"):
            await asked(bearer, world.far.url)
    assert world.by.asked == []
    trusting = nowhere.auth("ann", named)
    assert trusting
    await wanted(trusting, world.far.url)


# Asking for more


async def test_a_tool_that_needs_more_asks_for_it_on_top_of_what_there_is(world: World) -> None:
    async with connected(world, await world.signed_in()) as connection:
        client = await connection.borrow()
        with pytest.raises(SignInNeeded) as needed, sign_ins_told():
            await client.call_tool("write", {})
        assert scopes(needed.value.url) == {"read", "write"}
        await world.agree(needed.value.url)
        answer = await client.call_tool("write", {})
        assert await connection.borrow() is client, "the connection has stayed open"
    assert not answer.is_error


async def test_what_was_asked_for_in_vain_is_not_asked_for_again(world: World) -> None:
    world.by.grants = "read"
    bearer = await world.signed_in()
    await world.agree(await wanted(bearer, world.far.url, "write"))
    again = await asked(bearer, world.far.url, "write")
    assert again.status_code == 403


async def test_nor_is_what_the_user_has_declined(world: World) -> None:
    bearer = await world.signed_in()
    url = await wanted(bearer, world.far.url, "write")
    world.by.declines = "access_denied"
    with pytest.raises(SignInFailed, match="declined"):
        await world.agree(url)
    assert (await asked(world.bearer(), world.far.url, "write")).status_code == 403
    assert (await asked(world.bearer(), world.far.url, "read")).status_code != 403


async def test_a_server_that_wants_ever_more_is_left_alone_with_that(world: World) -> None:
    bearer, times = await world.signed_in(), 0
    for times in range(1, 20):
        world.far.needs = {"write": f"more-{times}"}
        world.by.grants = "read"
        try:
            answer = await asked(bearer, world.far.url, "write")
        except SignInNeeded as needed:
            await world.agree(needed.url)
        else:
            assert answer.status_code == 403
            break
    assert 1 < times <= 6


# Side by side


async def test_requests_of_one_connection_do_not_wait_for_each_other(world: World) -> None:
    bearer = await world.signed_in()
    world.far.together = 8
    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(asked, bearer, world.far.url)
    assert world.far.most == 8
