"""Holds an answer back until it was looked at: nobody is told what plugins have not seen."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mcp_chat.exceptions import AnswerTooLong
from mcp_chat.models.base import CallPiece, Piece

Cut = Callable[[str], int]
"""Tells how much of a text that goes on may be looked at."""

_SENTENCE = re.compile(r"""(?:[.!?…]["'’”)\]]*(?=\s)|[。！？]|\n)\s*""")


def sentences(text: str) -> int:
    """Return where the last whole sentence or line ends."""
    end = 0
    for match in _SENTENCE.finditer(text):
        end = match.end()
    return end


def nothing(text: str) -> int:
    """Wait for the end."""
    return 0


def characters(most: int) -> Cut:
    """Return what waits for so many characters, and then for the end of the word."""

    def cut(text: str) -> int:
        if len(text) < most:
            return 0
        return next((place + 1 for place in range(len(text) - 1, -1, -1) if text[place].isspace()), 0)

    return cut


def cut_of(hold: str) -> Cut:
    """Return what a setting says: `sentence`, `answer`, or a number of characters."""
    return {"sentence": sentences, "answer": nothing}.get(hold) or characters(int(hold))


class Sieve:
    """Text that waits to be looked at.

    Args:
        cut: Tells how much of it may be.
    """

    def __init__(self, cut: Cut) -> None:
        self._cut = cut
        self._parts: list[str] = []
        self.size = 0

    def add(self, text: str) -> str:
        """Take text in, and return what is ready; a text that goes on is joined when it may have an end."""
        self._parts.append(text)
        self.size += len(text)
        if self._cut is nothing or not (any(c.isspace() for c in text) or self._cut(text)):
            return ""
        whole = "".join(self._parts)
        ready = whole[: self._cut(whole)]
        self._keep(whole[len(ready) :])
        return ready

    def rest(self) -> str:
        """Return what is left: nothing comes behind it."""
        rest = "".join(self._parts)
        self._keep("")
        return rest

    def _keep(self, text: str) -> None:
        self._parts = [text] if text else []
        self.size = len(text)


@dataclass(slots=True)
class Whole:
    """All of an answer, as it may be told.

    Attributes:
        calls: The pieces of its tool calls.
        changed: Whether it is not what the model has said.
    """

    text: str = ""
    calls: list[CallPiece] = field(default_factory=list)
    changed: bool = False


Judge = Callable[[str, bool], Awaitable[str]]
"""Is given a text, and whether it is a thought; returns what may be told of it, or raises."""

Finish = Callable[[Whole], Awaitable[str]]
"""Is given the whole answer; returns what may be told of it, or raises."""


Hear = Callable[[Piece], None]
"""Is given each piece as the model has said it, told or not."""


def unheard(piece: Piece) -> None:
    """Let it be."""


class _Holding:
    """One answer that is held back; see `held`."""

    def __init__(self, judge: Judge, finish: Finish, cut: Cut, hear: Hear, most: int, *, aloud: bool) -> None:
        self._judge = judge
        self._aloud = aloud
        self._finish = finish
        self._hear = hear
        self._most = most
        self._at_once = cut is nothing
        self._texts, self._thoughts = Sieve(cut), Sieve(cut)
        self._whole = Whole()
        self._blocks: tuple[Mapping[str, Any], ...] = ()
        self._size = 0

    async def told(self, pieces: AsyncGenerator[Piece]) -> AsyncGenerator[Piece]:
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                self._take(piece)
                yield await self._next(piece)
        yield await self._last()
        if not self._at_once:
            await self._finish(self._whole)

    def _take(self, piece: Piece) -> None:
        self._hear(piece)
        self._size += len(piece.text) + len(piece.thought)
        if self._size > self._most:
            raise AnswerTooLong
        self._blocks += piece.blocks
        self._whole.calls += piece.calls

    async def _next(self, piece: Piece) -> Piece:
        ready = self._thoughts.add(piece.thought)
        if piece.text and not self._at_once:  # a thought is over where text begins, and is told before it
            ready += self._thoughts.rest()
        thought = await self._judged(ready, thought=True)
        text = await self._judged(self._texts.add(piece.text), thought=False)
        return Piece(text=text, thought=thought, calls=piece.calls, usage=piece.usage, end=piece.end)

    async def _last(self) -> Piece:
        whole = self._whole
        thought = await self._judged(self._thoughts.rest(), thought=True)
        text = await self._judged(self._texts.rest(), thought=False)
        if self._at_once:
            text = await self._finish(whole)
            whole.changed |= text != whole.text
        return Piece(thought=thought, text=text, blocks=() if whole.changed else self._blocks)

    async def _judged(self, text: str, *, thought: bool) -> str:
        if not text:
            return ""
        told = await self._judge(text, thought)
        self._whole.changed |= told != text
        if thought:
            return told if self._aloud else ""
        self._whole.text += told
        return told


def held(
    pieces: AsyncGenerator[Piece],
    judge: Judge,
    finish: Finish,
    cut: Cut,
    *,
    most: int,
    hear: Hear = unheard,
    aloud: bool = True,
) -> AsyncGenerator[Piece]:
    """Yield an answer as it may be told. For each piece that is held back an empty one says that it came.

    Args:
        judge: Looks at each part.
        finish: Looks at the whole; what it returns counts only where nothing was told before.
        cut: How much is looked at, at a time; with `nothing` the whole is told when `finish` has seen it.
        most: Bytes, about, that are held back at most.
        hear: Hears the model itself.
        aloud: Whether thoughts are told, too; `finish` does not see them.
    """
    return _Holding(judge, finish, cut, hear, most, aloud=aloud).told(pieces)


async def heard(pieces: AsyncGenerator[Piece], finish: Finish, judge: Judge) -> AsyncGenerator[Piece]:
    """Yield an answer as it comes, and let plugins look at the whole, which can be nothing else any more.

    Args:
        finish: Looks at the whole answer.
        judge: Looks at its thoughts, and at its text.
    """
    texts, thoughts, whole = list[str](), list[str](), Whole()
    async with contextlib.aclosing(pieces):
        async for piece in pieces:
            texts += [piece.text] if piece.text else []
            thoughts += [piece.thought] if piece.thought else []
            whole.calls += piece.calls
            yield piece
    whole.text = "".join(texts)
    if thoughts:
        await judge("".join(thoughts), True)
    if texts:
        await judge(whole.text, False)
    await finish(whole)
