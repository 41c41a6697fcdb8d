"""Rows for tests of tuning, written through the real services."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.orm import Session

from services.jobs.kinds import Prepared, kind
from services.jobs.plan import Plan, choose
from shared.db.models import Model
from shared.errors import ModelyardError
from tests.services.compression.build import LLAMA_8B, model, upload

__all__ = ["GIB", "LLAMA_8B", "adapter", "base", "model", "placed", "prepare", "refused", "upload"]

GIB = 2**30
TINY = {
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "hidden_size": 256,
    "intermediate_size": 640,
    "vocab_size": 4096,
}


def base(session: Session, tenant_id: UUID, **fields: Any) -> Model:
    """yard-tiny's shape."""
    return model(session, tenant_id, **{"config": TINY, "parameters": 3_806_000} | fields)


def adapter(session: Session, tenant_id: UUID, of: Model, name: str = "ft:tiny:me::1", **fields: Any) -> Model:
    """An adapter of a model."""
    config = {"peft_type": "LORA", "r": 16, "lora_alpha": 32}
    own = {"kind": "adapter", "base_id": of.id, "config": config, "digest": uuid4().hex * 2}
    return model(session, tenant_id, name=name, **own | fields)


def prepare(session: Session, tenant_id: UUID, which: str = "tuning", /, **spec: Any) -> Prepared:
    """What a request becomes."""
    row = kind(which)
    if which == "tuning":
        spec.setdefault("data", [{"type": "library"}])
    return row.prepare(session, tenant_id, row.spec.model_validate({"model": "tiny", **spec}))


def placed(session: Session, prepared: Prepared, gpu_class: str = "auto") -> Plan:
    """Where it would run."""
    assert prepared.needs is not None
    return choose(session, pool=kind("tuning").pool(None), gpu_class=gpu_class, needs=prepared.needs)


def refused(session: Session, tenant_id: UUID, which: str = "tuning", /, **spec: Any) -> ModelyardError:
    """The refusal of a spec."""
    with pytest.raises(ModelyardError) as caught:
        prepare(session, tenant_id, which, **spec)
    return caught.value
