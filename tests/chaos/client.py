"""A user at the door: asks, hangs up, comes back on another connection, and writes down what was said."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from random import Random
from typing import Any, Final

import httpx

from tests.chaos import model
from tests.chaos.journal import Frame, Journal, Left, Odd, Sent, View, now

PATIENCE: Final = 60.0
"""Seconds in which a message must have its end, whatever is broken meanwhile."""
PAUSE: Final = (0.05, 0.4)
"""Seconds between two attempts, least and most."""
ENDS: Final = ("final", "error")
BROKEN: Final = (httpx.TransportError, httpx.StreamError, json.JSONDecodeError)
"""What a client sees when its worker dies, hangs or is unreachable."""
AMBIGUOUS: Final = frozenset({500, 502, 503, 504})


class Door:
    """One user's requests, each on a connection of its own, so that any worker gets it."""

    def __init__(self, http: httpx.AsyncClient, user: str) -> None:
        self.user = user
        self._http = http
        self._headers = {"connection": "close"}

    async def sign_in(self) -> None:
        """Take the name."""
        response = await self._http.post("/auth/demo", json={"user": self.user}, headers=self._headers)
        response.raise_for_status()
        self._headers["cookie"] = "; ".join(f"{name}={value}" for name, value in response.cookies.items())

    async def post(self, path: str, *, key: str = "", **body: Any) -> httpx.Response:
        """Post to the dialect; the key is the same for each attempt at one thing."""
        content = {"user_id": self.user, **body}
        return await self._http.post(f"/llmchat/{path}", json=content, headers=self._with(key))

    async def get(self, path: str, **query: str) -> httpx.Response:
        """Get from the dialect."""
        return await self._http.get(f"/llmchat/{path}", params=query, headers=self._headers)

    def chat(self, body: dict[str, Any], key: str) -> contextlib.AbstractAsyncContextManager[httpx.Response]:
        """Send a message; `key` is its id, as the header of idempotent requests."""
        content = {"user_id": self.user, **body}
        return self._http.stream("POST", "/llmchat/chat", json=content, headers=self._with(key))

    def events(
        self, session: str, after: str, *, header: bool
    ) -> contextlib.AbstractAsyncContextManager[httpx.Response]:
        """Read a session's events behind a place, named in the header as a browser does or in the query."""
        query = {"session_id": session}
        headers = self._headers
        if after and header:
            headers = {**headers, "last-event-id": after}
        elif after:
            query["after"] = after
        return self._http.stream("GET", "/llmchat/events", params=query, headers=headers)

    def _with(self, key: str) -> dict[str, str]:
        return {**self._headers, **({"idempotency-key": key} if key else {})}


RECALLED: Final = ("discard", "token", "tool_start", "tool_end", "tool_error")
"""Frames that have no place when a turn is told as the record has it, because the log has lost it."""


class Asking:
    """One message until its end: sent, sent again, resumed.

    Args:
        hang_up: Frames after which this reader hangs up, once; None for never.
        resume: Whether it goes on in the events where it stopped, and does not send the message again.
        whole: Whether it wants one JSON answer.
        more: More fields of the body.
    """

    def __init__(
        self,
        door: Door,
        journal: Journal,
        random: Random,
        sent: Sent,
        *,
        hang_up: int | None = None,
        resume: bool = False,
        whole: bool = False,
        **more: Any,
    ) -> None:
        self._door = door
        self._journal = journal
        self._random = random
        self.sent = sent
        self._hang_up = hang_up
        self._resume = resume
        self._whole = whole
        self._more = more
        self._by_header = random.random() < 0.3
        self._doubtful = False
        self._place = ""
        self._recalled = False  # an end that the log does not have any more begins by taking all back
        self._view = self._new_view()
        self.progress = asyncio.Event()

    async def run(self, patience: float = PATIENCE) -> Sent:
        """Ask until there is an end, or for so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while not self.sent.end and not self.sent.refused:
                    with contextlib.suppress(*BROKEN):
                        await self._attempt()
                    if not self.sent.end:
                        await asyncio.sleep(self._random.uniform(*PAUSE))
        return self.sent

    async def leave(self) -> Sent:
        """Wait until the message was taken, and walk away."""
        while self.sent.acked is None and not self.sent.refused:
            with contextlib.suppress(*BROKEN):
                self._hang_up = 0
                await self._post()
        self._hang_up = None
        return self.sent

    def note(self) -> None:
        """Write down what became of it."""
        self._keep_view()
        self._journal.write(self.sent)

    async def _attempt(self) -> None:
        if self._resume and self._place and self.sent.session:
            await self._follow()
        else:
            await self._post()

    async def _post(self) -> None:
        self._keep_view()
        self._doubtful, doubted = True, self._doubtful
        body = {"message": self.sent.text, "streaming": not self._whole, **self._more}
        key = self.sent.message_id if self._by_header else ""
        if not key:
            body["message_id"] = self.sent.message_id
        async with self._door.chat(body, key) as response:
            if response.status_code == 200:
                await self._taken(response)
            else:
                await response.aread()
                self._whole = False  # a stream tells a turn that failed from a worker that does
                self._not_taken(response, doubted=doubted)

    async def _taken(self, response: httpx.Response) -> None:
        if not self._whole:
            self._acknowledge(response.headers.get("mcp-chat-session", ""))
            return await self._read(response) if self._hang_up != 0 else None
        await response.aread()
        answer = response.json()
        self._acknowledge(answer["session_id"])
        self._end("stopped" if answer["stopped"] else "final", answer["response"])
        return None

    def _acknowledge(self, session: str) -> None:
        self.sent = replace(self.sent, acked=self.sent.acked or now(), session=session)

    def _not_taken(self, response: httpx.Response, *, doubted: bool) -> None:
        """Tell refusals from answers behind which the message may have been taken all the same."""
        code = response.json().get("code", "") if response.status_code != 500 else ""
        if response.status_code == 429:
            self._doubtful = doubted
        elif response.status_code not in AMBIGUOUS and self.sent.acked is None and not doubted:
            self.sent = replace(self.sent, refused=True)
        elif response.status_code not in AMBIGUOUS or code in ("interrupted", "model_failed", "unexpected"):
            self._end("error", "")
        if response.status_code not in (400, 429, 503):
            self._journal.write(Odd(user=self._door.user, what=f"{response.status_code} {response.text}"))

    async def _read(self, response: httpx.Response) -> None:
        async for frame in frames(response):
            self._see(frame)
            if self.sent.end or frame.event in ("reconnect", "error"):
                return
            if self._hang_up and len(self._view.frames) >= self._hang_up:
                self._hang_up = None
                return

    async def _follow(self) -> None:
        """Go on in the session's events behind the last frame."""
        header = self._random.random() < 0.5
        async with self._door.events(self.sent.session, self._place, header=header) as response:
            if response.status_code != 200:
                self._resume = response.status_code in AMBIGUOUS  # else it is sent again
                return
            async for frame in frames(response):
                if frame.event == "reset":
                    self._resume = False
                    return
                mine = frame.data.get("turn_id") == self.sent.message_id
                if frame.event == "reconnect" or (mine and frame.event not in ("turn", "message")):
                    self._see(frame)
                if self.sent.end or frame.event == "reconnect":
                    return

    def _see(self, frame: Frame) -> None:
        if frame.event == "reconnect":
            self._place = frame.data["after"]
            return
        if frame.event == "reset":
            self._keep_view()
            self._place = frame.data["after"]
            self._view = replace(self._view, after=self._place)
            return
        if frame.id or frame.event in RECALLED:
            self._place = frame.id  # there is none from which to go on where the record is told
            self._view.frames.append(frame)
        self.progress.set()
        if frame.event == "final":
            self._end("stopped" if frame.data["stopped"] else "final", frame.data["content"])
        elif frame.event == "error" and (frame.id or self._recalled):  # else the stream has failed
            self._end("error", "")
        self._recalled = not frame.id and (self._recalled or frame.event == "discard")

    def _end(self, end: str, content: str) -> None:
        self.sent = replace(self.sent, end=end, content=content)

    def _keep_view(self) -> None:
        if self._view.frames:
            self._journal.write(replace(self._view, session=self.sent.session))
        self._place, self._view = "", self._new_view()

    def _new_view(self) -> View:
        return View(user=self._door.user, turn=self.sent.message_id, frames=[])


class Tab:
    """Somebody who only watches a session, in a `with` block of tasks."""

    def __init__(self, door: Door, journal: Journal, session: str, random: Random) -> None:
        self._door = door
        self._journal = journal
        self._session = session
        self._random = random
        self._view = View(user=door.user, session=session, frames=[])

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            while True:
                with contextlib.suppress(*BROKEN):
                    await self._watch()
                await asyncio.sleep(self._random.uniform(*PAUSE))
        finally:
            self._keep("")

    async def _watch(self) -> None:
        seen = self._view.frames
        after = seen[-1].id if seen else self._view.after
        header = self._random.random() < 0.5
        async with self._door.events(self._session, after, header=header) as response:
            async for frame in frames(response):
                if frame.event == "reset":
                    self._keep(frame.data["after"])
                if frame.event in ("reset", "reconnect"):
                    break
                if frame.id:
                    seen.append(frame)

    def _keep(self, after: str) -> None:
        if self._view.frames:
            self._journal.write(self._view)
        self._view = replace(self._view, frames=[], after=after)


class Hopeless(Exception):
    """There was no good answer for too long; the journal says so."""


class User:
    """Does one thing after the other.

    Args:
        next_op: Gives the number of the next operation, or None when there were enough.
    """

    def __init__(
        self, door: Door, journal: Journal, random: Random, next_op: Callable[[], int | None]
    ) -> None:
        self._door = door
        self._journal = journal
        self._random = random
        self._next_op = next_op
        self._session = ""
        self._left: list[Asking] = []

    async def run(self) -> None:
        """Connect and do what there is to do."""
        with contextlib.suppress(Hopeless):
            await self._door.sign_in()
            await self._connect()
            await self._live()

    async def _live(self) -> None:
        deeds = {
            self._say: 50,
            self._drop: 20,
            self._walk_away: 4,
            self._watch: 8,
            self._burst: 3,
            self._interrupt: 5,
            self._cancel: 5,
            self._come_anew: 4,
        }
        while (op := self._next_op()) is not None:
            deed = self._random.choices(list(deeds), list(deeds.values()))[0]
            await deed(op)

    async def settle(self, patience: float) -> None:
        """Look after the messages whose ends nobody has read: they must have some."""
        await asyncio.gather(*(asking.run(patience) for asking in self._left))
        for asking in self._left:
            asking.note()

    # Deeds

    async def _say(self, op: int) -> None:
        await self._finish(self._asking(op, whole=self._random.random() < 0.2))

    async def _drop(self, op: int) -> None:
        """Hang up in the middle and come back."""
        hang_up = self._random.randint(1, 8)
        await self._finish(self._asking(op, hang_up=hang_up, resume=self._random.random() < 0.7))

    async def _walk_away(self, op: int) -> None:
        asking = self._asking(op)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await asking.leave()
        self._left.append(asking)

    async def _watch(self, op: int) -> None:
        """Ask in one tab and watch in another."""
        async with asyncio.TaskGroup() as tasks:
            tab = tasks.create_task(Tab(self._door, self._journal, self._session, self._random).run())
            await self._finish(self._asking(op, resume=True))
            tab.cancel()

    async def _burst(self, op: int) -> None:
        ops = [op, *(more for _ in range(4) if (more := self._next_op()) is not None)]
        await asyncio.gather(*(self._finish(self._asking(each)) for each in ops))

    async def _interrupt(self, op: int) -> None:
        """Speak while the answer comes."""
        second = self._next_op()
        first = asyncio.create_task(self._finish(asking := self._asking(op, words=60)))
        await _progress(asking)
        if second is not None:
            await self._finish(self._asking(second, if_running="interrupt"))
        await first

    async def _cancel(self, op: int) -> None:
        first = asyncio.create_task(self._finish(asking := self._asking(op, words=60)))
        await _progress(asking)
        await self._until("cancel")
        await first

    async def _come_anew(self, op: int) -> None:
        """Disconnect, see that nothing is left, connect."""
        if self._random.random() < 0.3:
            await self._walk_away(op)  # something to stop
        await self._until("disconnect")
        acked, problems = now(), await self._problems()
        until = now()
        await self._connect()
        self._journal.write(Left(user=self._door.user, acked=acked, until=until, problems=problems))

    async def _connect(self) -> None:
        body = {"llm": {"model": "openai:scripted"}, "server": {"name": "recorder"}}
        answer = await self._until("connect", **body)
        self._session = answer["session_id"]

    async def _problems(self) -> list[str]:
        """Ask some workers what they must not say to somebody who has left."""
        problems = []
        for _ in range(3):
            with contextlib.suppress(*BROKEN):
                status = await self._door.get(f"status/{self._door.user}")
                if status.status_code == 200 and status.json()["connected"]:
                    problems.append("a worker says that they are connected")
                chat = await self._door.post("chat", message="op-0 words=1")
                if chat.status_code not in (400, 503):
                    problems.append(f"a worker answers {chat.status_code} to a message")
        return problems

    # Parts of them

    def _asking(self, op: int, *, words: int = 0, **how: Any) -> Asking:
        name = f"op-{op}"
        tool = self._random.choices(("", "charge", "look"), (5, 3, 1))[0]
        sent = Sent(
            op=name,
            user=self._door.user,
            text=model.wish(name, words or self._random.randint(1, 14), tool),
            message_id=f"{name}-{self._random.getrandbits(48):012x}",
            sent=now(),
        )
        if self._random.random() < 0.5:
            how["session_id"] = self._session
        return Asking(self._door, self._journal, self._random, sent, **how)

    async def _finish(self, asking: Asking) -> None:
        await asking.run()
        if asking.sent.end or asking.sent.refused:
            asking.note()
        else:
            self._left.append(asking)
        if asking.sent.refused:
            await self._connect()

    async def _until(self, path: str, **body: Any) -> Any:
        """Post until the answer is good, and return it; a key is used again until there is any answer."""
        key = self._new_key(path)
        end = now() + 2 * PATIENCE
        while now() < end:
            with contextlib.suppress(*BROKEN):
                response = await self._door.post(path, key=key, **body)
                key = self._new_key(path)
                if response.status_code == 200:
                    return response.json()
                if response.status_code not in (429, 503):
                    self._odd(f"{path} is answered {response.status_code} {response.text}")
            await asyncio.sleep(self._random.uniform(*PAUSE))
        self._odd(f"{path} had no good answer for {2 * PATIENCE:g} s")
        raise Hopeless

    def _new_key(self, path: str) -> str:
        return f"{path}-{self._random.getrandbits(48):012x}"

    def _odd(self, what: str) -> None:
        self._journal.write(Odd(user=self._door.user, what=what))


async def _progress(asking: Asking) -> None:
    """Wait until something of the answer has come, or for long enough."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5):
            await asking.progress.wait()


async def frames(response: httpx.Response) -> AsyncIterator[Frame]:
    """Parse a stream; a frame that is cut off is none."""
    rest = ""
    async for chunk in response.aiter_text():
        *whole, rest = (rest + chunk).split("\n\n")
        for block in whole:
            fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
            if "event" in fields:
                data = json.loads(fields["data"])
                yield Frame(id=fields.get("id", ""), event=fields["event"], data=data)
