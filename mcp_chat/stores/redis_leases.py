"""Redis or Valkey: who owns which user, and which workers live."""

from __future__ import annotations

import asyncio

from mcp_chat.exceptions import Forgotten
from mcp_chat.stores.base import Lease
from mcp_chat.stores.client import Client, translated
from mcp_chat.stores.redis_branches import owner_key
from mcp_chat.stores.scripts import Scripts

DAY = 86_400
FORGOTTEN = 600
"""Seconds for which it stays known whom a dead worker served: several take its users over."""


def _users_key(worker: str) -> str:
    return f"worker:sessions:{worker}"


class RedisLeases:
    """Leases, locks and heartbeats."""

    def __init__(self, redis: Client, scripts: Scripts) -> None:
        self._redis = redis
        self._scripts = scripts

    async def get(self, user: str) -> Lease | None:
        with translated():
            worker, epoch = await self._redis.hmget(owner_key(user), ["worker", "epoch"])
        return None if epoch is None else Lease(user=user, worker=str(worker or ""), epoch=int(epoch))

    async def claim(self, user: str, worker: str, *, floor: int, seen: Lease | None) -> Lease | None:
        await self._note(worker, user)
        args = (seen.epoch if seen else 0, worker, floor, DAY * 1000)
        epoch = int(await self._scripts.run("claim", [owner_key(user)], args))
        return Lease(user=user, worker=worker, epoch=epoch) if epoch else None

    async def renew(self, lease: Lease, *, anew: bool = False) -> bool:
        await self._note(lease.worker, lease.user)
        args = (lease.worker, lease.epoch, DAY * 1000, "anew" if anew else "")
        done = await self._scripts.run("renew", [owner_key(lease.user)], args)
        if done == -1:
            raise Forgotten
        return bool(done)

    async def _note(self, worker: str, user: str) -> None:
        """Put a user into the worker's set, before the lease says so: there must be none that is missing."""
        with translated():
            await self._redis.sadd(_users_key(worker), user)
            await self._redis.expire(_users_key(worker), DAY)

    async def release(self, lease: Lease) -> None:
        if not await self._scripts.run("release", [owner_key(lease.user)], [lease.epoch]):
            return
        with translated():
            await self._redis.srem(_users_key(lease.worker), lease.user)

    async def beat(self, worker: str, ttl: float, *, taking: bool = True, full: bool = False) -> None:
        mark = self._redis.srem if taking else self._redis.sadd
        with translated():  # side by side: on a slow network a beat is not to take longer than one command
            await asyncio.gather(
                self._redis.set(f"worker:{worker}", "full" if full else "1", px=int(ttl * 1000)),
                mark("workers:leaving", worker),
                self._redis.expire("workers:leaving", DAY),
                self._scripts.run("beat", ["workers"], [worker, int(ttl * 1000), DAY]),
            )

    async def alive(self, worker: str) -> bool:
        with translated():
            return bool(worker) and bool(await self._redis.exists(f"worker:{worker}"))

    async def full(self, worker: str) -> bool:
        with translated():
            return bool(await self._redis.get(f"worker:{worker}") == "full")

    async def workers(self) -> list[str]:
        alive = await self._scripts.run("workers", ["workers"], ["alive"])
        with translated():
            leaving = await self._redis.smembers("workers:leaving")
        return [worker for worker in alive if worker not in leaving]

    async def silent(self) -> list[str]:
        return list(await self._scripts.run("workers", ["workers"], ["silent"]))

    async def users(self, worker: str) -> list[str]:
        with translated():
            return sorted(map(str, await self._redis.smembers(_users_key(worker))))

    async def expire(self, worker: str) -> bool:
        with translated():
            await self._redis.delete(f"worker:{worker}")
            return bool(await self._redis.execute_command("ZADD", "workers", "XX", "CH", 0, worker))

    async def forget(self, worker: str) -> None:
        with translated():
            await asyncio.gather(
                self._redis.delete(f"worker:{worker}"),
                self._redis.zrem("workers", worker),
                self._redis.srem("workers:leaving", worker),
                self._redis.expire(_users_key(worker), FORGOTTEN),
            )

    async def lock(self, user: str, token: str, ttl: float) -> bool:
        with translated():
            return bool(await self._redis.set(f"session:lock:{{{user}}}", token, nx=True, px=int(ttl * 1000)))

    async def locked_by(self, user: str) -> str | None:
        with translated():
            token = await self._redis.get(f"session:lock:{{{user}}}")
        return None if token is None else str(token)

    async def unlock(self, user: str, token: str) -> None:
        await self._scripts.run("unlock", [f"session:lock:{{{user}}}"], [token])
