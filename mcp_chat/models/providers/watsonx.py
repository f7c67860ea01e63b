"""IBM watsonx.ai on IBM's cloud."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx
from langchain.chat_models import init_chat_model

from mcp_chat.catalogue import CatalogueEntry
from mcp_chat.config import ModelConfig
from mcp_chat.exceptions import InvalidRequest
from mcp_chat.models.base import Model
from mcp_chat.models.chain import ChainModel
from mcp_chat.models.providers.base import Dial, Provider, Recipe
from mcp_chat.netguard import Policy

IAM = "https://iam.cloud.ibm.com/identity/token"
REGIONS = ("us-south", "eu-de", "eu-gb", "jp-tok", "au-syd", "ca-tor")
_ELSEWHERE = ("space_id", "api_key", "token", "password", "username", "instance_id")
"""What the class would take from the environment, although it uses none of it."""

_EARLY = 300.0
"""Seconds before its end in which a token is not used any more."""


class Watsonx(Provider):
    """IBM watsonx.ai on IBM's cloud: a key buys tokens there, and those prove who asks."""

    name = "watsonx"
    package = "langchain_ibm"
    extra = "watsonx"
    brings = ("api_key", "region", "base_url", "project_id")
    needs = ("api_key", "project_id")
    keys = ("WATSONX_APIKEY", "WATSONX_API_KEY")

    def open(self, recipe: Recipe, dial: Dial) -> Model:
        """Make a model; see `Provider.open`."""
        from ibm_watsonx_ai import APIClient, Credentials
        from ibm_watsonx_ai.foundation_models import ModelInference

        options = dict(recipe.options)
        iam = str(options.pop("iam_url", IAM))
        url = recipe.base_url or _url(recipe.region or REGIONS[0])
        bank = httpx.AsyncClient(**dial.options(dial.transport()))
        transport = dial.transport(Tokens(recipe.api_key or "", iam, bank).prove)
        # A stand-in, so that the package asks for no token: ours is put in where requests leave.
        credentials = Credentials(url=url, token="none", platform_url=url)  # noqa: S106
        vars(credentials).update(project_id=recipe.project_id, space_id=None)  # else the environment's
        client = APIClient(
            credentials,
            httpx_client=httpx.Client(transport=httpx.BaseTransport()),
            async_httpx_client=httpx.AsyncClient(**dial.options(transport)),
        )
        client.default_project_id = recipe.project_id
        params = {"temperature": recipe.temperature, "max_tokens": recipe.max_tokens, **options}
        inference = ModelInference(
            model_id=recipe.model,
            params={name: value for name, value in params.items() if value is not None},
            api_client=client,
            validate=False,
            max_retries=0,
        )
        chat = init_chat_model(
            recipe.model,
            model_provider="ibm",
            watsonx_model=inference,
            disable_streaming=not recipe.streaming,
            project_id=recipe.project_id,
            url=url,
            **dict.fromkeys(_ELSEWHERE),
        )

        async def close() -> None:
            await bank.aclose()
            await transport.aclose()

        return ChainModel(f"{self.name}:{recipe.model}", chat, close)

    def judged(self, config: ModelConfig, policy: Policy) -> ModelConfig:
        """Return a user's own model, which may be in a region of IBM's only; see `Provider.judged`."""
        config = super().judged(config, policy)
        region = config.region or _region(config.base_url)
        if region not in REGIONS:
            raise InvalidRequest(
                f"Invalid LLM configuration: give one of these regions of watsonx: {', '.join(REGIONS)}."
            )
        return replace(config, region=region, base_url=None)

    def lacks(self, entry: CatalogueEntry, environ: Mapping[str, str]) -> bool:
        """Nothing can be asked without a project."""
        project = entry.project_id or environ.get("WATSONX_PROJECT_ID")
        return not project or super().lacks(entry, environ)

    def usual(self, environ: Mapping[str, str]) -> bool:
        """A key, an address and a project."""
        others = (environ.get("WATSONX_URL"), environ.get("WATSONX_PROJECT_ID"))
        return super().usual(environ) and all(others)

    def default(self, environ: Mapping[str, str]) -> str | None:
        """Return the model that is listed when the operator lists none."""
        return environ.get("WATSONX_MODEL_ID") or "ibm/granite-4-h-small"

    def recipe(self, entry: CatalogueEntry, config: ModelConfig, environ: Mapping[str, str]) -> Recipe:
        """Return what a model of the operator's is made of; see `Provider.recipe`."""
        named = entry.base_url or (_url(entry.region) if entry.region else None)
        return replace(
            super().recipe(entry, config, environ),
            base_url=named or environ.get("WATSONX_URL") or None,
            project_id=entry.project_id or environ.get("WATSONX_PROJECT_ID"),
        )


class Tokens:
    """What a key buys at IBM's cloud, for an hour each.

    Args:
        key: The key.
        url: Where it is sold.
        http: Asks for it.
    """

    def __init__(self, key: str, url: str, http: httpx.AsyncClient) -> None:
        self._key = key
        self._url = url
        self._http = http
        self._token, self._ends = "", 0.0
        self._buying = anyio.Lock()

    async def prove(self, request: Any) -> None:
        """Let a request prove who asks, by this and by nothing else that the package has found."""
        for name in ("authorization", "cookie", "ml-instance-id"):
            request.headers.pop(name, None)
        request.headers["authorization"] = f"Bearer {await self._valid()}"

    async def _valid(self) -> str:
        async with self._buying:
            if time.monotonic() > self._ends:
                await self._buy()
        return self._token

    async def _buy(self) -> None:
        grant = {"grant_type": "urn:ibm:params:oauth:grant-type:apikey", "apikey": self._key}
        answer = (await self._http.post(self._url, data=grant)).json()
        self._token = str(answer["access_token"])
        self._ends = time.monotonic() + float(answer.get("expires_in", 3600)) - _EARLY


def _url(region: str) -> str:
    return f"https://{region}.ml.cloud.ibm.com"


def _region(url: str | None) -> str:
    """Return the region of an address, as ContextForge's clients send it."""
    if not url:
        return REGIONS[0]
    host = urlsplit(url).hostname or ""
    return next((region for region in REGIONS if host == f"{region}.ml.cloud.ibm.com"), "")
