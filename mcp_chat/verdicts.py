"""What may be done with a tool: called, called when its user agrees to it, or not at all.

The operator writes rules by the tools' names at their server. A server's own word for a tool, that it reads
only or destroys nothing, counts where the operator has said so and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Final, Literal

from mcp_chat.names import skeleton

Verdict = Literal["allow", "ask", "deny"]

STRICTNESS: Final[Mapping[Verdict, int]] = {"allow": 0, "ask": 1, "deny": 2}

_PLAIN = re.compile(r"[A-Za-z0-9_.-]+")
"""The signs that the protocol allows in names."""


def verdict_of(
    name: str, *, rules: Mapping[str, Verdict], own: Mapping[str, Verdict], safe: bool = False
) -> Verdict:
    """Return what may be done with a tool by its name at the server: what is not known is asked about.

    Args:
        rules: The operator's.
        own: What the user has chosen: it can only be stricter.
        safe: Whether the operator has declared that it only reads: only its own name in a rule says more.
    """
    return strictest(_operators(name, rules, safe=safe), own.get(name, "allow"))


def strictest(*verdicts: Verdict) -> Verdict:
    """Return the strictest of some verdicts."""
    return max(verdicts, key=STRICTNESS.__getitem__)


def _operators(name: str, rules: Mapping[str, Verdict], *, safe: bool) -> Verdict:
    """Return the operator's verdict; a name that only looks like one of the rules' is not allowed by it."""
    if name in rules:
        return rules[name]
    looks: dict[str, Verdict] = {}
    for rule, verdict in rules.items():
        looks[skeleton(rule)] = strictest(verdict, looks.get(skeleton(rule), verdict))
    found, alike = _ruled(name, rules), _ruled(skeleton(name), looks) or "allow"
    if found is None or found == "ask":
        return "deny" if alike == "deny" else "allow" if safe else "ask"
    return strictest(found, alike, "allow" if _PLAIN.fullmatch(name) else "ask")


def _ruled(name: str, rules: Mapping[str, Verdict]) -> Verdict | None:
    """Return what the rules say of a name that are the most exact ones; of several the strictest."""
    most = _exactness(name, rules)
    found = [verdict for rule, verdict in rules.items() if _fits(name, rule) and _literal(rule) == most]
    return strictest(*found) if found else None


def _exactness(name: str, rules: Mapping[str, Verdict]) -> int:
    return max((_literal(rule) for rule in rules if _fits(name, rule)), default=-1)


def _literal(rule: str) -> int:
    """Return how many signs of a name a rule says."""
    return sum(sign not in "*?" for sign in rule)


def _fits(name: str, rule: str) -> bool:
    return fnmatchcase(name, rule.replace("[", "[[]"))
