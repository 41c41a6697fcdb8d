"""A plan becomes llm-compressor's modifiers, and the recipe.yaml that says what was done."""

from pathlib import Path
from typing import Any, Final

import yaml  # type: ignore[import-untyped]  # comes with transformers; its stubs do not
from compressed_tensors.quantization import QuantizationScheme
from llmcompressor.modifiers.transform.awq import AWQ_MAPPING_REGISTRY

from shared.contracts.compression import Method, Scheme
from shared.contracts.forge_orders import QuantizeOrder
from workers.forge.checkpoints import read_config
from workers.forge.quantization import smoothing
from workers.forge.quantization.layers import Plan
from workers.forge.quantization.modifiers import Awq, Gptq, Nearest, SmoothQuant
from workers.forge.refusing import Refused
from workers.forge.schemes import CACHE, arguments

SMOOTHING: Final = 0.5  #: SmoothQuant's own default (arXiv 2211.10438, §4)


def modifiers(order: QuantizeOrder, plan: Plan) -> list[Any]:
    """llm-compressor's modifiers, in the order in which they run.

    Each runs over the model by itself ("independent" pipeline): GPTQ measures what SmoothQuant has left.

    Raises:
        Refused: `unsupported_model`: nobody knows what to smooth in this architecture.
    """
    strength = order.smoothing_strength if order.smoothing_strength is not None else SMOOTHING
    shared = {
        "config_groups": config_groups(plan),
        "ignore": list(plan.kept),
        "kv_cache_scheme": CACHE if order.scheme is Scheme.FP8_KV else None,
    }
    before: list[Any] = []
    if order.scheme is Scheme.INT8 and strength > 0:
        before = [SmoothQuant(smoothing_strength=strength, mappings=smoothing.mappings(order.model.folder))]
    if order.method is Method.AWQ:
        before = [Awq(mappings=_awq_mappings(order.model.folder))]
    quantizing = Gptq(**shared) if order.method is Method.GPTQ else Nearest(**shared)
    return [*before, quantizing]


def config_groups(plan: Plan) -> dict[str, QuantizationScheme]:
    """compressed-tensors' groups: the largest takes every linear layer, the others name theirs.

    A name goes before a class, in compressed-tensors (`utils/match.py`, match_targets) and in vLLM
    (`quantization/compressed_tensors/utils.py`, find_matched_target).
    """
    return {
        f"group_{index}": arguments(
            setting.scheme, group_size=setting.group_size, targets=names if index else ["Linear"]
        )
        for index, (setting, names) in enumerate(plan.by_setting().items())
    }


def _awq_mappings(folder: Path) -> list[Any]:
    """llm-compressor's mappings of an architecture; it would take Llama's for one that it does not know."""
    (architecture, *_) = read_config(folder).architectures or [None]
    if architecture not in AWQ_MAPPING_REGISTRY:
        title = "AWQ does not know this architecture: use method gptq or rtn"
        raise Refused("unsupported_model", title, str(architecture))
    return list(AWQ_MAPPING_REGISTRY[architecture])


def as_yaml(made: list[Any]) -> str:
    """recipe.yaml, in llm-compressor's form: `oneshot(recipe="recipe.yaml")` does the same again."""
    fields = {
        "SmoothQuantModifier": ("smoothing_strength", "mappings"),
        "AWQModifier": ("n_grid", "duo_scaling"),
        "GPTQModifier": ("config_groups", "ignore", "kv_cache_scheme", "block_size", "dampening_frac"),
        "QuantizationModifier": ("config_groups", "ignore", "kv_cache_scheme"),
    }
    stage = {}
    for modifier in made:
        name = next(base.__name__ for base in type(modifier).__mro__ if base.__name__ in fields)
        stage[name] = modifier.model_dump(mode="json", include=set(fields[name]), exclude_none=True)
    text: str = yaml.safe_dump({"quantization_stage": {"quantization_modifiers": stage}}, sort_keys=False)
    return text
