"""Arguments that do not fit a tool's schema reach no server; the model is told what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from mcp.server import MCPServer
from pydantic import BaseModel, ConfigDict, Field

from tests.conftest import on_one_stage
from tests.faults import usable
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import running

stage, model, alice = on_one_stage(connect_timeout=15, tool_timeout=15, model_timeout=15, turn_timeout=40)


class Item(BaseModel):
    model_config = ConfigDict(extra="forbid")

    sku: str = Field(pattern="^[A-Z]{3}$")
    count: int = Field(ge=1)


@pytest.fixture
def orders() -> list[Any]:
    """What the shop was asked for."""
    return []


@pytest.fixture
def buyer(alice: Person, orders: list[Any]) -> Iterator[Person]:
    shop = MCPServer("shop")

    @shop.tool()
    def order(items: list[Item]) -> str:
        orders.append(items)
        return "ordered"

    with running(shop.streamable_http_app(), grace=0) as url:
        alice.connect(server={"url": f"{url}/mcp", "alias": "shop"})
        yield alice


@pytest.mark.parametrize(
    ("args", "place"),
    [
        ({}, 'Altogether: "items" is a required property.'),
        (
            {"items": [{"sku": "ABC", "count": 0}]},
            "At /items/0/count: the value is less than the minimum of 1.",
        ),
        ({"items": [{"sku": "abc", "count": 1}]}, 'At /items/0/sku: the value does not match "^[A-Z]{3}$".'),
        ({"items": "ABC"}, 'At /items: the value is not of type "array".'),
        ({"items": [{"sku": "ABC", "count": 1, "x\u202e": 2}]}, "('x<U+202E>' was unexpected)"),
    ],
)
def test_a_call_that_does_not_fit_is_told_to_the_model_and_not_made(
    buyer: Person, model: ModelServer, orders: list[Any], args: Any, place: str
) -> None:
    model.will(Reply(calls=[("shop__order", args)]), Reply(text="I see."))
    answer = buyer.say("order")
    [start, end] = answer["tool_invocations"]
    assert (start["type"], end["type"]) == ("tool_start", "tool_error")
    assert end["error"].startswith("The arguments do not fit the tool's schema, and the call was not made. ")
    assert place in end["error"]
    assert len(end["error"]) < 500
    assert model.requests[-1]["messages"][-1]["content"] == end["error"]
    assert orders == []
    usable(buyer, model)


def test_a_model_that_corrects_its_arguments_has_its_call_made(
    buyer: Person, model: ModelServer, orders: list[Any]
) -> None:
    good = {"items": [{"sku": "ABC", "count": 2}]}
    model.will(
        Reply(calls=[("shop__order", {"items": 5})]),
        Reply(calls=[("shop__order", good)]),
        Reply(text="Ordered."),
    )
    answer = buyer.say("order")
    assert [i["type"] for i in answer["tool_invocations"][1::2]] == ["tool_error", "tool_end"]
    assert orders == [[Item(sku="ABC", count=2)]]
