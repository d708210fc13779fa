"""Several workers on one port: all of them serve, a lost one is replaced, and a full replacement goes unnoticed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pty
import signal
import subprocess
import urllib.request
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from skilder.keys.v1 import authorization_service_pb2, catalog_service_pb2, key_service_pb2
from tests.support.fleet import until
from tests.support.lengths import by_form
from tests.support.process import COMMAND, FRESH, ServerProcess, environment, run_command, serving_process
from tests.support.service import TOKENS, Client, write_callers
from tests.support.transport import GRPCIO_IF_SHORT, ONLY_GRPCIO
from tests.support.waiting import until_running
from tests.support.workers import channel_to, issued, load, operator_metadata, status_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    import asyncpg

# They wait for processes most of the time.
pytestmark = pytest.mark.long

OK = grpc.StatusCode.OK


@asynccontextmanager
async def serving(
    folder: Path, database_url: str, *, transport: str, command: Sequence[str | Path] = (), **variables: str
) -> AsyncIterator[ServerProcess]:
    """Run a server, by default with two workers."""
    defaults = {"SKILDER_KEYS_WORKERS": "2", "SKILDER_KEYS_DATABASE_URL": database_url}
    with serving_process(folder, transport=transport, command=command, **defaults | variables) as server:
        await asyncio.to_thread(lambda: server.address)
        yield server


async def until_gone(processes: Iterable[psutil.Process]) -> None:
    """Wait until all these processes have ended."""
    _, alive = await asyncio.to_thread(psutil.wait_procs, list(processes), 60)
    assert alive == []


@GRPCIO_IF_SHORT
async def test_every_worker_serves(transport: str, database_url: str, tmp_path: Path) -> None:
    """Connections go to all of them, and each responds."""
    async with (
        serving(tmp_path, database_url, transport=transport, SKILDER_KEYS_WORKERS="3") as server,
        AsyncExitStack() as stack,
    ):
        assert server.events("serving")[0]["workers"] == 3
        workers = server.workers()
        assert sorted(workers) == [0, 1, 2]
        for worker in workers.values():
            channel = await channel_to(worker, server, stack)
            assert await status_of(channel, operator_metadata(server, tmp_path)) is OK


@GRPCIO_IF_SHORT
async def test_a_worker_gets_no_secret_where_others_could_read_it(
    transport: str, database_url: str, tmp_path: Path
) -> None:
    """Neither in its arguments nor in its environment."""
    async with serving(tmp_path, database_url, transport=transport, command=FRESH) as server:
        token = (tmp_path / "data" / "operator-token").read_text("ascii").strip()
        assert server.process.args == [COMMAND, "serve"]
        for worker in server.workers().values():
            reported = "\n".join([*worker.cmdline(), *worker.environ(), *worker.environ().values()])
            assert "SKILDER_KEYS" not in reported
            assert database_url not in reported
            assert token not in reported


@ONLY_GRPCIO
async def test_a_forked_worker_is_like_a_new_one(transport: str, database_url: str, tmp_path: Path) -> None:
    """The tests fork workers of forked servers; these inherit no more than a new interpreter does."""

    def seen(worker: psutil.Process) -> dict[str, object]:
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines())
        files = set()
        for each in Path(f"/proc/{worker.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                files.add(str(each.readlink()).partition(":[")[0])
        return {
            "signals": [status[name] for name in ("SigBlk", "SigIgn", "SigCgt")],
            "umask": status["Umask"],
            "group": os.getpgid(worker.pid) == worker.pid,
            "session": os.getsid(worker.pid) == os.getsid(worker.ppid()),
            "limits": worker.rlimit(psutil.RLIMIT_NOFILE),
            "input": str(Path(f"/proc/{worker.pid}/fd/0").readlink()),
            "kinds of files": files,
            "folder": worker.cwd(),
        }

    found = []
    for command in ((), FRESH):
        async with serving(tmp_path, database_url, transport=transport, command=command) as server:
            found.append([seen(worker) for worker in server.workers().values()])
    assert found[0] == found[1]
    assert found[0][0]["group"]


@GRPCIO_IF_SHORT
async def test_a_worker_that_is_killed_is_replaced(transport: str, database_url: str, tmp_path: Path) -> None:
    """A new one starts at once, while the other one serves on."""
    async with serving(tmp_path, database_url, transport=transport) as server, AsyncExitStack() as stack:
        metadata = operator_metadata(server, tmp_path)
        before = server.workers()
        spared = await channel_to(before[1], server, stack)
        before[0].kill()
        gone = await asyncio.to_thread(server.wait_for, "a worker is gone: starting another")
        assert (gone["worker"], gone["code"]) == (0, -signal.SIGKILL)
        assert await status_of(spared, metadata) is OK
        await asyncio.to_thread(server.wait_for, "worker started", worker=0)
        after = server.workers()
        assert after[0] != before[0]
        assert after[1] == before[1]
        assert await status_of(await channel_to(after[0], server, stack), metadata) is OK


@GRPCIO_IF_SHORT
async def test_a_worker_knows_the_keys_that_those_before_it_have_verified(
    transport: str, database_url: str, tmp_path: Path
) -> None:
    """After all workers have ended, nobody has asked the new ones about the key. The metrics show what they know."""
    metrics = {"SKILDER_KEYS_METRICS_LISTEN": "127.0.0.1:0"}
    async with serving(tmp_path, database_url, transport=transport, **metrics) as server, AsyncExitStack() as stack:
        before = server.workers()
        channel = await channel_to(before[0], server, stack)
        metadata = operator_metadata(server, tmp_path)
        request = authorization_service_pb2.AuthorizeRequest(token=(await issued(channel, metadata)).token)
        response = await Client(channel).authorization.Authorize(request, metadata=metadata)
        assert response.HasField("granted")
        for worker in before.values():
            worker.kill()
        await until_gone(before.values())
        async with asyncio.timeout(60):
            while await known_keys(server) != [1, 1]:
                await asyncio.sleep(0.05)


async def known_keys(server: ServerProcess) -> list[float]:
    """Return how many keys each worker knows."""
    place = server.events("serving")[0]["metrics"]
    with await asyncio.to_thread(urllib.request.urlopen, f"http://{place}/metrics", timeout=60) as response:
        families = text_string_to_metric_families(response.read().decode())
    return [each.value for family in families for each in family.samples if each.name == "skilder_keys_cached_keys"]


@GRPCIO_IF_SHORT
async def test_workers_end_with_their_parent(transport: str, database_url: str, tmp_path: Path) -> None:
    """Even if the parent is killed, so that no worker serves on without control."""
    async with serving(tmp_path, database_url, transport=transport) as server:
        workers = server.workers()
        server.process.kill()
        await until_gone(workers.values())
        assert len(server.events("the parent is gone: this worker ends")) == 2


async def test_sigterm_drains_all_at_the_same_time(
    transport: str, database_url: str, tmp_path: Path, sql: asyncpg.Connection[Any]
) -> None:
    """Running calls get their responses; a worker without calls does not wait for those of the others."""
    async with serving(tmp_path, database_url, transport=transport) as server, AsyncExitStack() as stack:
        metadata = operator_metadata(server, tmp_path)
        workers = server.workers()
        channel = await channel_to(workers[0], server, stack)
        key_id = (await issued(channel, metadata)).key.id
        revoke = key_service_pb2.RevokeKeyRequest(key_id=key_id)
        async with sql.transaction():
            await sql.execute("SELECT FROM key FOR UPDATE")
            revoking = Client(channel).keys.RevokeKey(revoke, metadata=metadata)
            await until_running(sql, 1)
            server.process.send_signal(signal.SIGTERM)
            ended = await asyncio.to_thread(server.wait_for, "worker ended")
            assert (ended["worker"], ended["code"]) == (1, 0)
        assert (await revoking).key.HasField("revoked_at")
        assert await asyncio.to_thread(server.wait) == 0
        assert [(each["worker"], each["code"]) for each in server.events("worker ended")] == [(1, 0), (0, 0)]
        assert server.events("stopped")


@GRPCIO_IF_SHORT
async def test_a_worker_that_is_frozen_is_replaced(transport: str, database_url: str, tmp_path: Path) -> None:
    """It is logged and counted. The other one serves all the while, and a worker that only pauses is left alone."""
    async with (
        serving(tmp_path, database_url, transport=transport, SKILDER_KEYS_WORKER_TIMEOUT="3") as server,
        AsyncExitStack() as stack,
    ):
        metadata = operator_metadata(server, tmp_path)
        before = server.workers()
        spared = await channel_to(before[1], server, stack)
        before[0].suspend()
        frozen = await asyncio.to_thread(server.wait_for, "a worker is frozen: killing it")
        assert (frozen["worker"], frozen["pid"]) == (0, before[0].pid)
        assert await status_of(spared, metadata) is OK
        await asyncio.to_thread(server.wait_for, "worker started", worker=0)
        after = server.workers()
        assert after[1] == before[1]
        assert await status_of(await channel_to(after[0], server, stack), metadata) is OK


@GRPCIO_IF_SHORT
async def test_nothing_is_left_of_a_server_that_is_killed(transport: str, database_url: str, tmp_path: Path) -> None:
    """Not even a frozen worker, which could not end by itself."""
    async with serving(tmp_path, database_url, transport=transport) as server:
        left = psutil.Process(server.process.pid).children(recursive=True)
        assert len(left) == 3, "two workers, and their watchdog"
        server.workers()[0].suspend()
        server.process.kill()
        await until_gone(left)


@GRPCIO_IF_SHORT
async def test_a_second_signal_ends_at_once(
    transport: str, database_url: str, tmp_path: Path, sql: asyncpg.Connection[Any]
) -> None:
    """It means that nobody wants to wait for calls. Signals within a second count as one."""
    async with (
        serving(tmp_path, database_url, transport=transport, SKILDER_KEYS_DRAIN_TIMEOUT="600") as server,
        AsyncExitStack() as stack,
    ):
        metadata = operator_metadata(server, tmp_path)
        workers = server.workers()
        channel = await channel_to(workers[0], server, stack)
        key_id = (await issued(channel, metadata)).key.id
        async with sql.transaction():
            await sql.execute("SELECT FROM key FOR UPDATE")
            call = Client(channel).keys.RevokeKey(key_service_pb2.RevokeKeyRequest(key_id=key_id), metadata=metadata)
            await until_running(sql, 1)
            for _ in range(3):
                server.process.send_signal(signal.SIGTERM)
            draining = await asyncio.to_thread(server.wait_for, "draining")
            await asyncio.sleep(1.1)
            assert server.process.poll() is None, f"{draining}, and then it waits for the call"
            assert await asyncio.to_thread(server.end) == 128 + signal.SIGTERM
            await until_gone(workers.values())
            assert await call.code() is grpc.StatusCode.UNAVAILABLE


@GRPCIO_IF_SHORT
async def test_sighup_loses_no_call(transport: str, database_url: str, tmp_path: Path) -> None:
    """Every worker is replaced, twice in the long form, while clients call all the time and new ones connect."""
    rounds = by_form(1, 2)
    async with serving(tmp_path, database_url, transport=transport, SKILDER_KEYS_MAX_CONNECTION_AGE="1") as server:
        metadata = operator_metadata(server, tmp_path)
        async with grpc.aio.insecure_channel(server.address) as channel:
            token = (await issued(channel, metadata)).token
        before = server.workers()
        async with load(server, metadata, token, channels=4, newcomers=2) as result:
            for _ in range(rounds):
                server.process.send_signal(signal.SIGHUP)
                await asyncio.to_thread(server.wait_for, "reloading")
                for index in range(2):
                    await asyncio.to_thread(server.wait_for, "worker replaced", worker=index)
                await asyncio.to_thread(server.wait_for, "reloaded")
        assert result.lost == {}
        assert result.granted > 50 * rounds
        assert result.connections > 30 * rounds
        replaced = [each["pid"] for each in server.events("worker replaced")]
        assert len(set(replaced)) == 2 * rounds
        assert {worker.pid for worker in before.values()} <= set(replaced)
        assert not any(psutil.pid_exists(pid) for pid in replaced)


@GRPCIO_IF_SHORT
async def test_a_health_watch_does_not_delay_sighup(transport: str, database_url: str, tmp_path: Path) -> None:
    """It ends with its worker, which waits no longer for it than for other connections; a new watch works."""
    async with (
        serving(
            tmp_path,
            database_url,
            transport=transport,
            SKILDER_KEYS_MAX_CONNECTION_AGE="1",
            SKILDER_KEYS_WORKERS="1",
            SKILDER_KEYS_DRAIN_TIMEOUT="600",
        ) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        server.process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(server.wait_for, "worker replaced")
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await watch.code() is grpc.StatusCode.UNAVAILABLE
        again = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await again.read()).status == health_pb2.HealthCheckResponse.SERVING
        again.cancel()


@GRPCIO_IF_SHORT
async def test_a_caller_changes_its_token_without_a_refused_call(
    transport: str, database_url: str, tmp_path: Path
) -> None:
    """As docs/callers.md says: both tokens work until the old one is taken out of the file."""
    callers, old, new = tmp_path / "callers.yaml", "o" * 40, "n" * 40

    async def responses(server: ServerProcess) -> list[grpc.StatusCode]:
        found = []
        for token in (old, new):
            async with grpc.aio.insecure_channel(server.address) as channel:
                found.append(await status_of(channel, (("authorization", f"Bearer {token}"),)))
        return found

    def allow(*tokens: str) -> None:
        digests = [hashlib.sha256(token.encode()).hexdigest() for token in tokens]
        write_callers(callers, [{"name": "gateway", "role": "service", "token_sha256": digests}])

    allow(old)
    async with serving(
        tmp_path,
        database_url,
        transport=transport,
        SKILDER_KEYS_CALLERS=str(callers),
        SKILDER_KEYS_MAX_CONNECTION_AGE="1",
        SKILDER_KEYS_WORKERS="1",
    ) as server:
        assert await responses(server) == [OK, grpc.StatusCode.UNAUTHENTICATED]
        for tokens, expected in (((old, new), [OK, OK]), ((new,), [grpc.StatusCode.UNAUTHENTICATED, OK])):
            allow(*tokens)
            server.process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(server.wait_for, "worker replaced")
            assert await responses(server) == expected


@GRPCIO_IF_SHORT
async def test_sighup_reads_the_callers_file_again(transport: str, database_url: str, tmp_path: Path) -> None:
    """A new caller is accepted. A file with an error changes nothing and is reported."""
    callers = tmp_path / "callers.yaml"
    callers.write_text("callers: []")
    metadata = (("authorization", f"Bearer {TOKENS['service']}"),)

    async def response(server: ServerProcess) -> grpc.StatusCode:
        async with grpc.aio.insecure_channel(server.address) as channel:
            return await status_of(channel, metadata)

    async with serving(
        tmp_path,
        database_url,
        transport=transport,
        SKILDER_KEYS_CALLERS=str(callers),
        SKILDER_KEYS_MAX_CONNECTION_AGE="1",
    ) as server:
        assert await response(server) is grpc.StatusCode.UNAUTHENTICATED
        write_callers(callers, [])
        server.process.send_signal(signal.SIGHUP)
        for index in range(2):
            await asyncio.to_thread(server.wait_for, "worker replaced", worker=index)
        assert await response(server) is OK

        workers = server.workers()
        callers.write_text("callers: {}")
        server.process.send_signal(signal.SIGHUP)
        failed = await asyncio.to_thread(server.wait_for, "reload failed: the old workers stay")
        assert str(callers) in failed["error"]
        assert server.workers() == workers
        assert all(worker.is_running() for worker in workers.values())
        assert await response(server) is OK


@GRPCIO_IF_SHORT
async def test_sigterm_ends_a_sighup_too(transport: str, database_url: str, tmp_path: Path) -> None:
    """A draining worker and its successor are drained like the others."""
    async with (
        serving(tmp_path, database_url, transport=transport, SKILDER_KEYS_MAX_CONNECTION_AGE="86400") as server,
        AsyncExitStack() as stack,
    ):
        before = server.workers()
        channel = await channel_to(before[0], server, stack)
        server.process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(server.wait_for, "worker started", worker=0)
        after = server.workers()
        assert await status_of(channel, operator_metadata(server, tmp_path)) is OK
        assert await asyncio.to_thread(server.end) == 0
        await until_gone({*before.values(), *after.values()})
        assert sorted(each["worker"] for each in server.events("worker ended")) == [0, 0, 1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
@GRPCIO_IF_SHORT
async def test_a_second_server_on_the_address_is_refused(
    transport: str, database_url: str, tmp_path: Path, host: str
) -> None:
    """It cannot share the port, though the workers of the first do."""
    own = {"SKILDER_KEYS_LISTEN": f"{host}:0", "SKILDER_KEYS_WORKERS": "1"}
    async with serving(tmp_path, database_url, transport=transport, **own) as server:
        variables = {"SKILDER_KEYS_LISTEN": server.address, "SKILDER_KEYS_DATABASE_URL": database_url}
        refused = await asyncio.to_thread(run_command, "serve", folder=tmp_path, **variables)
        assert refused.returncode == 70
        assert f"Cannot serve on {server.address}" in refused.stderr
        async with grpc.aio.insecure_channel(server.address) as channel:
            assert await status_of(channel, operator_metadata(server, tmp_path)) is OK


@pytest.mark.parametrize(
    ("host", "peers"),
    [
        ("0.0.0.0", {"127.0.0.1": "ipv4:127.0.0.1:"}),  # noqa: S104 - a test of just that
        ("[::]", {"127.0.0.1": "ipv4:127.0.0.1:", "[::1]": "ipv6:%5B::1%5D:"}),
    ],
    ids=["IPv4", "IPv6"],
)
async def test_every_address_can_be_served_at_once(
    transport: str, database_url: str, tmp_path: Path, host: str, peers: dict[str, str]
) -> None:
    """With fast and ordinary methods, and each logs the client's own address."""
    decisions = tmp_path / "decisions"
    variables = {
        "SKILDER_KEYS_DECISION_LOG_FILE": str(decisions),
        "SKILDER_KEYS_LISTEN": f"{host}:0",
        "SKILDER_KEYS_ALLOW_PLAINTEXT": "true",
        "SKILDER_KEYS_WORKERS": "1",
    }
    async with serving(tmp_path, database_url, transport=transport, **variables) as server:
        metadata = operator_metadata(server, tmp_path)
        port = server.address.rpartition(":")[2]
        for number, (place, peer) in enumerate(peers.items(), 1):
            async with grpc.aio.insecure_channel(f"{place}:{port}") as channel:
                assert await status_of(channel, metadata) is OK
                await Client(channel).catalog.ListWorkspaces(
                    catalog_service_pb2.ListWorkspacesRequest(), metadata=metadata
                )
            reported = await asyncio.to_thread(server.wait_for, "call", method="CatalogService/ListWorkspaces")
            assert reported["peer"].startswith(peer)
            await until(lambda number=number: decisions.read_bytes().count(b"\n") == number)  # type: ignore[misc]
            assert json.loads(decisions.read_text("utf-8").splitlines()[-1])["peer"].startswith(peer)


@GRPCIO_IF_SHORT
def test_a_terminal_that_is_closed_ends_the_server(transport: str, database_url: str, tmp_path: Path) -> None:
    """It sends SIGHUP, but nobody is left who could want new workers."""
    ours, theirs = pty.openpty()
    variables = {"SKILDER_KEYS_DATABASE_URL": database_url, "SKILDER_KEYS_LISTEN": "127.0.0.1:0"}
    with subprocess.Popen(
        [COMMAND, "serve"],
        cwd=tmp_path,
        env=environment({**variables, "SKILDER_KEYS_LOG_FORMAT": "json", "SKILDER_KEYS_TRANSPORT": transport}),
        preexec_fn=lambda: os.login_tty(theirs),  # noqa: PLW1509 - this test has no threads
    ) as process:
        os.close(theirs)
        with open(ours) as terminal:  # noqa: PTH123 - a number, not a path
            while '"serving"' not in terminal.readline():
                assert process.poll() is None
            workers = psutil.Process(process.pid).children()
        assert process.wait(60) == 0
    assert psutil.wait_procs(workers, 60)[1] == []
