"""Every table. Import tables from here."""

from shared.db.models.accounts import ApiKey, Tenant
from shared.db.models.base import Base
from shared.db.models.catalog import Model, ModelAlias
from shared.db.models.files import File
from shared.db.models.inference import InferenceJob
from shared.db.models.jobs import (
    CLAIMABLE,
    Artifact,
    Attempt,
    Checkpoint,
    IdempotencyKey,
    Job,
    JobEvent,
    JobItem,
    JobLog,
    UsageRow,
)
from shared.db.models.outbox import ControlTask, Outbox, WebhookAttempt, WebhookDelivery
from shared.db.models.yard import Demand, Engine, EngineMeasure, FairShare, Worker

__all__ = [
    "CLAIMABLE",
    "ApiKey",
    "Artifact",
    "Attempt",
    "Base",
    "Checkpoint",
    "ControlTask",
    "Demand",
    "Engine",
    "EngineMeasure",
    "FairShare",
    "File",
    "IdempotencyKey",
    "InferenceJob",
    "Job",
    "JobEvent",
    "JobItem",
    "JobLog",
    "Model",
    "ModelAlias",
    "Outbox",
    "Tenant",
    "UsageRow",
    "WebhookAttempt",
    "WebhookDelivery",
    "Worker",
]
