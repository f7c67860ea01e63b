"""Amazon Bedrock."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

from langchain.chat_models import init_chat_model
from pydantic import SecretStr

from mcp_chat.catalogue import CatalogueEntry
from mcp_chat.config import ModelConfig
from mcp_chat.exceptions import InvalidRequest
from mcp_chat.models.base import Model
from mcp_chat.models.providers.base import Dial, Provider, Recipe, first
from mcp_chat.models.providers.refused import Refused
from mcp_chat.models.threaded import ThreadedModel
from mcp_chat.netguard import Policy

_REGION = re.compile(r"(?:us|eu|ap|ca|sa|me|af|il|mx)-(?:gov-)?[a-z]{4,12}-[1-9]")
_REGION_NAMES = ("AWS_BEDROCK_REGION", "AWS_REGION", "AWS_DEFAULT_REGION")
_CREDENTIALS = (
    *("AWS_BEARER_TOKEN_BEDROCK", "AWS_ACCESS_KEY_ID", "AWS_PROFILE"),
    *("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"),
    *("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
)


_CREDENTIAL_OPTIONS = {
    *("credentials_profile_name", "aws_access_key_id", "aws_secret_access_key", "aws_session_token"),
    *("bedrock_api_key", "config", "client"),
}


class Bedrock(Provider):
    """Amazon Bedrock.

    Its package dials by itself, so that a user's model is at the address of a region and nowhere else.
    """

    name = "bedrock"
    package = "langchain_aws"
    extra = "bedrock"
    brings = ("api_key", "secret_key", "session_token", "region")
    needs = ("api_key", "region")

    def open(self, recipe: Recipe, dial: Dial) -> Model:
        """Make a model; see `Provider.open`."""
        arguments = {
            **recipe.common,
            **({"max_tokens": recipe.max_tokens} if recipe.max_tokens else {}),
            **(_own(recipe, dial) if dial.own else _operators(recipe, dial)),
            **recipe.options,
        }
        chat: Any = init_chat_model(recipe.model, model_provider="bedrock_converse", **arguments)
        return ThreadedModel(f"{self.name}:{recipe.model}", chat, partial(_close, chat), _translated)

    def judged(self, config: ModelConfig, policy: Policy) -> ModelConfig:
        """Return a user's own model; see `Provider.judged`."""
        config = super().judged(config, policy)
        if not _REGION.fullmatch(config.region or ""):
            raise InvalidRequest("Invalid LLM configuration: the region must be one of AWS, as in us-east-1.")
        if config.session_token and not config.secret_key:
            raise InvalidRequest("Invalid LLM configuration: a session token belongs to a secret key.")
        return config

    def lacks(self, entry: CatalogueEntry, environ: Mapping[str, str]) -> bool:
        """AWS finds its credentials in many places, so that only a key that is named can be missing."""
        region = entry.region or entry.options.get("region_name") or first(environ, *_REGION_NAMES)
        return not region or (bool(entry.api_key_env) and not self.key(entry, environ))

    def usual(self, environ: Mapping[str, str]) -> bool:
        """Credentials of AWS, and a region."""
        return bool(first(environ, *_CREDENTIALS) and first(environ, *_REGION_NAMES))

    def default(self, environ: Mapping[str, str]) -> str | None:
        """Return a model that the region has, as far as that is known."""
        if model := environ.get("AWS_BEDROCK_MODEL_ID"):
            return model
        area = (first(environ, *_REGION_NAMES) or "").partition("-")[0]
        prefix = {"us": "us", "eu": "eu", "ap": "apac"}.get(area)
        return f"{prefix}.amazon.nova-lite-v1:0" if prefix else None

    def recipe(self, entry: CatalogueEntry, config: ModelConfig, environ: Mapping[str, str]) -> Recipe:
        """Return what a model of the operator's is made of; see `Provider.recipe`."""
        region = entry.region or first(environ, *_REGION_NAMES)
        return replace(super().recipe(entry, config, environ), region=region)


def _own(recipe: Recipe, dial: Dial) -> dict[str, Any]:
    """Make the clients here: the class fills in what is left out from the environment, and prefers that."""
    runtime, control = (
        _client(service, f"https://{service}.{recipe.region}.amazonaws.com", recipe, dial)
        for service in ("bedrock-runtime", "bedrock")
    )
    return {"client": runtime, "bedrock_client": control, "region_name": recipe.region}


def _client(service: str, url: str, recipe: Recipe, dial: Dial) -> Any:
    """Return a client with a user's own credentials, at an address that no variable and no file changes."""
    session = _session()
    if recipe.secret_key:
        # A version that is named keeps AWS's package from preferring a bearer token of the environment.
        config = _config(dial, proxies={}, signature_version="v4")
        session.set_credentials(recipe.api_key, recipe.secret_key, recipe.session_token)
    else:
        config = _config(dial, proxies={}, auth_scheme_preference="httpBearerAuth")
        session.register_component("token_provider", _Bearer(recipe.api_key or ""))
    return session.create_client(service, region_name=recipe.region, endpoint_url=url, config=config)


class _Bearer:
    """Gives AWS's package the one key that it is to use."""

    def __init__(self, key: str) -> None:
        self._key = key

    def load_token(self, **_: Any) -> Any:
        from botocore.tokens import FrozenAuthToken

        return FrozenAuthToken(self._key)


def _operators(recipe: Recipe, dial: Dial) -> dict[str, Any]:
    """Let AWS's package find what the operator has, and the class what else is in the options."""
    named = {
        "region_name": recipe.region,
        "endpoint_url": recipe.base_url,
        "bedrock_api_key": _secret(recipe.api_key),
    }
    given = {name: value for name, value in named.items() if value}
    if recipe.api_key or recipe.options.keys() & _CREDENTIAL_OPTIONS:
        return {"config": _config(dial), **given}
    runtime, control = (
        _session().create_client(
            service, region_name=recipe.region, endpoint_url=recipe.base_url, config=_config(dial)
        )
        for service in ("bedrock-runtime", "bedrock")
    )
    return {"client": runtime, "bedrock_client": control, **given}


def _session() -> Any:
    from botocore.session import Session

    session = Session()
    session.register_component("data_loader", _loader())
    return session


@cache
def _loader() -> Any:
    """Return what knows AWS's services: read once, as it takes a third of a second and 30 MB."""
    from botocore.loaders import Loader

    return Loader()


def _config(dial: Dial, **more: Any) -> Any:
    from botocore.config import Config

    return Config(
        read_timeout=dial.silence,
        connect_timeout=dial.silence,
        retries={"total_max_attempts": 1},
        max_pool_connections=50,
        **more,
    )


def _secret(text: str | None) -> SecretStr | None:
    return SecretStr(text) if text else None


_STATUS = {
    "throttlingException": 429,
    "validationException": 400,
    "serviceUnavailableException": 503,
    "modelTimeoutException": 504,
}
"""What is told in the middle of an answer has no HTTP status."""


def _translated(error: Exception) -> Exception:
    """Return AWS's refusal as one of HTTP; LangChain may have wrapped it."""
    from botocore.exceptions import ClientError

    found: BaseException | None = error
    while found is not None and not isinstance(found, ClientError):
        found = found.__cause__
    if found is None:
        return error
    about = found.response.get("ResponseMetadata", {})
    code = str(found.response.get("Error", {}).get("Code", ""))
    status = about.get("HTTPStatusCode") or _STATUS.get(code, 500)
    answer = SimpleNamespace(status_code=status, headers=about.get("HTTPHeaders", {}))
    return Refused(int(status), answer, str(found))


async def _close(chat: Any) -> None:
    chat.client.close()
    chat.bedrock_client.close()
