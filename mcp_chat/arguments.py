"""Arguments of a call, checked against the tool's schema before its server sees them.

The schema is the server's, and may be made to hold a worker up. The library reads patterns in linear time,
fetches nothing and takes schemas that refer to themselves, but a schema of a few lines can have it look at
one value more often than there is time for. So `mcp_chat.plan` counts the looks first. What takes too many,
or cannot be counted, is not checked here: the server gets the arguments as they are, and judges them itself.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jsonschema_rs
import structlog
from anyio import to_thread

from mcp_chat.plan import Bill, Plan, TooCostly, Uncheckable
from mcp_chat.tools import Tool
from mcp_chat.unseen import visible

log = structlog.get_logger()

STEPS = 30_000
"""Looks of one check at most: tens of milliseconds."""

QUICK = 500
"""Looks that are cheaper than asking a thread."""

PATTERNS, KEPT_PATTERNS = 32, 4
"""Patterns of a schema that is checked at all, and of one that is kept: they take memory."""

KEPT = 8
"""Schemas that are kept ready for the next call."""

LONGEST = 300
"""Characters of a place, and of what is wrong there."""

_DIALECTS: dict[str, type[jsonschema_rs.Validator]] = {
    "https://json-schema.org/draft/2020-12/schema": jsonschema_rs.Draft202012Validator,
    "https://json-schema.org/draft/2019-09/schema": jsonschema_rs.Draft201909Validator,
    "http://json-schema.org/draft-07/schema": jsonschema_rs.Draft7Validator,
    "http://json-schema.org/draft-06/schema": jsonschema_rs.Draft6Validator,
}
_DEFAULT = "https://json-schema.org/draft/2020-12/schema"


class Arguments:
    """Checks arguments; keeps the schemas of the tools that are called ready."""

    def __init__(self) -> None:
        self._ready: OrderedDict[str, tuple[Mapping[str, Any], Check]] = OrderedDict()

    async def problem(self, tool: Tool, args: Mapping[str, Any]) -> str:
        """Return in a sentence for the model what is wrong with the arguments of a call, or nothing."""
        try:
            return sentence(await checked(self._kept(tool) or await self._made(tool), args))
        except Uncheckable as error:
            log.info("arguments.unchecked", alias=tool.alias, why=str(error))
            return ""

    def _kept(self, tool: Tool) -> Check | None:
        schema, check = self._ready.get(tool.name, (None, None))
        if schema is not tool.schema:
            return None
        self._ready.move_to_end(tool.name)
        return check

    async def _made(self, tool: Tool) -> Check:
        check = await to_thread.run_sync(check_of, tool.schema)
        if check.patterns <= KEPT_PATTERNS:
            self._ready[tool.name] = tool.schema, check
        if len(self._ready) > KEPT:
            self._ready.popitem(last=False)
        return check


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong with arguments.

    Attributes:
        place: Where: the names and numbers that lead there.
    """

    place: tuple[str | int, ...]
    text: str


async def fault_of(schema: Mapping[str, Any], args: Mapping[str, Any]) -> Fault | None:
    """Return what is wrong with arguments by a schema that is needed once; nothing if that cannot be told."""
    try:
        return await checked(await to_thread.run_sync(check_of, schema), args)
    except Uncheckable as error:
        log.info("arguments.unchecked", why=str(error))
        return None


async def checked(check: Check, args: Mapping[str, Any]) -> Fault | None:
    """Return what is wrong with arguments; what takes a while is looked at in a thread.

    Raises:
        Uncheckable: That cannot be told.
    """
    try:
        return check.fault(args, QUICK)
    except TooCostly:
        return await to_thread.run_sync(check.fault, args, STEPS)


@dataclass(frozen=True, slots=True)
class Check:
    """A schema that is ready to check with."""

    plan: Plan
    validator: jsonschema_rs.Validator
    patterns: int

    def fault(self, args: Mapping[str, Any], steps: int = STEPS) -> Fault | None:
        """Return what is wrong with the arguments, or nothing.

        Raises:
            TooCostly: That would take more steps.
            Uncheckable: The schema or the arguments are nothing to check with.
        """
        self.plan.pay(dict(args), Bill(steps))
        try:
            self.validator.validate(dict(args))
        except jsonschema_rs.ValidationError as error:
            place = tuple(each if isinstance(each, int) else str(each) for each in error.instance_path)
            return Fault(place=place, text=_short(error.message))
        except Exception as error:  # whatever the library makes of a schema that a server has written
            raise Uncheckable(f"the check failed: {type(error).__name__}") from error
        return None


def check_of(schema: Mapping[str, Any]) -> Check:
    """Return a schema ready to check with; takes a while.

    Raises:
        Uncheckable: Its dialect, its references, its patterns or its size are not possible here.
    """
    plan = Plan(schema)
    patterns = plan.survey(Bill(STEPS))
    if patterns > PATTERNS:
        raise Uncheckable("the schema has too many patterns")
    dialect = _DIALECTS.get(str(schema.get("$schema", _DEFAULT)).rstrip("#"))
    if dialect is None:
        raise Uncheckable("the schema's dialect is not known")
    try:
        validator = dialect(
            dict(schema),
            validate_formats=False,
            offline=True,
            mask="the value",
            pattern_options=jsonschema_rs.RegexOptions(size_limit=262_144, dfa_size_limit=262_144),
        )
    except Exception as error:  # whatever the library makes of what a server has written
        raise Uncheckable(f"the schema cannot be used: {type(error).__name__}") from error
    return Check(plan, validator, patterns)


def sentence(fault: Fault | None) -> str:
    """Return what is wrong as the model is told it, or nothing."""
    if fault is None:
        return ""
    place = "".join(f"/{piece}" for piece in fault.place)
    where = f"At {_short(place)}" if place else "Altogether"
    return (
        "The arguments do not fit the tool's schema, and the call was not made. "
        f"{where}: {fault.text}. Correct them and call again."
    )


def _short(text: str) -> str:
    text = visible(text[:LONGEST])
    return text if len(text) < LONGEST else f"{text[:LONGEST]}…"
