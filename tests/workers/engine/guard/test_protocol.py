"""What a worker is told about a server that knows nothing of workers."""

import socket
import threading

import httpx
import pytest

from shared.contracts.engine import EngineState
from tests.support.guarded import NAME, GuardedServer, StartGuarded, scripted
from tests.support.polling import wait_until


@pytest.fixture(scope="class")
def server(start: StartGuarded) -> GuardedServer:
    return start("scripted", scripted("--metrics"), token="secret", max_in_flight=7).wait_ready()


class TestReadiness:
    def test_a_server_that_starts_slowly_is_starting(self, start: StartGuarded) -> None:
        server = start("scripted", scripted("--start-s", "1"))
        wait_until(lambda: server.health == 503, what="the guard answers before its server does")
        assert server.stats().state is EngineState.STARTING
        assert server.wait_ready().stats().ready_at is not None

    def test_a_server_of_another_model_never_becomes_ready(self, start: StartGuarded) -> None:
        server = start("scripted", scripted(name="another"))
        wait_until(lambda: server.health == 503, what="the guard answers")
        wait_until(server.command.control.with_name("s").exists, what="the server listens")
        assert [entry["id"] for entry in server.client.get("/v1/models").json()["data"]] == ["another"]
        assert server.health == 503

    def test_a_server_without_a_health_route_is_asked_for_its_models(self, start: StartGuarded) -> None:
        start("scripted", scripted("--no-health")).wait_ready()


class TestMemory:
    def test_a_server_that_holds_nothing_on_its_gpus_says_so(self, start: StartGuarded) -> None:
        server = start("scripted", scripted(), device="cuda", dtype="bfloat16").wait_ready()
        assert server.stats().memory_bytes == 0


class TestProtocol:
    def test_figures_are_translated(self, server: GuardedServer) -> None:
        server.complete(prompt="three little words")
        stats = server.stats()
        assert (stats.model, stats.state, stats.max_in_flight) == (NAME, EngineState.READY, 7)
        assert (stats.kv_blocks_total, stats.kv_blocks_free, stats.tokens_generated) == (400, 300, 3)
        assert (stats.context_length, stats.adapters) == (2048, ())
        assert stats.memory_bytes > 2**20

    def test_what_runs_is_counted(self, server: GuardedServer) -> None:
        server.script(word_s=0.2)
        asking = threading.Thread(target=server.complete, kwargs={"prompt": "one two three four"})
        asking.start()
        wait_until(lambda: server.stats().running == 1, what="the request is seen")
        asking.join()
        server.script(word_s=0)
        assert server.stats().running == 0

    def test_health_follows_the_server(self, server: GuardedServer) -> None:
        server.script(healthy=False)
        assert server.health == 503
        server.script(healthy=True)
        assert server.health == 200

    def test_only_health_is_open_to_everybody(self, server: GuardedServer) -> None:
        nobody = {"authorization": "Bearer wrong"}
        assert server.control.get("/health", headers=nobody).status_code == 200
        for method, path in (("GET", "/stats"), ("GET", "/lifeline"), ("POST", "/detach")):
            assert server.control.request(method, path, headers=nobody).status_code == 401

    @pytest.mark.parametrize("body", ["{", '{"grace_s": -1}', '{"grace_s": 1, "grace": 2}', '{"grace_s": "NaN"}'])
    def test_a_bad_detach_is_refused(self, server: GuardedServer, body: str) -> None:
        refused = server.control.post("/detach", content=body)
        assert refused.status_code == 400
        assert refused.json()["error"]["type"] == "invalid_request_error"
        assert not server.stats().detached

    def test_its_sockets_are_for_our_user_alone(self, server: GuardedServer) -> None:
        for path in (server.command.control, server.config.uds):
            assert path.stat().st_mode & 0o077 == 0


class TestBridges:
    def test_a_server_that_knows_only_ports_gets_a_socket(self, start: StartGuarded) -> None:
        server = start("scripted", scripted(address=("--port", "{port}"))).wait_ready()
        assert server.complete(prompt="over the bridge")["text"] == "over the bridge"
        assert server.config.uds.stat().st_mode & 0o077 == 0

    def test_a_server_on_a_socket_gets_an_address(self, start: StartGuarded) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        start("scripted", scripted(), listen=address, token="secret").wait_ready()
        body = {"model": NAME, "prompt": "from another host", "stream": True}
        bearer = {"authorization": "Bearer secret"}
        with httpx.stream("POST", f"http://{address}/v1/completions", json=body, headers=bearer) as response:
            lines = [line for line in response.iter_lines() if line]
        assert lines[-1] == "data: [DONE]"

    def test_a_client_that_leaves_is_noticed_behind_the_bridge(self, start: StartGuarded) -> None:
        settings = scripted("--metrics", "--word-s", "0.05", address=("--port", "{port}"))
        server = start("scripted", settings).wait_ready()
        body = {"model": NAME, "prompt": "word " * 500, "stream": True}
        with server.client.stream("POST", "/v1/completions", json=body) as response:
            next(response.iter_lines())
        wait_until(lambda: server.stats().running == 0, what="the request is given up")
