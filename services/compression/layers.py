"""The linear layers of a checkpoint, told by the headers of its weights, and which of them patterns mean."""

import re
from collections.abc import Iterable, Mapping, Sequence
from math import gcd
from typing import Any, Final

from services.catalog.figures import text_config
from services.catalog.tensors import Tensor
from services.documents import patterns
from shared.contracts.compression import GROUP_SIZE, SCHEMES, Scheme

HEAD: Final = "lm_head"
EXPRESSION: Final = "re:"
SIZES: Final = (16, 32, 64, 128, 256)  #: group sizes to propose; vLLM has its fastest kernels for 32, 64 and 128

_EMBEDDING: Final = "model.embed_tokens"
#: The spelling in which a file's names are those of the modules. Experts are fused while a checkpoint is loaded
#: (transformers 5, conversion_mapping.py), and models of text and pictures are renamed.
_PLAIN: Final = re.compile(r"model\.(embed_tokens|layers\.\d+\.(?!.*experts\.)[\w.]+)|lm_head")

Shapes = Mapping[str, tuple[int, int]]  #: module → (rows, columns)


def linear_layers(tensors: Sequence[Tensor], config: Mapping[str, Any]) -> Shapes | None:
    """Modules that are `torch.nn.Linear` once the checkpoint is loaded; None where its names do not say.

    A head that shares the embedding's weights is a layer too, though no tensor is called so.
    """
    found = {
        tensor.name.removesuffix(".weight"): (tensor.shape[0], tensor.shape[1])
        for tensor in tensors
        if tensor.name.endswith(".weight") and len(tensor.shape) == 2
    }
    if not found or not all(_PLAIN.fullmatch(name) for name in found):
        return None
    embedding = found.pop(_EMBEDDING, None)
    if embedding is not None and HEAD not in found and text_config(config).get("tie_word_embeddings", True):
        found[HEAD] = embedding
    return found


def meant(pattern: str, names: Sequence[str]) -> list[str]:
    """The names that a pattern means: a module's own, its end after a dot, or `re:` and what its beginning matches.

    Raises:
        BadPattern: it is no regular expression, or it has look-around or back-references.
    """
    if pattern.startswith(EXPRESSION):
        found = patterns.beginnings(pattern.removeprefix(EXPRESSION), names)
        return [name for name, hit in zip(names, found, strict=True) if hit]
    return [name for name in names if name == pattern or name.endswith(f".{pattern}")]


def group_of(scheme: Scheme, asked: int | None) -> int | None:
    """Columns of a layer that share a scale under a scheme; None: a row or a whole tensor does."""
    own = SCHEMES[scheme].group_size
    return (asked or own) if own == GROUP_SIZE else own


def dividing(layers: Iterable[tuple[int, int]]) -> list[int]:
    """The group sizes that divide the columns of all these layers, of those that one would choose."""
    common = gcd(*(columns for _, columns in layers))
    return [size for size in SIZES if common % size == 0]
