"""What a model is made of, how its package is made to dial, and what there is to know of a provider."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import httpx2

from mcp_chat.answers import MAX_BODY_BYTES
from mcp_chat.catalogue import CatalogueEntry
from mcp_chat.config import ModelConfig
from mcp_chat.exceptions import InvalidRequest
from mcp_chat.models.base import Model
from mcp_chat.models.providers.names import shown_as
from mcp_chat.models.providers.refused import refuse
from mcp_chat.netguard import (
    GuardedTransport,
    Policy,
    Resolver,
    check_url,
    guarded_client2,
    resolve,
)
from mcp_chat.patient import PatientBackend
from mcp_chat.servers import is_header_value

OWN_FIELDS = (
    *("api_key", "secret_key", "session_token"),
    *("base_url", "api_version", "deployment", "region", "project_id"),
)
"""What a user may bring, to one provider or the other."""

_SECRETS = ("api_key", "secret_key", "session_token")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a model is made of: all of a user's own, or all of the operator's.

    Attributes:
        api_key: With a secret key beside it, the id of an AWS access key.
        context_window: Tokens of question and answer together, if the operator says so.
        streaming: Whether it answers in pieces.
        options: More arguments of the LangChain class.
    """

    model: str
    api_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    base_url: str | None = None
    api_version: str | None = None
    deployment: str | None = None
    region: str | None = None
    project_id: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    context_window: int | None = None
    streaming: bool = True
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def common(self) -> dict[str, Any]:
        """The arguments that all LangChain classes have; what is None is left to the class."""
        named = {"temperature": self.temperature, "disable_streaming": not self.streaming or None}
        return {name: value for name, value in named.items() if value is not None}


Hook = Callable[[Any], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dial:
    """How a package's HTTP client is made to dial.

    Attributes:
        policy: Which addresses it may dial; None for the operator's models, which may be anywhere.
        silence: Seconds a server may be silent.
        max_answer: Bytes of an answer, or of one event of it.
        resolver: Looks names up.
        raw: Whether OpenAI's answers are read without the SDK.
    """

    policy: Policy | None
    silence: float
    max_answer: int = MAX_BODY_BYTES
    resolver: Resolver = resolve
    raw: bool = True

    @property
    def own(self) -> bool:
        """Whether it is for a user's own model."""
        return self.policy is not None

    def proof(self, key: Mapping[str, str], keep: frozenset[str] = frozenset()) -> Hook | None:
        """Return what lets requests have a user's key, and nothing that packages found in the environment.

        Args:
            key: The headers that prove who asks.
            keep: Further headers that the package may send.
        """
        return _send_only(key, keep) if self.own else None

    def client2(self, proof: Hook | None) -> httpx2.AsyncClient:
        """Return a client for the packages that use httpx2."""
        client = guarded_client2(
            self.policy,
            timeout=self.silence,
            max_bytes=self.max_answer,
            resolver=self.resolver,
            network=PatientBackend() if self.raw else None,
        )
        client.event_hooks = {"request": [proof] if proof else []}
        return client

    def transport(self, proof: Hook | None = None) -> Transport:
        """Return a transport for the packages that use httpx."""
        guarded = Transport(self.policy, max_bytes=self.max_answer, resolver=self.resolver)
        guarded.proof = proof
        return guarded

    def options(self, transport: Transport) -> dict[str, Any]:
        """Return the arguments of a client that a package makes of httpx."""
        return {
            "transport": transport,
            "timeout": self.silence,
            "trust_env": False,
            "follow_redirects": False,
        }


class Transport(GuardedTransport, httpx.BaseTransport):
    """Dials through the guard, and not at all where a thread asks, which would dial past it.

    It raises what a provider refuses before the package sees it.
    """

    proof: Hook | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        if self.proof:
            await self.proof(request)
        response = await super().handle_async_request(request)
        await refuse(response)
        return response


_PLAIN_HEADERS = frozenset(
    {
        *("host", "connection", "user-agent", "accept", "accept-encoding"),
        *("content-type", "content-length", "transfer-encoding"),
    }
)


def _send_only(key: Mapping[str, str], keep: frozenset[str]) -> Hook:
    async def strip(request: Any) -> None:
        for name in set(request.headers) - _PLAIN_HEADERS - keep:
            del request.headers[name]
        request.headers.update(key)

    return strip


class Provider(ABC):
    """What there is to know of a provider.

    Attributes:
        name: What it is called here.
        package: The package that LangChain needs for it.
        extra: Of ours, which brings that package; empty if it is always there.
        brings: What a user may bring to it.
        needs: Of these, what a model of their own cannot do without.
        keys: Environment variables that may hold the operator's key, the first one that is set.
    """

    name: str
    package: str
    extra: str = ""
    brings: tuple[str, ...] = ("api_key", "base_url")
    needs: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()

    @abstractmethod
    def open(self, recipe: Recipe, dial: Dial) -> Model:
        """Make a model. Takes tens of milliseconds: call it off the event loop.

        Raises:
            ImportError: The package is missing.
            ValueError: It cannot be made of this.
        """

    # A user's own

    def judged(self, config: ModelConfig, policy: Policy) -> ModelConfig:
        """Return a user's own model in its shortest form.

        Raises:
            InvalidRequest: Something is missing, is not for this provider, or cannot be used.
        """
        given = [name for name in OWN_FIELDS if getattr(config, name)]
        if wrong := [name for name in given if name not in self.brings]:
            raise InvalidRequest(
                f"Invalid LLM configuration: {shown_as(self.name)} has no {wrong[0]}; "
                f"you may give {', '.join(self.brings) or 'nothing of your own'}."
            )
        if missing := [name for name in self.needs if name not in given]:
            raise InvalidRequest(
                f"Invalid LLM configuration: your own model of {shown_as(self.name)} needs {missing[0]}."
            )
        for name in _SECRETS:
            if not is_header_value(getattr(config, name) or ""):
                raise InvalidRequest(
                    f"Invalid LLM configuration: the {_words(name)} has characters that no header may have."
                )
        if config.base_url:
            config = replace(config, base_url=check_url(config.base_url, policy))
        return config

    # The operator's

    def key(self, entry: CatalogueEntry, environ: Mapping[str, str]) -> str | None:
        """Return the operator's key for a model; the usual variables count for the usual address only."""
        if entry.api_key_env:
            return environ.get(entry.api_key_env) or None
        return None if entry.base_url else first(environ, *self.keys)

    def lacks(self, entry: CatalogueEntry, environ: Mapping[str, str]) -> bool:
        """Whether the operator's model has no key where it needs one."""
        if entry.api_key_env or not entry.base_url:
            return bool(entry.api_key_env or self.keys) and not self.key(entry, environ)
        return False

    def usual(self, environ: Mapping[str, str]) -> bool:
        """Whether the environment has what the provider's usual variables say."""
        return bool(first(environ, *self.keys))

    def default(self, environ: Mapping[str, str]) -> str | None:
        """Return the model that is listed when the operator lists none, if there is a good guess."""
        return None

    def recipe(self, entry: CatalogueEntry, config: ModelConfig, environ: Mapping[str, str]) -> Recipe:
        """Return what a model of the operator's is made of."""
        return Recipe(
            model=config.model,
            api_key=self.key(entry, environ),
            base_url=entry.base_url,
            api_version=entry.api_version,
            deployment=entry.deployment,
            region=entry.region,
            project_id=entry.project_id,
            temperature=config.temperature,
            max_tokens=config.max_tokens,
            context_window=entry.context_window,
            streaming=entry.capabilities.streaming is not False,
            options=entry.options,
        )

    # The package

    @property
    def installed(self) -> bool:
        """Whether its package is there; nothing is imported to find out."""
        try:
            return importlib.util.find_spec(self.package) is not None
        except ValueError:  # something is imported by this name that is no package
            return False

    @property
    def remedy(self) -> str:
        """What to do where the package is missing."""
        wanted = f"'mcp-chat[{self.extra}]'" if self.extra else self.package.replace("_", "-")
        return f"models of {shown_as(self.name)} need a package that is not installed: pip install {wanted}"


def own_recipe(config: ModelConfig) -> Recipe:
    """Return what a user's own model is made of: nothing of the operator's."""
    given = {name: getattr(config, name) for name in OWN_FIELDS}
    return Recipe(model=config.model, temperature=config.temperature, max_tokens=config.max_tokens, **given)


def first(environ: Mapping[str, str], *names: str) -> str | None:
    """Return the first of these variables that is set."""
    return next((environ[name] for name in names if environ.get(name)), None)


def _words(name: str) -> str:
    return {"api_key": "key"}.get(name, name.replace("_", " "))
