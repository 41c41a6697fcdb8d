"""Every table. Import tables from here."""

from shared.db.models.accounts import ApiKey, Tenant
from shared.db.models.base import Base
from shared.db.models.batches import BatchJob
from shared.db.models.catalog import Model, ModelAlias
from shared.db.models.compression import Calibration, CompressionFile, CompressionJob, Evaluation
from shared.db.models.documents import DocumentSetFile
from shared.db.models.files import File, Garbage, Upload, UploadPart
from shared.db.models.inference import InferenceJob
from shared.db.models.jobs import (
    CLAIMABLE,
    Attempt,
    IdempotencyKey,
    Job,
    JobEvent,
    JobItem,
    JobLog,
    UsageRow,
)
from shared.db.models.outbox import ControlTask, Outbox, WebhookAttempt, WebhookDelivery
from shared.db.models.results import Artifact, Checkpoint, JobMetric
from shared.db.models.tuning import TuningFile, TuningJob
from shared.db.models.yard import Demand, Engine, EngineMeasure, FairShare, Worker

__all__ = [
    "CLAIMABLE",
    "ApiKey",
    "Artifact",
    "Attempt",
    "Base",
    "BatchJob",
    "Calibration",
    "Checkpoint",
    "CompressionFile",
    "CompressionJob",
    "ControlTask",
    "Demand",
    "DocumentSetFile",
    "Engine",
    "EngineMeasure",
    "Evaluation",
    "FairShare",
    "File",
    "Garbage",
    "IdempotencyKey",
    "InferenceJob",
    "Job",
    "JobEvent",
    "JobItem",
    "JobLog",
    "JobMetric",
    "Model",
    "ModelAlias",
    "Outbox",
    "Tenant",
    "TuningFile",
    "TuningJob",
    "Upload",
    "UploadPart",
    "UsageRow",
    "WebhookAttempt",
    "WebhookDelivery",
    "Worker",
]
