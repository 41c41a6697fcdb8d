"""vLLM, from an environment of its own: it and llm-compressor pin different compressed-tensors.

Every flag here exists in 0.26 and in 0.32; a test asks the installed one.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Final, Self

from shared.contracts.serving import Mode
from shared.errors import EngineUnavailable
from shared.settings import Settings
from workers.runtime.launch.guarded import guarded
from workers.runtime.launch.order import Command, Order

#: `make setup-vllm` puts it beside the code
PYTHON: Final = Path(__file__).resolve().parents[3] / ".venv-vllm" / "bin" / "python"
MODULE: Final = "vllm.entrypoints.openai.api_server"
LORA_RANKS: Final = (8, 16, 32, 64, 128, 256, 512)  # that `--max-lora-rank` may be; vLLM reserves room for it
KV_BYTES: Final = 2**30  # of a CPU engine whose model's size is not known
#: As /v1/embeddings of the transformers engine: the last token's final norm, L2-normalised.
POOLING: Final = {"pooling_type": "LAST", "use_activation": True}


class Vllm:
    """Launcher of vLLM's OpenAI server."""

    kind: Final = "vllm"
    modes: Final = (Mode.GENERATE,)  # embeddings need a second engine, in pooling mode
    priority: Final = True

    def __init__(self, python: Path, *, args: list[str], env: dict[str, str], adapters: bool) -> None:
        self._python = python
        self._args = args
        self._env = env
        self.adapters = adapters

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The launcher of this host's vLLM. Raises EngineUnavailable when there is none."""
        python = settings.vllm_python or PYTHON
        if shutil.which(python) is None:
            msg = (
                f"vLLM is not installed on this host: no Python at {python}. Run `make setup-vllm`, name the Python of "
                "vLLM's environment in MODELYARD_VLLM_PYTHON, or choose another engine with MODELYARD_ENGINE."
            )
            raise EngineUnavailable(msg)
        return cls(python, args=settings.vllm_args, env=settings.engine_env, adapters=settings.vllm_adapters)

    def command(self, order: Order) -> Command:
        """vLLM's server, in a guard."""
        argv = [str(self._python), "-m", MODULE, *_common(order), *_memory(order), *self._of_mode(order), *self._args]
        return guarded(order, argv, env={**_environment(order), **self._env}, names=_names(order), modes=(order.mode,))

    def _of_mode(self, order: Order) -> list[str]:
        if order.mode is Mode.EMBED:
            return ["--runner", "pooling", "--convert", "embed", "--pooler-config", json.dumps(POOLING)]
        # The model's own sampling defaults would differ from OpenAI's, which the API promises.
        generate = ["--generation-config", "vllm", "--enable-prompt-tokens-details"]
        if not self.adapters:
            return generate
        held = order.config.max_adapters
        return [
            *generate, "--enable-lora", "--max-lora-rank", str(_rank(order.config.lora_rank)),
            "--max-loras", str(min(held, 4)), "--max-cpu-loras", str(held),
        ]  # fmt: skip


def _rank(largest: int) -> int:
    """The smallest that vLLM can be started for and that holds `largest`."""
    return next((rank for rank in LORA_RANKS if rank >= largest), LORA_RANKS[-1])


def _names(order: Order) -> tuple[str, ...]:
    """The first one stands in vLLM's answers, whatever the request said."""
    return tuple(dict.fromkeys((order.served_name, *order.config.models)))


def _common(order: Order) -> list[str]:
    config = order.config
    argv = [
        "--model", str(config.model_path),
        "--served-model-name", *_names(order),
        "--uds", str(config.uds),
        "--dtype", config.dtype,
        "--tensor-parallel-size", str(config.tensor_parallel),
        "--max-num-seqs", str(config.max_in_flight),
        "--scheduling-policy", "priority",
        "--disable-uvicorn-access-log",
    ]  # fmt: skip
    if config.context_length is not None:
        argv += ["--max-model-len", str(config.context_length)]
    if order.quantization is not None:
        argv += ["--quantization", order.quantization]
    return argv


def _memory(order: Order) -> list[str]:
    if order.config.device == "cuda":
        return ["--gpu-memory-utilization", f"{order.memory_fraction:g}"]
    return ["--kv-cache-memory-bytes", str(order.kv_bytes or KV_BYTES)]


def _environment(order: Order) -> dict[str, str | None]:
    config = order.config
    env: dict[str, str | None] = {
        "VLLM_API_KEY": config.token,  # not --api-key: a command line is everybody's to read
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "VLLM_RPC_BASE_PATH": str(config.uds.parent),  # sockets between its processes: they outlive a SIGKILL
        "VLLM_HOST_IP": "127.0.0.1",  # what one host says to itself stays on it
    }
    if config.device == "cpu":
        # Bound threads of two engines would share the same cores; the ranks of one share the host.
        threads = config.threads or max(1, (os.cpu_count() or 1) // config.tensor_parallel)
        env |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(threads)}
        env["OMP_WAIT_POLICY"] = "PASSIVE"  # spinning threads starve their neighbours where cores are shared
    return env
