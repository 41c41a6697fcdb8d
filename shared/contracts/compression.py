"""Calibration and quantization: what a caller asks for, and what a scheme is."""

from enum import StrEnum
from typing import Annotated, Literal, NamedTuple

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from shared.contracts.evaluation import EvaluationOptions, Gate, Source, check_sources
from shared.contracts.jobs import Contract, Name, Text
from shared.contracts.serving import Serving

SAMPLES: int = 4096  #: most samples of a calibration
GROUP_SIZE: int = 128  #: columns that share a scale, where nothing else is asked

Pattern = Annotated[Text, Field(min_length=1, max_length=512)]
"""A module's name (`model.layers.0.self_attn.q_proj`, or its end after a dot: `lm_head`), or `re:` and an expression
that matches a name from its beginning: the spelling of compressed-tensors."""


class Scheme(StrEnum):
    """How weights and activations are kept."""

    FP16 = "fp16"  #: 16 bits, 5 of exponent
    BF16 = "bf16"  #: 16 bits, 8 of exponent
    INT8 = "int8"  #: weights and activations in 8 bits, SmoothQuant + GPTQ
    INT8_DYNAMIC = "int8-dynamic"  #: the same, rounded to nearest, without data
    W8A16 = "w8a16"  #: weights alone in 8 bits
    W4A16 = "w4a16"  #: weights alone in 4 bits, in groups: GPTQ, AWQ or rounded to nearest
    FP8_DYNAMIC = "fp8-dynamic"  #: weights and activations in 8-bit floats, scales of activations found as they come
    FP8 = "fp8"  #: the same with scales of activations fixed from calibration data
    FP8_KV = "fp8-kv"  #: fp8-dynamic, and keys and values of the cache in 8-bit floats
    NVFP4 = "nvfp4"  #: weights and activations in 4-bit floats, in groups of 16


class Method(StrEnum):
    """How the rounding of weights is found."""

    AUTO = "auto"  #: what the scheme is known to do best with: GPTQ for int8 and w4a16, else nearest
    RTN = "rtn"  #: round to nearest
    GPTQ = "gptq"  #: arXiv 2210.17323: each column's error is made up for by those that follow
    AWQ = "awq"  #: arXiv 2306.00978: channels that matter are scaled up before rounding; w4a16 alone


class Facts(NamedTuple):
    """What follows from a scheme. `bits` is the width of a weight."""

    dtype: str  #: the word that a GPU class lists when it can serve it
    bits: int
    methods: tuple[Method, ...] = ()  #: the first is what `auto` stands for; none: nothing is quantized
    group_size: int | None = None
    static: bool = False  #: scales of activations or of the cache come from data
    everywhere: bool = True  #: class cpu serves it without listing it, by unpacking the weights


_EITHER = (Method.RTN, Method.GPTQ)
SCHEMES: dict[Scheme, Facts] = {
    Scheme.FP16: Facts("fp16", 16),
    Scheme.BF16: Facts("bf16", 16),
    Scheme.INT8: Facts("int8", 8, (Method.GPTQ, Method.RTN)),
    Scheme.INT8_DYNAMIC: Facts("int8", 8, _EITHER),
    Scheme.W8A16: Facts("int8", 8, _EITHER),
    Scheme.W4A16: Facts("int4", 4, (Method.GPTQ, Method.AWQ, Method.RTN), GROUP_SIZE),
    Scheme.FP8_DYNAMIC: Facts("fp8", 8, _EITHER),
    Scheme.FP8: Facts("fp8", 8, _EITHER, static=True),
    Scheme.FP8_KV: Facts("fp8-kv", 8, _EITHER, static=True, everywhere=False),
    Scheme.NVFP4: Facts("nvfp4", 4, _EITHER, 16, static=True, everywhere=False),
}


def needs_data(scheme: Scheme, method: Method) -> bool:
    """Whether calibration samples are run through the model; `method` is not `auto`."""
    return SCHEMES[scheme].static or method in (Method.GPTQ, Method.AWQ) or scheme is Scheme.INT8


class Strategy(StrEnum):
    """Which samples are taken of those that there are."""

    RANDOM = "random"
    LONGEST = "longest"
    DIVERSE = "diverse"  #: spread over clusters of TF-IDF vectors
    DOMAIN = "domain"  #: at random from the top share most similar to reference texts


class Sampling(Contract):
    """How calibration samples are chosen, and what they become."""

    samples: int = Field(128, ge=1, le=SAMPLES, strict=True)
    sequence_length: int | None = Field(
        None, ge=16, le=131_072, strict=True, description="tokens of a sample; null: 2048, or the model's context"
    )
    strategy: Strategy = Strategy.RANDOM
    reference: list[Source] = Field(
        default_factory=list, max_length=16, description="strategy domain: texts like those that the model will see"
    )
    share: float = Field(0.2, gt=0, le=1, description="strategy domain: the part of the texts that is similar enough")
    seed: int = Field(0, ge=0, le=2**31 - 1, strict=True)
    deduplicate: bool = Field(True, description="leave out texts that differ in case and white space alone")
    min_characters: int = Field(16, ge=1, strict=True, description="shorter texts are left out")
    packed: bool = Field(True, description="fill every sample up with the next text; false: one text a sample, padded")

    @model_validator(mode="after")
    def _referred(self) -> "Sampling":
        if (self.strategy is Strategy.DOMAIN) != bool(self.reference):
            msg = "reference texts and the strategy domain go together"
            raise ValueError(msg)
        check_sources(self.reference)
        return self


class CalibrationSpec(Contract):
    """Find out what a model's layers see, and what each scheme would cost them."""

    model: Name
    data: list[Source] = Field(default_factory=list, max_length=64, description="none: the packaged library text")
    sampling: Sampling = Sampling()
    schemes: list[Scheme] = Field(
        default_factory=lambda: [Scheme.INT8, Scheme.W8A16, Scheme.W4A16, Scheme.FP8_DYNAMIC],
        min_length=1,
        description="candidates of the sensitivity table",
    )
    group_size: int = Field(GROUP_SIZE, ge=16, le=4096, strict=True, description="of the candidates with groups")

    @field_validator("data")
    @classmethod
    def _distinct(cls, data: list[Source]) -> list[Source]:
        check_sources(data)
        return data

    @field_validator("schemes")
    @classmethod
    def _candidates(cls, schemes: list[Scheme]) -> list[Scheme]:
        plain = [scheme for scheme in schemes if not SCHEMES[scheme].methods]
        if plain:
            msg = f"{plain[0]} quantizes nothing"
            raise ValueError(msg)
        return schemes


class Override(Contract):
    """Another scheme for some layers, among those that leave activations alone or find their scales as they come."""

    layers: list[Pattern] = Field(min_length=1, max_length=256)
    scheme: Literal["int8-dynamic", "w8a16", "w4a16", "fp8-dynamic"]
    group_size: int | None = Field(None, ge=16, le=4096, strict=True, description="w4a16: null is 128")

    @field_validator("group_size")
    @classmethod
    def _grouped(cls, size: int | None, info: ValidationInfo) -> int | None:
        scheme = info.data.get("scheme")
        if size is not None and scheme and SCHEMES[Scheme(scheme)].group_size != GROUP_SIZE:
            msg = f"{scheme} has no group size to choose"
            raise ValueError(msg)
        return size


def _known(name: object) -> object:
    """Name the field, where a union would name each of its parts."""
    if name not in (*Scheme, "recommended"):
        msg = f"use one of {', '.join(Scheme)}, recommended"
        raise ValueError(msg)
    return name


class QuantizationSpec(Contract):
    """Make a smaller version of a model, and judge it."""

    model: Name
    name: Name | None = Field(None, description="of the new model; null: the model's own and the scheme, `llama-w4a16`")
    scheme: Annotated[Scheme | Literal["recommended"], BeforeValidator(_known)] = Field(
        description="`recommended`: what the calibration recommends, with its layers and smoothing"
    )
    method: Method = Method.AUTO
    group_size: int | None = Field(None, ge=16, le=4096, strict=True, description="w4a16: null is 128")
    ignore: list[Pattern] = Field(
        default_factory=lambda: ["lm_head"], max_length=256, description="layers that stay as they are"
    )
    overrides: list[Override] = Field(default_factory=list, max_length=32)
    smoothing_strength: float | None = Field(None, ge=0, le=1, description="int8: SmoothQuant; null is 0.5, 0 is none")
    calibration: Text | None = Field(None, description="id of a calibration of this model, or of its artifact")
    data: list[Source] = Field(
        default_factory=list, max_length=64, description="texts to calibrate with; none: the packaged library text"
    )
    sampling: Sampling | None = Field(None, description="null: 128 samples at random")
    evaluation: EvaluationOptions | None = Field(
        EvaluationOptions(), description="what the result is judged by, beside the original; null: not at all"
    )
    gate: Gate | None = Field(None, description="what the result must reach to be registered")
    alias: Name | None = Field(None, description="another name that stands for the new version from now on")
    serving: Serving = Field(Serving(), description="how engines run the new version")
    devices: Literal[1, 2, 4, 8] = Field(
        1, description="GPUs of one host that share the calibration samples; not on class cpu"
    )

    @field_validator("method")
    @classmethod
    def _makes(cls, method: Method, info: ValidationInfo) -> Method:
        scheme = _scheme(info)
        if scheme and method is not Method.AUTO and method not in (known := SCHEMES[scheme].methods):
            msg = f"{scheme} cannot be made by {method}: use {', '.join(known) or 'auto'}"
            raise ValueError(msg)
        return method

    @field_validator("group_size")
    @classmethod
    def _grouped(cls, size: int | None, info: ValidationInfo) -> int | None:
        scheme = _scheme(info)
        if size is not None and scheme and SCHEMES[scheme].group_size != GROUP_SIZE:
            msg = f"{scheme} has no group size to choose"
            raise ValueError(msg)
        return size

    @field_validator("overrides")
    @classmethod
    def _overridden(cls, overrides: list[Override], info: ValidationInfo) -> list[Override]:
        scheme = _scheme(info)
        if overrides and scheme and not SCHEMES[scheme].methods:
            msg = f"{scheme} quantizes nothing: it has no overrides"
            raise ValueError(msg)
        return overrides

    @field_validator("smoothing_strength")
    @classmethod
    def _smoothed(cls, strength: float | None, info: ValidationInfo) -> float | None:
        scheme = _scheme(info)
        if strength is not None and scheme and scheme is not Scheme.INT8:
            msg = "smoothing_strength is for scheme int8"
            raise ValueError(msg)
        return strength

    @field_validator("data")
    @classmethod
    def _distinct(cls, data: list[Source]) -> list[Source]:
        check_sources(data)
        return data

    @field_validator("gate")
    @classmethod
    def _judged(cls, gate: Gate | None, info: ValidationInfo) -> Gate | None:
        options = info.data.get("evaluation")
        if gate is not None and "evaluation" in info.data and not (options and options.judges):
            msg = "a gate looks at an evaluation's tasks of type text: there is none"
            raise ValueError(msg)
        return gate

    @model_validator(mode="after")
    def _agrees(self) -> "QuantizationSpec":
        if self.calibration is not None and (self.data or self.sampling):
            msg = "calibration brings its samples along: leave out data and sampling"
            raise ValueError(msg)
        if self.scheme == "recommended" and self.calibration is None:
            msg = "recommended needs a calibration"
            raise ValueError(msg)
        return self


def _scheme(info: ValidationInfo) -> Scheme | None:
    """The scheme that was asked for, if it is one; what is recommended is judged when it is known."""
    asked = info.data.get("scheme")
    return Scheme(asked) if asked in tuple(Scheme) else None


class LayerSensitivity(Contract):
    """What schemes cost one layer: the signal-to-quantization-noise ratio of its output in dB (`sqnr_db[scheme]`)."""

    layer: str
    shape: tuple[int, int]
    sqnr_db: dict[str, float]


class Recommendation(Contract):
    """What a calibration recommends, and why."""

    scheme: Scheme
    ignore: list[str]
    smoothing_strength: float | None = None
    reasons: list[str] = Field(default_factory=list)
