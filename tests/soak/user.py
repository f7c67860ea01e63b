"""A marked user: asks, stops, hangs up, comes back, looks, and tries what is not theirs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import orjson

from tests.soak.canary import OPERATOR, Canary, creditor, foreign, found, of_another_turn
from tests.soak.findings import Findings
from tests.soak.model import wish
from tests.soak.wire import Answer, Wire, request

CONVERSATIONS: Final = 12
"""A user's; the oldest is deleted when there are more."""
PAUSE: Final = 0.05
"""Seconds to rest after a refusal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What all users have in common.

    Attributes:
        servers: Addresses of the MCP servers, by alias.
        sessions: Everybody's conversations, the newest last: the others' are to be tried.
        more: Takes one turn of those that are to be done; tells whether there was one left.
    """

    host: str
    port: int
    model_url: str
    servers: dict[str, str]
    findings: Findings
    more: Callable[[], bool]
    sessions: dict[int, list[str]] = field(default_factory=dict)


class User:
    """One of many.

    Args:
        number: Stands in every mark of theirs.
    """

    def __init__(self, number: int, scene: Scene, random: Random) -> None:
        self.name = f"user-{number:03}"
        self._number = number
        self._scene = scene
        self._findings = scene.findings
        self._random = random
        self._wires = [Wire(scene.host, scene.port) for _ in range(2)]
        self._cookie = ""
        self._turn = 0
        self._generation = 0
        self._mine = scene.sessions.setdefault(number, [])

    async def run(self) -> None:
        """Do one thing after the other until there were enough turns."""
        deeds = {
            self._say: 60,
            self._use_a_tool: 16,
            self._stop: 8,
            self._hang_up: 9,
            self._come_back: 7,
            self._watch: 5,
            self._trespass: 5,
            self._look: 10,
            self._rename: 2,
            self._come_anew: 2,
        }
        try:
            await self._sign_in()
            await self._connect()
            while self._scene.more():
                deed = self._random.choices(list(deeds), list(deeds.values()))[0]
                self._findings.deeds[deed.__name__.strip("_").replace("_", " ")] += 1
                await deed()
        except Exception as error:  # noqa: BLE001 - the others go on, and all of them are heard at the end
            self._findings.blame(self.name, [f"gives up: {error!r}"])
        finally:
            for wire in self._wires:
                wire.close()

    # Deeds

    async def _say(self) -> None:
        await self._chat(streaming=self._random.random() < 0.7)

    async def _use_a_tool(self) -> None:
        alias = self._random.choice(list(self._scene.servers))
        await self._chat(tool=f"{alias}__note", streaming=self._random.random() < 0.7)

    async def _stop(self) -> None:
        """Cancel, at any time, what is being said."""
        saying = asyncio.create_task(self._chat(slowly=True, interrupted=True))
        await asyncio.sleep(self._random.uniform(0, 0.25))
        session = {"session_id": self._mine[-1]} if self._random.random() < 0.5 else {}
        await self._post("cancel", **session)
        await saying

    async def _hang_up(self) -> None:
        """Hang up at any byte, and never ask what became of it."""
        await self._chat(
            hang_up=int(self._random.paretovariate(0.4)) % 6000, slowly=self._random.random() < 0.3
        )

    async def _come_back(self) -> None:
        """Hang up at any byte, and send the same message again."""
        key = f"again-{self._number}-{self._random.getrandbits(64):016x}"
        turn = await self._chat(hang_up=self._random.randint(1, 2000), message_id=key)
        await self._chat(turn=turn, message_id=key, streaming=self._random.random() < 0.7)

    async def _watch(self) -> None:
        """Follow the events on another connection, for a while."""
        answer, path = Answer(), "/llmchat/events"
        if self._random.random() < 0.5:
            path += f"?session_id={self._mine[-1]}"
        watching = asyncio.create_task(
            Wire(self._scene.host, self._scene.port).ask(self._request("GET", path), answer)
        )
        for _ in range(self._random.randint(1, 3)):
            await self._chat(tool=self._random.choice(["", "", f"{next(iter(self._scene.servers))}__note"]))
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        self._search("events", answer)

    async def _trespass(self) -> None:
        """Use what is another's."""
        number = self._random.choice([n for n in self._scene.sessions if n != self._number] or [OPERATOR])
        theirs = self._random.choice(self._scene.sessions.get(number) or ["nobodys"])
        await self._chat(session_id=theirs, not_resumed=True)
        for path in (f"sessions/{theirs}", f"sessions/{theirs}/messages", f"sessions/{theirs}/export"):
            self._expect(404, await self._get(path), path)
        await self._get(f"history/{self.name}?session_id={theirs}")
        answer = await self._ask("DELETE", f"/llmchat/sessions/{theirs}", body={})
        self._expect(404, answer, f"DELETE sessions/{theirs}")
        for path in (f"history/user-{number:03}", f"config/user-{number:03}"):
            self._expect(403, await self._get(path), path)

    async def _look(self) -> None:
        """Read what is theirs."""
        mine = self._random.choice(self._mine)
        paths = (
            f"history/{self.name}",
            f"config/{self.name}",
            f"status/{self.name}",
            "sessions",
            "servers",
            "search?q=word",
            f"search?q=zq7-{self._number:03}",
            f"sessions/{mine}/messages",
            f"sessions/{mine}/context",
            f"sessions/{mine}/export?format={self._random.choice(('json', 'markdown'))}",
        )
        for path in self._random.sample(paths, 2):
            await self._get(path)
        await self._tidy()

    async def _rename(self) -> None:
        name = str(Canary(self._number, "nam", self._turn))
        await self._ask("PATCH", f"/llmchat/sessions/{self._mine[-1]}", body={"name": name})

    async def _come_anew(self) -> None:
        """Disconnect, often in the midst of a turn, and connect with other credentials."""
        left = asyncio.create_task(self._chat(slowly=True, interrupted=True))
        await asyncio.sleep(self._random.uniform(0, 0.1))
        if self._random.random() < 0.7:
            await self._post("disconnect")
        await self._connect()
        await left

    # Parts of them

    async def _sign_in(self) -> None:
        answer = await self._wires[0].ask(self._request("POST", "/auth/demo", {"user": self.name}), Answer())
        self._cookie = answer.headers["set-cookie"].partition(";")[0]

    async def _connect(self) -> None:
        self._generation += 1
        body = self._own() if creditor(self._number) != OPERATOR else _operators(self._scene.servers)
        for _ in range(600):
            answer = await self._post("connect", **body)
            if answer.status == 200:
                self._mine.append(orjson.loads(answer.body)["session_id"])
                return
            await asyncio.sleep(PAUSE)
        raise RuntimeError(f"{self.name} cannot connect: {answer.status} {bytes(answer.body[:500])!r}")

    def _own(self) -> dict[str, Any]:
        """One's own model and servers, with credentials that were never used before."""
        n = self._generation * 10
        config = {
            "model": "scripted",
            "api_key": str(Canary(self._number, "key", n)),
            "base_url": self._scene.model_url,
        }
        servers = [
            {"alias": alias, "url": url, "auth_token": str(Canary(self._number, "tok", n + place))}
            for place, (alias, url) in enumerate(self._scene.servers.items(), 1)
        ]
        return {"llm": {"provider": "openai", "config": config}, "servers": servers}

    async def _tidy(self) -> None:
        if len(self._mine) > CONVERSATIONS:
            await self._ask("DELETE", f"/llmchat/sessions/{self._mine.pop(0)}", body={})

    async def _chat(
        self,
        *,
        turn: int = 0,
        tool: str = "",
        slowly: bool = False,
        interrupted: bool = False,
        not_resumed: bool = False,
        hang_up: int | None = None,
        **body: Any,
    ) -> int:
        """Send a message and search its answer; return the number of the turn."""
        if not turn:
            self._turn = turn = self._turn + 1
            self._findings.turns += 1
        words = 40 if slowly else self._random.randint(1, 8)
        text = wish(Canary(self._number, "msg", turn), words, tool=tool, slowly=slowly)
        content = {"user_id": self.name, "message": text, "streaming": True, **body}
        answer = Answer()
        sent = self._request("POST", "/llmchat/chat", content)
        await self._random.choice(self._wires if not interrupted else self._wires[:1]).ask(
            sent, answer, hang_up=hang_up
        )
        self._search("chat", answer)
        self._judge(answer, turn, tool, not_resumed=not_resumed)
        if answer.status not in (0, 200):
            await asyncio.sleep(PAUSE)
        return turn

    def _judge(self, answer: Answer, turn: int, tool: str, *, not_resumed: bool) -> None:
        """An answer is that of its turn; one that came whole and went well says so."""
        data = bytes(answer.body)
        self._findings.blame(f"chat of {self.name}", of_another_turn(data, turn))
        if answer.status != 200:
            return
        if not_resumed and answer.headers.get("mcp-chat-resumed") == "true":
            self._findings.blame("chat", [f"{self.name} is let into another's conversation"])
        self._remember(answer.headers.get("mcp-chat-session", ""))
        if not answer.complete or any(sign in data for sign in UNANSWERED):
            return
        self._findings.whole += 1
        wanted = {Canary(self._number, "ans", turn)} | (
            {Canary(self._number, "res", turn)} if tool and b"tool_error" not in data else set()
        )
        if missing := wanted - found(data):
            self._findings.blame("chat", [f"{canary} is missing in its answer" for canary in missing])

    def _remember(self, session: str) -> None:
        if session and session not in self._mine:
            self._mine.insert(-1 if self._mine else 0, session)

    def _expect(self, status: int, answer: Answer, path: str) -> None:
        if answer.complete and answer.status not in (status, 503):
            self._findings.blame(path, [f"{self.name} gets {answer.status} and not {status}"])

    async def _post(self, path: str, **body: Any) -> Answer:
        return await self._ask("POST", f"/llmchat/{path}", body={"user_id": self.name, **body})

    async def _get(self, path: str) -> Answer:
        return await self._ask("GET", f"/llmchat/{path}")

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Answer:
        answer = await self._wires[1].ask(self._request(method, path, body), Answer())
        self._search(path.partition("?")[0], answer)
        return answer

    def _search(self, path: str, answer: Answer) -> None:
        """Search all that has come, headers too."""
        data = b"\n".join([*(f"{n}: {v}".encode() for n, v in answer.headers.items()), bytes(answer.body)])
        self._findings.searched["answers"] += len(data)
        self._findings.answers[answer.status] += 1
        self._findings.blame(f"{path} of {self.name}", foreign(data, self._number))

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        headers = {"Cookie": self._cookie} if self._cookie else {}
        content = b"" if body is None else orjson.dumps(body)
        return request(method, path, host=self._scene.host, headers=headers, body=content)


UNANSWERED: Final = (b'"stopped":true', b'"stopped": true', b"event: error", b"event: reconnect")
"""What stands in an answer that came whole and is none."""


def _operators(servers: dict[str, str]) -> dict[str, Any]:
    return {"llm": {"model": "openai:scripted"}, "servers": [{"name": alias} for alias in servers]}


async def settled(users: list[User]) -> None:
    """Run users until all have done what there is to do."""
    tasks = [asyncio.create_task(user.run()) for user in users]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
