"""What a model asks of its devices, read from its configuration and its serving options."""

from dataclasses import dataclass, replace
from uuid import UUID

from services.catalog.figures import WIDTHS, cache_width, kv_heads, kv_values_per_token, text_config
from services.jobs.plan import Needs
from shared.contracts.serving import Serving
from shared.db.models import Model

#: the class table's words for what `Serving.dtype` may name
SERVED_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
CPU_DTYPE = "fp32"  #: what CPU engines compute in unless told otherwise, whatever the checkpoint is kept in
#: an engine outlives its first job, so it gets room for other people's sequences
LEAST_TOKENS = 8192


@dataclass(frozen=True)
class ModelFacts:
    """The figures of a model version that planning, checking and placing need. Bytes and tokens.

    `digest` and all figures are those of the base, which is what an engine loads; an adapter adds `adapter_digest`.
    """

    id: UUID  #: of the version that was asked for
    base_id: UUID  #: of the version that an engine loads: the same one, unless it is an adapter
    name: str
    kind: str  #: base or adapter
    digest: str
    adapter_digest: str | None
    dtype: str
    weight_bytes: int
    parameters: int
    context_length: int  #: what is served: the model's own, or less by its serving options
    kv_values_per_token: int
    kv_heads: int
    serving: Serving

    @property
    def served_as(self) -> str:
        """What a request to an engine calls the model."""
        return self.adapter_digest or self.digest

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token on a GPU."""
        return self.kv_values_per_token * cache_width(self._dtype)

    def needs(self, tokens: int) -> Needs:
        """What an engine for sequences of `tokens` tokens needs: on GPUs, and (`.cpu`) on class cpu."""
        on_gpu = Needs(
            weight_bytes=self.weights_in(self._dtype),
            kv_bytes_per_token=self.kv_bytes_per_token,
            tokens=min(self.context_length, max(tokens, LEAST_TOKENS)),
            dtype=self._dtype if self._dtype in WIDTHS else None,
            kv_heads=self.kv_heads,
            tensor_parallel=self.serving.tensor_parallel,
        )
        dtype = SERVED_DTYPES.get(self.serving.dtype or "", CPU_DTYPE)
        on_cpu = replace(
            on_gpu,
            weight_bytes=self.weights_in(dtype),
            kv_bytes_per_token=self.kv_values_per_token * cache_width(dtype),
            dtype=dtype,
        )
        return replace(on_gpu, cpu=on_cpu)

    def weights_in(self, dtype: str) -> int:
        """Bytes of the weights in a dtype; as they are stored when it is the checkpoint's own, or none we know."""
        width = WIDTHS.get(dtype)
        return self.weight_bytes if width is None or dtype == self.dtype else int(self.parameters * width)

    @property
    def _dtype(self) -> str:
        """What a GPU engine keeps the weights in."""
        return self.serving.quantization or SERVED_DTYPES.get(self.serving.dtype or "", self.dtype)


def served_context(own: int, serving: Serving) -> int:
    """Tokens of a context that are served: the model's own, or less by its serving options."""
    return min(own, serving.context_length or own)


def facts(model: Model, base: Model | None = None) -> ModelFacts:
    """The figures of a registered model; of an adapter, with its base."""
    own = base or model
    serving = Serving.model_validate(own.serving or {})
    config = text_config(own.config)
    return ModelFacts(
        id=model.id,
        base_id=own.id,
        name=model.name,
        kind="base" if base is None else "adapter",
        digest=own.digest,
        adapter_digest=None if base is None else model.digest,
        dtype=own.dtype,
        weight_bytes=own.bytes,
        parameters=own.parameters,
        context_length=served_context(own.context_length, serving),
        kv_values_per_token=kv_values_per_token(config),
        kv_heads=kv_heads(config),
        serving=serving,
    )
