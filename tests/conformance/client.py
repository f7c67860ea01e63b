"""What the official conformance suite starts: our connections, and a user who tries all that a server offers.

The suite gives the server's URL as the last argument, and the scenario in the environment. It judges what
it sees on the wire, so nothing here speaks the protocol: that is for the application's own classes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx2

from mcp_chat.config import OAuthClient, ServerConfig
from mcp_chat.connections import Connection
from mcp_chat.desk import CallState
from mcp_chat.dialer import Dialer
from mcp_chat.limits import ServerLimits
from mcp_chat.netguard import Lookups, Policy, check_url
from mcp_chat.oauth.sign_ins import SignIns
from mcp_chat.papers import Papers
from mcp_chat.questions import Answer, Question, completed
from mcp_chat.stores.memory import MemoryStore
from mcp_chat.toolbox import Toolbox
from mcp_chat.vault import Vault
from tests.mute import Mute

SECONDS = 20.0
"""Of every wait; a scenario whose server says nothing ends before the suite loses patience."""

SIGN_INS = 3
"""For one server: it may change the one that its users sign in at."""

USER = "someone"

REDIRECT_URI = "http://127.0.0.1:8000/llmchat/oauth/callback"

CLIENT_URL = "https://conformance-test.local/client-metadata.json"
"""The one that the suite's authorization server takes."""

ONLY_LISTS = ("json-schema-ref-no-deref",)
"""Scenarios whose server knows no calls."""

ECHO = "suite__json_schema_echo"
"""Takes the schema of the tool before it, as it is here."""

SAMPLES: dict[str, Any] = {"string": "some", "number": 5, "integer": 5, "boolean": True}


def policy(url: str, *, auth: bool) -> Policy:
    """Return what may be dialled: this machine, and of its ports the suite's one.

    Args:
        auth: Whether the suite has an authorization server, too, on a port that it does not tell.
    """
    port = urlsplit(url).port or 80
    ports = () if auth else (range(port, port + 1),)
    return Policy((ip_network("127.0.0.0/8"), ip_network("::1/128")), ports, ("http",))


class Browser:
    """Where the user signs in: they are asked nothing, and say yes to it.

    Args:
        sign_ins: What the user's sign-ins end with.
    """

    def __init__(self, sign_ins: SignIns) -> None:
        self._sign_ins = sign_ins

    async def open(self, url: str) -> None:
        """Sign in, and come back to the application."""
        async with httpx2.AsyncClient() as http:
            answer = await http.get(url)
        back = httpx2.URL(answer.headers["location"]).params
        await self._sign_ins.finish(
            USER, back.get("state", ""), back.get("code", ""), back.get("iss"), error=back.get("error", "")
        )


def sign_ins_of(guard: Policy) -> SignIns:
    """Return what keeps the user's sign-ins, in memory."""
    store = MemoryStore()
    return SignIns(
        Papers(store.documents, Vault([os.urandom(32)])),
        guard,
        Lookups(),
        redirect_uri=REDIRECT_URI,
        client_url=CLIENT_URL,
        timeout=SECONDS,
    )


@asynccontextmanager
async def connected(server: ServerConfig, guard: Policy, sign_ins: SignIns) -> AsyncIterator[Connection]:
    """Hold a connection open, in a task of its own; its user signs in where that is wanted."""
    limits = ServerLimits()
    dialer = Dialer(guard, timeout=SECONDS, silence=SECONDS, limits=limits)
    connection = Connection(server, dialer, connect_timeout=SECONDS, tool_timeout=SECONDS, limits=limits)
    connection.auth = sign_ins.auth(USER, server)
    async with anyio.create_task_group() as tasks:
        await tasks.start(connection.run)
        try:
            for _ in range(SIGN_INS):
                if connection.state == "sign_in":
                    await Browser(sign_ins).open(connection.sign_in)
                    await connection.try_again()
            yield connection
        finally:
            await connection.close()


class User(Mute):
    """Sends each form off as it is shown, with what must stand in it, and signs in where that is wanted."""

    def __init__(self, connection: Connection, browser: Browser) -> None:
        super().__init__()
        self._connection = connection
        self._browser = browser

    async def ask(
        self, questions: Sequence[Question], state: CallState | None = None, *, own: bool = True
    ) -> dict[str, Answer]:
        """Say yes to all."""
        return {question.id: await self._answer(question) for question in questions}

    async def _answer(self, question: Question) -> Answer:
        if question.kind == "sign_in":
            await self._browser.open(question.url)
            await self._connection.try_again()
            self._connection.again()
        answer = Answer(action="accept", content=filled(question.schema))
        return replace(answer, content=completed(question, answer))


async def call_tools(connection: Connection, wanted: list[Mapping[str, Any]], user: User) -> None:
    """Call the tools that the suite names, or each that is there.

    Raises:
        RuntimeError: A call failed.
    """
    calls = {f"suite__{each['name']}": each["arguments"] for each in wanted}
    tools = Toolbox({"suite": connection})
    samples = {tool.name: sample(tool.schema) for tool in tools.tools}
    if ECHO in samples:
        samples[ECHO] = {"schema": tools.tools[0].schema}
    for name, args in (calls or samples).items():
        result = await tools.call(name, args, user)
        if result.failed:
            raise RuntimeError(f"{name}: {result.text}")


def filled(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must stand in a form and does not yet."""
    properties: Mapping[str, Any] = schema.get("properties", {})
    return {name: SAMPLES.get(each.get("type")) for name, each in properties.items() if "default" not in each}


def sample(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments for a tool."""
    properties: Mapping[str, Any] = schema.get("properties", {})
    return {name: SAMPLES.get(field.get("type")) for name, field in properties.items()}


async def read_all(connection: Connection) -> None:
    """Read the resources and prompts that there are."""
    client = await connection.borrow()
    if client.server_capabilities.resources:
        for resource in (await client.list_resources()).resources:
            await client.read_resource(resource.uri)
    if client.server_capabilities.prompts:
        for prompt in (await client.list_prompts()).prompts:
            await client.get_prompt(prompt.name)


async def main(url: str, scenario: str, context: Mapping[str, Any]) -> None:
    """Do all that a server allows."""
    guard = policy(url, auth=scenario.startswith("auth/"))
    own = OAuthClient(client_id=context.get("client_id", ""), client_secret=context.get("client_secret"))
    server = ServerConfig(alias="suite", url=check_url(url, guard), oauth=own)
    sign_ins = sign_ins_of(guard)
    async with connected(server, guard, sign_ins) as connection:
        if scenario not in ONLY_LISTS:
            user = User(connection, Browser(sign_ins))
            await call_tools(connection, context.get("toolCalls", []), user)
        await read_all(connection)


if __name__ == "__main__":
    given = os.environ
    context = json.loads(given.get("MCP_CONFORMANCE_CONTEXT", "{}"))
    anyio.run(main, sys.argv[-1], given["MCP_CONFORMANCE_SCENARIO"], context)
