"""What OpenAI's clients ask of a fine-tuning job, and the job of ours that it is."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError

from services.jobs.service import field_errors
from services.tuning.inputs import LEARNING_RATES
from services.tuning.openai_jobs import KIND
from shared.contracts.compression import Pattern
from shared.contracts.jobs import Contract, JobRequest, Metadata, Name, Text, WebhookTarget
from shared.contracts.tuning import LARGEST_RANK, Auto, Lora, Method, Schedule
from shared.errors import BadRequest, InvalidField, UnknownParameter, UnsupportedParameter

Whole = Annotated[int, Field(strict=True)]

EPOCHS = 3.0  #: where nobody says
MOST = {"batch_size": 65_536, "learning_rate_multiplier": 10_000, "n_epochs": 1000}


class UnsupportedMethod(BadRequest):
    """Fine-tuning is supervised here: preferences and graders are not trained on."""

    code = "unsupported_method"


class HyperparametersIn(Contract):
    """OpenAI's three."""

    batch_size: Auto | Whole = Field("auto", description="auto: 16, fewer of little data")
    learning_rate_multiplier: Auto | float = Field("auto", description="of 2e-4; auto: 1")
    n_epochs: Auto | Whole = Field("auto", description="auto: 3")


class SupervisedIn(Contract):
    """Options of the method."""

    hyperparameters: HyperparametersIn | None = None


class MethodIn(Contract):
    """How it is trained; `supervised` alone is supported."""

    type: Literal["supervised", "dpo", "reinforcement"] = "supervised"
    supervised: SupervisedIn | None = None
    dpo: dict[str, Any] | None = Field(None, description="refused")
    reinforcement: dict[str, Any] | None = Field(None, description="refused")


class LoraIn(Contract):
    """The adapter: ours, in `extra_body`."""

    r: int = Field(16, ge=1, le=LARGEST_RANK, strict=True)
    alpha: float | None = Field(None, gt=0, lt=1e6, description="null: twice r")
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: Literal["all-linear"] | list[Pattern] = "all-linear"
    rslora: bool = False
    dora: bool = Field(False, description="the result is merged, because no engine serves it")
    quantize_base: bool = Field(False, description="refused: a quantized base is not trained here")
    max_seq_len: int | None = Field(None, ge=16, le=1_048_576, strict=True)
    packing: bool = False
    lr: float | None = Field(None, gt=0, lt=10, description="instead of learning_rate_multiplier")
    scheduler: Schedule = Schedule.COSINE
    warmup: float = Field(0.03, ge=0, lt=1, description="share of all steps")

    @property
    def method(self) -> Method:
        """What these options call for."""
        return Method.DORA if self.dora else (Method.RSLORA if self.rslora else Method.LORA)


class FineTuneRequest(Contract):
    """The body of `POST /v1/fine_tuning/jobs`. The last four fields are ours."""

    model: Name = Field(description="the base")
    training_file: Text = Field(description="id of an uploaded JSONL file of purpose fine-tune")
    validation_file: Text | None = None
    method: MethodIn | None = None
    hyperparameters: HyperparametersIn | None = Field(None, description="OpenAI's older place for them")
    suffix: str | None = Field(None, pattern=r"^[A-Za-z0-9._-]{0,64}$", description="part of the result's name")
    seed: int | None = Field(None, ge=0, le=2**31 - 1, strict=True, description="null: 0")
    integrations: list[dict[str, Any]] | None = Field(None, description="refused unless empty")
    metadata: Metadata | None = Field(None, description="up to 16 pairs, returned as given")
    lora: LoraIn = Field(LoraIn(), description="ours: the adapter, and how it is trained")
    gpu_class: Name = Field("auto", description="ours: a GPU class, or `auto`: the cheapest that fits")
    priority: int = Field(5, ge=0, le=9, strict=True, description="ours: 9 goes first")
    webhook: WebhookTarget | None = Field(None, description="ours: where the job's events are delivered, signed")

    @classmethod
    def of(cls, body: dict[str, Any]) -> Self:
        """A checked body.

        Raises:
            InvalidField, UnknownParameter: a field is missing, wrong or unknown. As OpenAI answers, 400.
            UnsupportedMethod: the method is not `supervised`.
            UnsupportedParameter: an integration, or a quantized base.
        """
        try:
            made = cls.model_validate(body)
        except ValidationError as error:
            found = tuple(field_errors(error))
            unknown = {field.code for field in found} == {UnknownParameter.code}
            raise (UnknownParameter if unknown else InvalidField)(errors=found) from error
        _check_support(made)
        _check_numbers(made)
        return made

    @property
    def given(self) -> HyperparametersIn:
        """The hyperparameters, wherever they stand."""
        inner = self.method.supervised.hyperparameters if self.method and self.method.supervised else None
        return inner or self.hyperparameters or HyperparametersIn()

    def as_job(self) -> JobRequest:
        """The job that this is."""
        file = {"type": "file", "file_id": self.training_file}
        validation = [] if self.validation_file is None else [{"type": "file", "file_id": self.validation_file}]
        spec = {
            "model": self.model,
            "data": [file],
            "validation": validation,
            "method": self.lora.method,
            "lora": self._adapter().model_dump(mode="json"),
            "training": self._training(),
            "suffix": self.suffix or None,
            "checkpoint_models": not self.lora.method.merged,
        }
        return JobRequest(
            kind=KIND,
            spec=spec,
            gpu_class=self.gpu_class,
            priority=self.priority,
            metadata=self.metadata or {},
            webhook=self.webhook,
        )

    def _adapter(self) -> Lora:
        return Lora(
            rank=self.lora.r,
            alpha=self.lora.alpha,
            dropout=self.lora.dropout,
            target_modules=self.lora.target_modules,
        )

    def _training(self) -> dict[str, Any]:
        given, lora = self.given, self.lora
        multiplier = 1.0 if given.learning_rate_multiplier == "auto" else given.learning_rate_multiplier
        return {
            "learning_rate": lora.lr or multiplier * LEARNING_RATES[True],
            "epochs": EPOCHS if given.n_epochs == "auto" else float(given.n_epochs),
            "batch_size": given.batch_size,
            "seed": self.seed or 0,
            "schedule": lora.scheduler,
            "warmup": lora.warmup,
            "max_length": lora.max_seq_len,
            "packing": lora.packing,
        }


def _check_support(asked: FineTuneRequest) -> None:
    method = asked.method or MethodIn()
    if method.type != "supervised":
        raise UnsupportedMethod(param="method.type")
    for name in ("dpo", "reinforcement"):
        if getattr(method, name) is not None:
            raise InvalidField(f"method.{name} belongs to another type.", param=f"method.{name}")
    if asked.integrations:
        raise UnsupportedParameter("There are no integrations: metrics are events.", param="integrations")
    if asked.lora.quantize_base:
        message = "A quantized base is not trained: leave it out, and quantize the merged result."
        raise UnsupportedParameter(message, param="lora.quantize_base")


def _check_numbers(asked: FineTuneRequest) -> None:
    inner = asked.method.supervised if asked.method else None
    if asked.hyperparameters is not None and inner is not None and inner.hyperparameters is not None:
        raise InvalidField("Give hyperparameters once: inside method.", param="hyperparameters")
    given, lora = asked.given, asked.lora
    for name, most in MOST.items():
        value = getattr(given, name)
        if value != "auto" and not 0 < value <= most:
            message = f"{name} is auto, or more than 0 and at most {most}."
            raise InvalidField(message, param=f"hyperparameters.{name}")
    if lora.rslora and lora.dora:
        raise InvalidField("rslora and dora are two methods: give one.", param="lora.dora")
    if lora.lr is not None and given.learning_rate_multiplier != "auto":
        raise InvalidField("lr and learning_rate_multiplier say the same: give one.", param="lora.lr")
