"""Tiny checkpoints: random Llamas with yard-tiny's tokenizer, a near copy, and versions of 8 bits."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config, preset_name_to_scheme
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from shared.contracts.forge_orders import Data, Subject
from workers.forge.checkpoints import load
from workers.forge.evaluation.subjects import Reader, Runner
from workers.forge.telling import Tell

YARD_TINY = Path("infra/models/yard-tiny").resolve()
CONTEXT = 128
#: yard-tiny's vocabulary; random weights that are large enough for opinions.
SHAPE: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "pad_token_id": 0,
}


def tiny_llama(folder: Path, *, seed: int = 0, noise: float = 0.0) -> Path:
    """A checkpoint in fp32; `noise` is the share of its own spread that every matrix is shaken by."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and noise:
                parameter.add_(torch.randn_like(parameter), alpha=noise * float(parameter.std()))
    return _saved(model, folder)


def quantized(base: Path, folder: Path, *, activations: bool) -> Path:
    """A compressed-tensors checkpoint of 8-bit weights by channel, and of 8-bit activations by token if wanted."""
    model = AutoModelForCausalLM.from_pretrained(base)
    scheme = preset_name_to_scheme("W8A8", ["Linear"])
    if not activations:
        scheme.input_activations = None
    config = QuantizationConfig(config_groups={"group_0": scheme}, ignore=["lm_head"])
    apply_quantization_config(model, config)
    for module in model.modules():
        if getattr(module, "quantization_scheme", None) is not None:
            module.weight_scale.data = module.weight.abs().amax(1, keepdim=True) / 127
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    _saved(model, folder)
    compressor.update_config(folder)
    return folder


def runner(folder: Path, name: str = "tiny") -> Runner:
    """A checkpoint in memory, as an evaluation has it."""
    reader = Reader.of(Subject(folder=folder, name=name))
    loaded = load(reader.subject, tell=Tell(lambda _: None))
    return Runner(reader, loaded.model, loaded.device)


def lines(path: Path, *values: dict[str, Any]) -> Data:
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return Data(path=path, name=path.name)


def _saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    for path in YARD_TINY.glob("*token*"):
        shutil.copy(path, folder)
    shutil.copy(YARD_TINY / "chat_template.jinja", folder)
    return folder
