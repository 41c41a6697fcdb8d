"""Which kind a model gets, and the command lines of each kind."""

import json
import re
import sys
from pathlib import Path

import pytest

from shared.contracts.engine import EngineConfig
from shared.contracts.guard import GuardConfig
from shared.contracts.jobs import Tier
from shared.contracts.serving import Mode
from shared.errors import EngineUnavailable
from shared.settings import Settings
from workers.runtime.launch import kinds
from workers.runtime.launch.order import Command, Order
from workers.runtime.launch.vllm import MODULE, PYTHON

DIGEST = "d" * 64


def order(folder: Path, **config) -> Order:
    described = {"engine_id": "e", "model_path": folder / "model", "models": ("llama", DIGEST), "uds": folder / "s"}
    more = {
        name: config.pop(name) for name in ("mode", "quantization", "kv_bytes", "memory_fraction") if name in config
    }
    return Order(EngineConfig.model_validate(described | config), folder=folder, **more)


def command(kind: str, folder: Path, *, settings: dict[str, object] | None = None, **config) -> Command:
    given = Settings.model_validate({"vllm_python": sys.executable} | (settings or {}))
    return kinds.launcher(kind, given).command(order(folder, **config))


def guard_of(built: Command) -> GuardConfig:
    return GuardConfig.model_validate_json(built.files[Path(built.argv[-1])])


def after(argv: list[str], flag: str) -> str:
    """The argument of a flag."""
    return argv[argv.index(flag) + 1]


def server(kind: str, folder: Path, **more) -> list[str]:
    return list(guard_of(command(kind, folder, **more)).argv)


class TestChoice:
    @pytest.mark.parametrize(
        ("wanted", "setting", "gpu_class", "kind"),
        [
            (None, "auto", "cpu", "transformers"),
            (None, "auto", "h200", "vllm"),
            (None, "transformers", "h200", "transformers"),
            (None, "vllm", "cpu", "vllm"),
            ("mine", "vllm", "cpu", "mine"),
            ("auto", "auto", "cpu", "transformers"),
        ],
    )
    def test_a_model_goes_before_the_setting_and_the_setting_before_the_class(
        self, wanted, setting, gpu_class, kind
    ) -> None:
        assert kinds.choose(wanted, Settings(engine=setting, gpu_class=gpu_class)) == kind

    def test_a_kind_that_is_not_installed_comes_with_advice(self, tmp_path) -> None:
        with pytest.raises(EngineUnavailable, match=r"make setup-vllm.*MODELYARD_VLLM_PYTHON") as refused:
            kinds.launcher("vllm", Settings(vllm_python=tmp_path / "no-python"))
        assert refused.value.code == "engine_unavailable"

    def test_an_unknown_kind_names_the_known_ones(self) -> None:
        settings = Settings(engine_commands={"mine": ["serve", "{uds}"]})
        with pytest.raises(EngineUnavailable, match=r"no engine `sglang` \(only transformers, vllm, mine\)"):
            kinds.launcher("sglang", settings)

    def test_only_vllm_is_told_of_priorities(self) -> None:
        settings = Settings(vllm_python=Path(sys.executable))
        vllm = kinds.launcher("vllm", settings)
        assert [kinds.extras(vllm, tier) for tier in Tier] == [{"priority": 0}, {"priority": 1}, {"priority": 2}]
        assert kinds.extras(kinds.launcher("transformers", settings), Tier.BATCH) == {}


class TestTransformers:
    def test_it_reads_its_own_configuration_and_speaks_for_itself(self, tmp_path) -> None:
        built = command("transformers", tmp_path)
        assert built.argv == (sys.executable, "-m", "workers.engine", str(tmp_path / "config.json"))
        assert EngineConfig.model_validate_json(built.files[tmp_path / "config.json"]) == order(tmp_path).config
        assert built.control == tmp_path / "s"


class TestVllm:
    def test_a_guard_starts_it(self, tmp_path) -> None:
        built = command("vllm", tmp_path, token="secret", parent_pid=7, lock_fds=(3,))
        guard = guard_of(built)
        assert built.argv == (sys.executable, "-m", "workers.engine.guard", str(tmp_path / "guard.json"))
        assert built.control == guard.control == tmp_path / "s.guard"
        assert guard.argv[:3] == (sys.executable, "-m", MODULE)
        assert (guard.parent_pid, guard.lock_fds, guard.cwd) == (7, (3,), tmp_path)
        assert json.loads(built.files[tmp_path / "config.json"])["engine_id"] == "e"

    def test_it_answers_by_the_digest_that_requests_name(self, tmp_path) -> None:
        argv = server("vllm", tmp_path)
        names = argv[argv.index("--served-model-name") + 1 :][:2]
        assert names == [DIGEST, "llama"]

    def test_the_token_is_not_on_its_command_line(self, tmp_path) -> None:
        guard = guard_of(command("vllm", tmp_path, token="secret"))
        assert "secret" not in " ".join(guard.argv)
        assert guard.env["VLLM_API_KEY"] == "secret"

    def test_its_python_does_not_meet_our_packages_unless_told(self, tmp_path) -> None:
        assert guard_of(command("vllm", tmp_path)).env["PYTHONPATH"] is None
        told = guard_of(command("vllm", tmp_path, settings={"engine_env": {"PYTHONPATH": "/kit"}}))
        assert told.env["PYTHONPATH"] == "/kit"

    def test_a_gpu_engine_gets_a_share_and_a_cpu_engine_bytes(self, tmp_path) -> None:
        gpu = " ".join(
            server("vllm", tmp_path, device="cuda", dtype="bfloat16", memory_fraction=0.85, tensor_parallel=2)
        )
        assert "--gpu-memory-utilization 0.85" in gpu
        assert "--tensor-parallel-size 2" in gpu
        assert "--dtype bfloat16" in gpu
        cpu = " ".join(server("vllm", tmp_path, kv_bytes=1234))
        assert "--kv-cache-memory-bytes 1234" in cpu
        assert "--gpu-memory-utilization" not in cpu

    def test_settings_have_the_last_word(self, tmp_path) -> None:
        argv = server("vllm", tmp_path, settings={"vllm_args": ["--load-format", "dummy"]}, quantization="fp8")
        assert argv[-2:] == ["--load-format", "dummy"]
        assert argv[argv.index("--quantization") + 1] == "fp8"

    def test_adapters_cost_something_and_can_be_left_out(self, tmp_path) -> None:
        assert "--enable-lora" in server("vllm", tmp_path)
        assert "--enable-lora" not in server("vllm", tmp_path, settings={"vllm_adapters": False})

    @pytest.mark.parametrize(("largest", "room"), [(1, "8"), (64, "64"), (65, "128"), (256, "256")])
    def test_there_is_room_for_the_largest_rank(self, tmp_path, largest, room) -> None:
        assert after(server("vllm", tmp_path, lora_rank=largest, max_adapters=9), "--max-lora-rank") == room

    def test_adapters_beyond_a_batch_wait_on_the_host(self, tmp_path) -> None:
        argv = server("vllm", tmp_path, max_adapters=9)
        assert (after(argv, "--max-loras"), after(argv, "--max-cpu-loras")) == ("4", "9")

    def test_embeddings_are_an_engine_of_their_own(self, tmp_path) -> None:
        guard = guard_of(command("vllm", tmp_path, mode=Mode.EMBED))
        line = " ".join(guard.argv)
        assert "--runner pooling --convert embed" in line
        assert "--enable-lora" not in line
        assert guard.modes == (Mode.EMBED,)

    @pytest.mark.skipif(not PYTHON.exists(), reason="vLLM is not installed: `make setup-vllm` makes .venv-vllm")
    def test_the_installed_one_knows_every_flag(self, tmp_path) -> None:
        given = {
            flag
            for mode in Mode
            for device in ("cpu", "cuda")
            for flag in server("vllm", tmp_path, mode=mode, device=device, context_length=99, quantization="fp8")
            if flag.startswith("--")
        }
        [installed] = PYTHON.parents[1].glob("lib/python*/site-packages/vllm")
        sources = [installed / "engine" / "arg_utils.py", *(installed / "entrypoints").rglob("cli_args.py")]
        fields = set(re.findall(r"^    (\w+):", "\n".join(source.read_text() for source in sources), re.MULTILINE))
        assert {flag for flag in given if flag[2:].replace("-", "_") not in fields} == set()


class TestCommandLine:
    LINE = ("serve", "--uds={uds}", "--model", "{model_path}", "--as", "{served_name}", '{"json": {"a": 1}}')

    def test_placeholders_are_filled_and_other_braces_left_alone(self, tmp_path) -> None:
        argv = server("mine", tmp_path, settings={"engine_commands": {"mine": list(self.LINE)}})
        filled = [f"--uds={tmp_path}/s", "--model", str(tmp_path / "model"), "--as", DIGEST]
        assert argv == ["serve", *filled, '{"json": {"a": 1}}']

    def test_one_that_listens_on_a_port_is_bridged(self, tmp_path) -> None:
        guard = guard_of(
            command("mine", tmp_path, settings={"engine_commands": {"mine": ["serve", "--port", "{port}"]}})
        )
        assert guard.argv[-1] == str(guard.port)

    def test_it_lists_the_digest_alone(self, tmp_path) -> None:
        built = command("mine", tmp_path, settings={"engine_commands": {"mine": list(self.LINE)}})
        assert guard_of(built).models == (DIGEST,)

    @pytest.mark.parametrize(
        ("line", "complaint"),
        [
            (["serve", "{uds}", "{modelpath}"], "unknown placeholder: modelpath"),
            (["serve", "{model_path}"], r"neither \{uds\} nor \{port\}"),
        ],
    )
    def test_a_line_that_cannot_work_is_refused(self, tmp_path, line, complaint) -> None:
        with pytest.raises(EngineUnavailable, match=complaint):
            command("mine", tmp_path, settings={"engine_commands": {"mine": line}})
