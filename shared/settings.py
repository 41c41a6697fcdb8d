"""Every setting of every process, read once.

A value comes from the environment (``MODELYARD_<NAME>``), from the file named by ``MODELYARD_<NAME>_FILE`` (for
secrets), or from the env file named by ``MODELYARD_ENV_FILE``; in that order. No other module reads the environment.
"""

import os
from collections.abc import Iterable
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

PREFIX = "MODELYARD_"


class Environment(StrEnum):
    """Where the processes run; decides what is refused at start."""

    EMBEDDED = "embedded"  #: one host, the stores are child processes of `modelyard up`
    PRODUCTION = "production"  #: stores are given; example secrets and old Redis are refused
    TEST = "test"  #: failpoints and extra job kinds are allowed


class Settings(BaseSettings):
    """The platform's settings. Times are seconds unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    environment: Environment = Field(Environment.EMBEDDED, description="embedded, production or test")
    data_dir: Path = Field(Path(".yard"), description="folder of an embedded yard; scratch of a worker")
    run_dir: Path | None = Field(None, description="short private folder for Unix sockets (108-byte limit)")

    database_url: SecretStr = Field(SecretStr(""), description="postgresql+psycopg://user:password@host:port/db")
    database_pool: int = Field(10, ge=1, le=100, description="connections a process may hold")
    broker_url: SecretStr = Field(SecretStr(""), description="redis://… of the broker (noeviction, AOF)")
    cache_url: SecretStr = Field(SecretStr(""), description="redis://… of the response cache (allkeys-lru)")
    cache_ttl_s: int = Field(86_400, ge=0, description="how long an answer is kept; 0 switches the response cache off")
    cache_entry_bytes: int = Field(2**20, ge=1024, description="largest answer that is kept, as stored (compressed)")
    cache_timeout_s: float = Field(
        0.05, gt=0, le=5, description="what a call waits for a silent cache, once a second, before it does without"
    )
    s3_endpoint: str = Field("", description="host:port of the S3 store")
    s3_secure: bool = Field(False, description="speak https to the S3 store")
    s3_access_key: str = Field("", description="access key of the S3 store")
    s3_secret_key: SecretStr = Field(SecretStr(""), description="secret key of the S3 store")
    s3_bucket: str = Field("modelyard", description="bucket that holds every blob")
    secret_key: SecretStr = Field(
        SecretStr(""),
        description="32 random bytes, base64: peppers API keys, encrypts webhook secrets at rest",
    )

    host: str = Field("127.0.0.1", description="address the gateway binds")
    port: int = Field(8080, ge=0, le=65535, description="port the gateway binds")
    allowed_hosts: list[str] = Field(
        ["localhost", "127.0.0.1", "[::1]"], description="Host headers the gateway answers (DNS rebinding)"
    )
    public_url: str = Field("", description="URL callers use; for links in answers")
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR")

    gpu_classes_file: Path | None = Field(None, description="TOML that replaces or extends the GPU class table")
    gpu_class: str = Field("cpu", description="GPU class of this worker's host")
    worker_pools: list[str] = Field(["serve", "forge"], description="pools this worker serves")
    worker_devices: list[int] = Field([0], description="device numbers this worker may use")
    extra_kinds: list[str] = Field(
        [], description="modules that add job kinds (`module` with a KIND); environment test or embedded only"
    )

    lease_ttl_s: float = Field(60, gt=0, description="how long a claim lives without a heartbeat")
    heartbeat_s: float = Field(5, gt=0, description="period of the heartbeat")
    reaper_tick_s: float = Field(5, gt=0, description="period of the reaper")
    reconcile_s: float = Field(15, gt=0, description="period of the reconciler that rings forgotten queues")
    relay_poll_s: float = Field(2, gt=0, description="longest wait of the relay when no notification came")
    runner_poll_s: float = Field(30, gt=0, description="longest wait of a runner when no bell came (jittered)")
    retry_base_s: float = Field(5, ge=0, description="first retry delay; doubles each time, with jitter")
    retry_max_s: float = Field(600, ge=0, description="longest retry delay")
    max_failures: int = Field(3, ge=1, description="attempts that may fail by the job's own doing")
    max_lost: int = Field(3, ge=1, description="attempts that may be lost to the infrastructure")
    drain_grace_s: float = Field(20, gt=0, description="how long a draining worker waits for running work")
    cancel_abort_s: float = Field(
        10, gt=0, description="bound of aborting an engine request before the engine is killed"
    )
    cancel_term_s: float = Field(30, gt=0, description="bound between SIGTERM and SIGKILL of a forge process group")

    engine_threads: int = Field(0, ge=0, description="threads of a CPU engine; 0 = all cores")
    engine_max_in_flight: int = Field(64, ge=1, description="requests of jobs an engine may hold at once")
    engine_headroom: int = Field(32, ge=0, description="sequences an engine admits beyond that, for interactive calls")
    engine_max_adapters: int = Field(
        8, ge=1, le=400, description="LoRA adapters an engine holds; more of them take turns"
    )
    engine: str = Field("auto", description="engine of models that choose none; auto: transformers on cpu, else vllm")
    engine_commands: dict[str, list[str]] = Field(
        {}, description="further engines: name → command line that serves OpenAI's HTTP (see infra/docs/vllm.md)"
    )
    engine_memory_gib: float = Field(0, ge=0, description="memory of one device for engines; 0 = 0.9 of its class")
    engine_idle_s: float = Field(1800, ge=0, description="unload an engine that nobody used for so long; 0 = never")
    engine_yield_s: float = Field(
        60, gt=0, description="how long others wait for idle engines before one in use has to leave its devices"
    )
    engine_silent_s: float = Field(30, gt=0, description="an engine that does not answer for so long is killed")
    engine_spares: int = Field(1, ge=0, le=4, description="CPU engine processes kept started, without a model")
    engine_bind: str = Field(
        "", description="private address on which engines serve gateways of other hosts; empty: Unix sockets alone"
    )
    vllm_python: Path | None = Field(None, description="Python of vLLM's environment; default .venv-vllm beside us")
    vllm_args: list[str] = Field([], description="further arguments of every vLLM engine")
    vllm_adapters: bool = Field(True, description="start vLLM engines with LoRA; off saves it memory and start-up time")
    engine_env: dict[str, str] = Field(
        {}, description="environment variables of vLLM and of engine_commands, e.g. PYTHONPATH or VLLM_LOGGING_LEVEL"
    )
    place_wait_s: float = Field(60, gt=0, description="how long an interactive call waits for an engine of its model")
    engine_start_s: float = Field(
        300, gt=0, description="how long an engine may take to become ready; vLLM compiles on a GPU before it is"
    )
    engine_handover_s: float = Field(60, gt=0, description="how long an engine outlives a planned worker restart")

    models_root: Path | None = Field(
        None, description="folder whose subfolders may be registered as models, on gateways and workers; unset: none"
    )
    models_s3: list[str] = Field(
        [], description="`bucket/prefix/` that models may be imported from; {tenant} stands for the caller's tenant id"
    )
    huggingface_endpoint: str = Field("https://huggingface.co", description="Hub that models are fetched from")
    huggingface_token: SecretStr = Field(
        SecretStr(""), description="token for gated repositories; sent to huggingface_endpoint alone"
    )

    upload_expiry_s: float = Field(3600, gt=0, description="how long an upload waits for its parts and its completion")
    blob_grace_s: float = Field(
        259_200, gt=0, description="how long content that nothing names any more is kept; longer than any upload takes"
    )

    document_pages: int = Field(5000, ge=1, description="pages of one document; a longer one is refused")
    document_text_bytes: int = Field(
        32 * 1024**2, ge=1024, description="text of one document; one with more is refused"
    )
    document_cpu_s: int = Field(60, ge=1, description="CPU time of reading one document")
    document_memory_bytes: int = Field(
        1024**3, ge=128 * 1024**2, description="memory of the process that reads one document"
    )
    document_parsers: int = Field(2, ge=1, le=64, description="documents that a worker reads at once")
    ocr_command: list[str] = Field(
        [], description='reads scanned pages: a command line with {image}, e.g. ["tesseract", "{image}", "stdout"]'
    )
    packs_root: Path | None = Field(None, description="folder of domain packs beside the packaged ones")

    webhook_allow_http: bool = Field(True, description="allow http:// receivers (turn off on open networks)")
    webhook_timeout_s: float = Field(15, gt=0, description="total time of one delivery attempt")
    webhook_retry_scale: float = Field(
        1.0, gt=0, description="multiplies the published retry schedule (tests shrink it)"
    )

    failpoints: str = Field("", description="name:action[,name:action]; refused outside environment test")

    @model_validator(mode="after")
    def _refuse_test_switches(self) -> Self:
        if self.failpoints and self.environment is not Environment.TEST:
            msg = "failpoints are refused unless MODELYARD_ENVIRONMENT=test"
            raise ValueError(msg)
        if self.extra_kinds and self.environment is Environment.PRODUCTION:
            msg = "extra_kinds are refused in production"
            raise ValueError(msg)
        return self

    @classmethod
    def settings_customise_sources(  # noqa: PLR0917 - pydantic-settings calls it by position
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put ``<NAME>_FILE`` between the environment and the env file."""
        del file_secret_settings
        return init_settings, env_settings, _FileSource(settings_cls), dotenv_settings


class _FileSource(PydanticBaseSettingsSource):
    """Values whose ``MODELYARD_<NAME>_FILE`` names a file (docker and Kubernetes secrets)."""

    def get_field_value(self, field: object, field_name: str) -> tuple[str | None, str, bool]:
        del field
        named = os.environ.get(f"{PREFIX}{field_name.upper()}_FILE")
        return (Path(named).read_text().strip() if named else None), field_name, False

    def __call__(self) -> dict[str, str]:
        found = {name: self.get_field_value(None, name)[0] for name in self.settings_cls.model_fields}
        return {name: value for name, value in found.items() if value is not None}


def inherited() -> dict[str, str]:
    """This process's environment, for the parent of an embedded yard: it decides what its children get."""
    return dict(os.environ)


def passed_on(names: Iterable[str]) -> dict[str, str]:
    """These variables of our own environment: all that a child process is given which must not see our settings."""
    return {name: os.environ[name] for name in names if name in os.environ}


@cache
def settings() -> Settings:
    """The settings of this process, read at the first call."""
    env_file = os.environ.get(f"{PREFIX}ENV_FILE")
    return Settings(_env_file=env_file)
