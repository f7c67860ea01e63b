"""Conversations over their life at the HTTP door: begun, left, taken up again, deleted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis

from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import wait_until


@pytest.fixture
def bob(serve: Callable[..., str], name: str, valkey_url: str) -> Iterator[Person]:
    """Someone in front of an application that shares Valkey with others."""
    with Person(serve(redis_url=valkey_url), name) as person:
        yield person


def listed(person: Person) -> list[str]:
    return [session["session_id"] for session in person.get("sessions").json()["sessions"]]


def test_a_disconnect_leaves_an_earlier_conversation_that_can_be_gone_on_with(alice: Person) -> None:
    first = alice.connect()["session_id"]
    alice.say("the first thing")
    alice.post("disconnect")
    second = alice.connect()["session_id"]
    assert alice.say("anything before?")["response"].startswith("1 messages"), "it is not fed into a new one"
    assert listed(alice) == [second, first]
    again = alice.say("and now?", session_id=first)
    assert again["resumed"] is True
    assert again["response"].startswith("3 messages")


def test_an_operator_can_have_it_deleted_at_the_disconnect(
    serve: Callable[..., str], name: str, valkey_url: str
) -> None:
    url = serve(keep_history=False, redis_url=valkey_url)
    with Person(url, name) as alice, Redis.from_url(valkey_url) as redis:
        session_id = alice.connect()["session_id"]
        alice.say("forget this")
        assert listed(alice) == [session_id]
        alice.connect()
        assert listed(alice) == [], "another connect takes its place"
        assert b"forget" not in str(redis.xrange(f"chat:events:{{{name}}}")).encode()
        alice.say("forget that, too")
        alice.post("disconnect")
        assert listed(alice) == []
        assert alice.get("search?q=forget").json()["count"] == 0
        assert b"forget" not in str(redis.xrange(f"chat:events:{{{name}}}")).encode()


@pytest.mark.parametrize("how", ["disconnect", "connect"])
def test_a_reader_hears_the_end_of_what_is_deleted(
    serve: Callable[..., str], name: str, model: ModelServer, how: str
) -> None:
    model.will(Reply(text="word " * 500, pause=0.05))
    with Person(serve(keep_history=False), name) as alice, ThreadPoolExecutor() as pool:
        alice.connect()
        alice.http.timeout = 15.0
        with alice.streaming("tell me a long story") as frames:
            next(frames)
            ended = pool.submit(
                alice.post, how, **({"llm": {"model": "openai:scripted"}} if how == "connect" else {})
            )
            assert list(frames)[-1][1]["stopped"] is True
            assert ended.result().status_code == 200


def test_a_session_is_deleted_while_its_turn_runs(alice: Person, model: ModelServer) -> None:
    session_id = alice.connect()["session_id"]
    model.will(Reply(text="word " * 500, pause=0.05))
    with alice.streaming("tell me a long story") as frames:
        next(frames)
        with ThreadPoolExecutor() as pool:
            gone = pool.submit(alice.http.delete, f"/llmchat/sessions/{session_id}").result()
        assert gone.json() == {"status": "deleted", "session_id": session_id}
        assert list(frames)[-1][1]["stopped"] is True
    assert listed(alice) == []
    assert alice.get(f"sessions/{session_id}").status_code == 404
    assert alice.get("search?q=story").json()["count"] == 0


@pytest.mark.parametrize("where", ["alice", "bob"])
def test_nothing_of_a_deleted_conversation_is_told_again(
    request: pytest.FixtureRequest, where: str, name: str, valkey_url: str
) -> None:
    person: Person = request.getfixturevalue(where)
    person.connect()
    first = person.say("the secret is zebra", message_id="m-1")["session_id"]
    assert person.http.delete(f"/llmchat/sessions/{first}").status_code == 200
    again = person.say("something else", message_id="m-1", session_id=first)
    assert "zebra" not in again["response"]
    assert (again["resumed"], again["session_id"] == first) == (False, False)
    with Redis.from_url(valkey_url) as redis:
        assert b"zebra" not in b"".join(
            str(redis.xrange(key)).encode() for key in redis.keys("chat:events:*")
        )


def test_the_connected_conversation_can_be_deleted_and_a_new_one_takes_its_place(alice: Person) -> None:
    first = alice.connect()["session_id"]
    alice.say("hello")
    assert alice.http.delete(f"/llmchat/sessions/{first}").status_code == 200
    answer = alice.say("hello again")
    assert answer["session_id"] != first
    assert answer["response"].startswith("1 messages")
    assert alice.get("config/{me}").json()["session_id"] == answer["session_id"]
    assert alice.http.delete(f"/llmchat/sessions/{first}").status_code == 404


def test_an_earlier_conversation_is_deleted_without_touching_the_connected_one(alice: Person) -> None:
    alice.connect()
    other = alice.say("elsewhere", session_id="unknown")["session_id"]
    here = alice.say("here")["session_id"]
    assert alice.http.delete(f"/llmchat/sessions/{other}").status_code == 200
    assert alice.say("still here?")["response"].startswith("3 messages")
    assert listed(alice) == [here]


def test_someone_who_never_connected_can_delete_what_they_imported(bob: Person) -> None:
    document = {"schema": "mcp-chat/session/1", "messages": [{"role": "user", "content": "hi"}]}
    session_id = bob.http.post("/llmchat/sessions/import", json=document).json()["session_id"]
    assert bob.http.delete(f"/llmchat/sessions/{session_id}").status_code == 200
    assert listed(bob) == []


def test_a_window_that_is_lost_is_filled_again(bob: Person, valkey_url: str) -> None:
    bob.connect()
    bob.say("one")
    with Redis.from_url(valkey_url) as redis:
        for key in redis.scan_iter(f"chat:history:{{{bob.name}}}*"):
            redis.delete(key)
    assert bob.say("two")["response"].startswith("3 messages")


def test_what_cannot_be_read_in_a_window_does_not_end_the_chat(bob: Person, valkey_url: str) -> None:
    session_id = bob.connect()["session_id"]
    bob.say("one")
    with Redis.from_url(valkey_url) as redis:
        key = f"chat:history:{{{bob.name}}}:{session_id}"
        redis.rpush(key, "{not json")
        assert bob.say("two")["response"].startswith("3 messages")
        assert redis.lrange(f"chat:aside:{{{bob.name}}}", 0, -1) == [b"{not json"]
        redis.delete(key)
        redis.set(key, "a value of another kind")
        assert bob.say("three")["stopped"] is False


def test_what_a_gateway_has_kept_is_taken_over_once(bob: Person, valkey_url: str, model: ModelServer) -> None:
    kept = [{"role": "user", "content": "from the gateway"}, {"role": "assistant", "content": "indeed"}]
    with Redis.from_url(valkey_url) as redis:
        redis.set(f"chat_history:{bob.name}", json.dumps(kept), ex=3600)
        bob.connect()
        assert bob.say("and now?")["response"].startswith("3 messages")
        assert [message["content"] for message in bob.history()][:2] == ["from the gateway", "indeed"]
        assert redis.get(f"chat_history:{bob.name}") is None
        assert redis.ttl(f"{{chat_history:{bob.name}}}:imported") > 86_400
    bob.post("disconnect")
    bob.connect()
    assert bob.say("again?")["response"].startswith("1 messages")


def test_the_tokens_of_a_conversation_add_up(alice: Person, model: ModelServer) -> None:
    session_id = alice.connect()["session_id"]
    used = [alice.say(text)["usage"] for text in ("one", "two two", "three")]
    known = alice.get(f"sessions/{session_id}").json()["token_usage"]
    for kind in ("input_tokens", "output_tokens"):
        assert known[kind] == sum(each[kind] for each in used) > 0


def test_the_connected_conversation_is_there_before_anything_was_said(alice: Person) -> None:
    first = alice.connect()["session_id"]
    assert alice.get(f"sessions/{first}").json()["connected"] is True
    assert alice.get(f"sessions/{first}/messages").json()["count"] == 0
    assert alice.get(f"sessions/{first}/context").json()["messages"] == []
    assert listed(alice) == []
    named = alice.http.patch(f"/llmchat/sessions/{first}", json={"name": "Plans"})
    assert (named.status_code, named.json()["name"]) == (200, "Plans")
    assert listed(alice) == [first]
    second = alice.connect()["session_id"]
    assert alice.http.delete(f"/llmchat/sessions/{second}").status_code == 200
    assert alice.say("hello")["session_id"] not in (first, second)


def test_each_worker_knows_a_new_name_at_once(serve: Callable[..., str], name: str) -> None:
    with Person(serve(), name) as one, Person(serve(), name) as other:
        session_id = one.connect()["session_id"]
        one.say("hello there")
        assert other.get(f"sessions/{session_id}").json()["name"] == "hello there"
        other.http.patch(f"/llmchat/sessions/{session_id}", json={"name": "Greetings"})
        one.say("and more")
        wait_until(lambda: one.get(f"sessions/{session_id}").json()["name"] == "Greetings", "it is known")
