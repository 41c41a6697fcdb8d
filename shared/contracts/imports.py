"""The `import_model` kind: files from somewhere become a version of a model."""

from typing import Annotated, Literal

from pydantic import Field

from shared.contracts.jobs import Contract, Name, Text
from shared.contracts.serving import Serving

FILES = 2000  #: most files of a model

FilePath = Annotated[Text, Field(min_length=1, max_length=512)]


class FolderSource(Contract):
    """A folder below the setting `models_root`, on the workers' hosts."""

    type: Literal["folder"]
    path: FilePath = Field(description="absolute, or relative to models_root")


class S3Source(Contract):
    """Objects below a prefix of the platform's store; the setting `models_s3` says which prefixes may be named."""

    type: Literal["s3"]
    prefix: FilePath = Field(description="`models/llama/`: what follows it in a key is the file's path")
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,62}$")] | None = Field(
        None, description="a bucket of the same store; null: the platform's own"
    )


class FilesSource(Contract):
    """Uploaded files."""

    type: Literal["files"]
    files: dict[FilePath, Text] = Field(
        min_length=1, max_length=FILES, description="path in the model's folder → id of a file of purpose `model`"
    )


class HuggingFaceSource(Contract):
    """A repository of the Hugging Face Hub at one commit; the worker fetches it."""

    type: Literal["huggingface"]
    repo_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?$")]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] = Field(
        description="the whole 40-digit commit: a branch or tag would mean something else tomorrow"
    )


Source = Annotated[FolderSource | S3Source | FilesSource | HuggingFaceSource, Field(discriminator="type")]


class ImportSpec(Contract):
    """Register a version of a model. The same content under the same name is one version."""

    name: Name = Field(description="letters, digits and ._:-, with at most one slash")
    source: Source
    base_model: Name | None = Field(None, description="for a LoRA adapter: the model that it was trained on")
    serving: Serving = Field(Serving(), description="how engines run it")
    alias: Name | None = Field(None, description="another name that stands for this version from now on")


class ImportedModel(Contract):
    """`model.json`, the artifact of an import: the version that it made, or found with the same content."""

    id: str
    name: str
    version: int
    kind: str
    digest: str
    bytes: int
    parameters: int
