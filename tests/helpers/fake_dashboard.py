"""A server that answers like Ray's dashboard on a real socket: the Jobs API as far as clients use it, and failures."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

TOKEN = "0123456789abcdef0123456789abcdef"


@dataclass
class FakeJob:
    """A job. Its log is sent in pieces; each entry of `ends` ends one connection after some characters."""

    id: str
    name: str | None = "s"
    state: str = "SUCCEEDED"
    log: str = ""
    exit_code: int | None = 0
    message: str = ""
    notes: dict[str, str] = field(default_factory=dict)
    started: float = 1000.0
    ends: list[tuple[int, str]] = field(default_factory=list)  # (characters sent, "close" | "abort" | "silence")
    connections: int = 0

    def details(self) -> dict[str, Any]:
        notes = {"jepa_ray_sweep": self.name} if self.name else {}
        return {
            "type": "SUBMISSION",
            "submission_id": self.id,
            "status": self.state,
            "entrypoint": "",
            "message": self.message,
            "start_time": int(self.started * 1000),
            "end_time": None if self.state in ("PENDING", "RUNNING") else int(self.started * 1000) + 61_000,
            "metadata": notes | self.notes,
            "driver_exit_code": self.exit_code,
        }


class FakeDashboard:
    """A server in a thread, which runs from construction until `close`."""

    def __init__(self, token: str | None = None) -> None:
        self.token, self.version = token, "2.60.0"
        self.jobs: dict[str, FakeJob] = {}
        self.packages: dict[str, bytes] = {}
        self.submitted: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.stopped: list[str] = []
        # Returns an answer to send instead of the right one, or None.
        self.instead: Callable[[web.Request], web.Response | None] = lambda request: None
        self._loop, ready = asyncio.new_event_loop(), threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(10)

    def add(self, job: FakeJob) -> FakeJob:
        self.jobs[job.id] = job
        return job

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application(middlewares=[self._guard], client_max_size=2**27)
        app.router.add_get("/api/version", self._version)
        app.router.add_get("/api/v0/nodes", self._nodes)
        app.router.add_get("/api/packages/{protocol}/{name}", self._has_package)
        app.router.add_put("/api/packages/{protocol}/{name}", self._put_package)
        app.router.add_get("/api/jobs/", self._list)
        app.router.add_post("/api/jobs/", self._submit)
        app.router.add_get("/api/jobs/{id}", self._job)
        app.router.add_post("/api/jobs/{id}/stop", self._stop)
        app.router.add_get("/api/jobs/{id}/logs", self._logs)
        app.router.add_get("/api/jobs/{id}/logs/tail", self._tail)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self._loop.run_until_complete(site.start())
        self.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path} {request.headers.get('Authorization', '')}")
        if answer := self.instead(request):
            return answer
        given = request.headers.get("Authorization")
        if self.token and not given:
            return web.Response(status=401, text="Unauthorized: Missing authentication token")
        if self.token and given != f"Bearer {self.token}":
            return web.Response(status=403, text="Forbidden: Invalid authentication token")
        answer_: web.StreamResponse = await handler(request)
        return answer_

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "4", "ray_version": self.version, "ray_commit": "", "session_name": ""})

    async def _nodes(self, request: web.Request) -> web.Response:
        nodes = [
            {"state": "ALIVE", "resources_total": {"CPU": 16.0, "GPU": 4.0}},
            {"state": "ALIVE", "resources_total": {"CPU": 16.0}},
            {"state": "DEAD", "resources_total": {"CPU": 64.0}},
        ]
        return web.json_response({"result": True, "data": {"result": {"result": nodes}}})

    async def _has_package(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if request.match_info["name"] in self.packages else 404)

    async def _put_package(self, request: web.Request) -> web.Response:
        self.packages[request.match_info["name"]] = await request.read()
        return web.Response()

    async def _list(self, request: web.Request) -> web.Response:
        driver = {"type": "DRIVER", "status": "RUNNING", "entrypoint": "", "metadata": {"jepa_ray_sweep": "s"}}
        return web.json_response([*(job.details() for job in self.jobs.values()), driver])

    async def _submit(self, request: web.Request) -> web.Response:
        submitted = await request.json()
        self.submitted.append(submitted)
        job_id, notes = submitted["submission_id"], submitted["metadata"]
        self.add(FakeJob(job_id, notes["jepa_ray_sweep"], log="done\n", notes=notes, started=time.time()))
        return web.json_response({"job_id": job_id, "submission_id": job_id})

    async def _job(self, request: web.Request) -> web.Response:
        job = self.jobs.get(request.match_info["id"])
        return web.json_response(job.details()) if job else _unknown(request)

    async def _stop(self, request: web.Request) -> web.Response:
        job = self.jobs[request.match_info["id"]]
        self.stopped.append(job.id)
        job.state, job.exit_code = "STOPPED", None
        return web.json_response({"stopped": True})

    async def _logs(self, request: web.Request) -> web.Response:
        job = self.jobs.get(request.match_info["id"])
        return web.json_response({"logs": job.log}) if job else _unknown(request)

    async def _tail(self, request: web.Request) -> web.StreamResponse:
        job = self.jobs.get(request.match_info["id"])
        if not job:
            return _unknown(request)
        job.connections += 1
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        characters, how = job.ends.pop(0) if job.ends else (len(job.log), "end")
        for at in range(0, characters, 7):  # pieces may end in the middle of a line, as Ray's do
            await socket.send_str(job.log[at : min(at + 7, characters)])
        if how == "abort":
            assert request.transport
            request.transport.abort()
        elif how == "silence":
            await asyncio.sleep(60)
        elif how == "end" and not job.ends:
            while job.state in ("PENDING", "RUNNING") and not socket.closed:
                await asyncio.sleep(0.01)
        await socket.close()
        return socket


def _unknown(request: web.Request) -> web.Response:
    return web.Response(status=404, text=f"Job {request.match_info['id']} does not exist")
