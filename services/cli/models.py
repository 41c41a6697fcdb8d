"""`modelyard models …`: register models, name them, choose how they are served."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from services.cli import model_upload, waiting
from services.cli.amounts import count, size
from services.cli.calling import command
from services.cli.client import CallError, Client
from services.cli.compression_view import show_comparison
from services.cli.job_request import nested
from services.cli.output import AsJson, ExitCode, emit, say, table

app = typer.Typer(
    help="Register models, name them, choose how they are served.", no_args_is_help=True, add_completion=False
)

_HUB = re.compile(r"hf:(?P<repo_id>[^@]+)@(?P<revision>[0-9a-f]{40})")
_S3 = re.compile(r"s3://(?P<bucket>[^/]+)/(?P<prefix>.+)")

ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", help="A name, an alias, NAME@VERSION, or the id of a version.")
]
Name = Annotated[str, typer.Option("--name", "-n", help="What the model will be called.")]
Base = Annotated[str | None, typer.Option("--base-model", help="Of a LoRA adapter: the model it was trained on.")]
Alias = Annotated[str | None, typer.Option("--alias", help="Another name that will stand for this version.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the end of the import, with its progress.")]
Options = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="A serving option, as batching.policy=elastic; repeat it."),
]


class BadSource(CallError):
    """The source is spelled wrong."""

    code = "bad_source"
    exit_code = ExitCode.USAGE
    fix = "Give hf:ORG/REPO@COMMIT (all 40 digits), s3://BUCKET/PREFIX, or folder:PATH below the setting models_root."


@command(app, "list")
def list_models(client: Client, *, as_json: AsJson = False) -> None:
    """List the newest version of each model."""
    _list(client.get("/v1/models"), as_json=as_json)


@command(app)
def versions(client: Client, model: ModelName, *, as_json: AsJson = False) -> None:
    """List all versions of a model, newest first."""
    _list(client.get(f"{_path(model)}/versions"), as_json=as_json)


@command(app)
def show(client: Client, model: ModelName, *, as_json: AsJson = False) -> None:
    """Show one model: what it takes, where it fits, how it is served."""
    _show(client.get(_path(model)), as_json=as_json)


@command(app)
def register(  # noqa: PLR0913 - its options
    client: Client,
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of weights and configuration.")],
    *,
    name: Name,
    base_model: Base = None,
    alias: Alias = None,
    option: Options = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="The folder is below models_root on the yard's hosts: upload nothing.")
    ] = False,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Look a folder through, upload it, and make it a version of a model."""
    wish = _wish(name, base_model, alias, option)
    if in_place:
        _import(
            client, wish | {"source": {"type": "folder", "path": str(folder.resolve())}}, wait=wait, as_json=as_json
        )
        return
    with model_upload.uploaded(client, folder, keep=not wait) as files:
        _import(client, wish | {"source": {"type": "files", "files": files}}, wait=wait, as_json=as_json)


@command(app, "import")
def import_model(
    client: Client,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="hf:ORG/REPO@COMMIT, s3://BUCKET/PREFIX, or folder:PATH.")
    ],
    *,
    name: Name,
    base_model: Base = None,
    alias: Alias = None,
    option: Options = None,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Let a worker fetch a model from the Hugging Face Hub, an S3 prefix or a folder of its host."""
    _import(client, _wish(name, base_model, alias, option) | {"source": _source(source)}, wait=wait, as_json=as_json)


@command(app)
def alias(
    client: Client,
    name: Annotated[
        str | None, typer.Argument(metavar="[ALIAS]", help="The alias; without one, all are listed.")
    ] = None,
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="What it is to stand for.")] = None,
    *,
    delete: Annotated[bool, typer.Option("--delete", help="Forget the alias.")] = False,
    as_json: AsJson = False,
) -> None:
    """List aliases, let one stand for a version, or forget it."""
    if name is None:
        found = client.get("/v1/model_aliases")
        if as_json:
            emit(found)
        else:
            table(("alias", "model"), [(row["id"], row["model"]) for row in found["data"]])
        return
    if delete == (model is not None):
        raise typer.BadParameter("give the model that the alias is to stand for, or --delete")
    path = f"/v1/model_aliases/{quote(name, safe='')}"
    done = client.delete(path) if delete else client.put(path, {"model": model})
    if as_json:
        emit(done)
    else:
        say(f"forgot {done['id']}" if delete else f"{done['id']} stands for {done['model']}")


@command(app)
def serve(client: Client, model: ModelName, *, option: Options = None, as_json: AsJson = False) -> None:
    """Change how a model is served; `null` is the worker's default. Engines that run keep their options."""
    if not option:
        raise typer.BadParameter("give at least one --set KEY=VALUE")
    _show(client.patch(_path(model), {"serving": nested(option)}), as_json=as_json)


@command(app)
def compare(
    client: Client,
    a: Annotated[str, typer.Argument(metavar="A", help="A name, an alias, NAME@VERSION, or the id of a version.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other one.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Show two models beside each other: size, memory, speed, and what evaluations found of both."""
    found = client.get(f"{_path(a)}/compare/{quote(b, safe='')}")
    emit(found) if as_json else show_comparison(found)


@command(app)
def delete(client: Client, model: ModelName, *, as_json: AsJson = False) -> None:
    """Delete a model with all its versions, or the one version NAME@VERSION."""
    gone = client.delete(_path(model))
    if as_json:
        emit(gone)
    else:
        say(f"deleted {gone['id']}")


def _import(client: Client, wish: dict[str, Any], *, wait: bool, as_json: bool) -> None:
    job = client.post("/v1/models", wish)
    if not wait:
        emit(job) if as_json else say(f"{job['id']} {job['state']}")
        return
    code = waiting.verdict(job := waiting.until_end(client, job["id"]))
    if code is not ExitCode.OK:
        if as_json:
            emit(job)
        raise typer.Exit(code)
    (artifact,) = job["artifacts"]
    with client.download(artifact["content"]) as answer:
        made = json.loads(answer.read())
    _show(client.get(_path(made["id"])), as_json=as_json)


def _wish(name: str, base_model: str | None, alias: str | None, option: list[str] | None) -> dict[str, Any]:
    given = {"name": name, "base_model": base_model, "alias": alias, "serving": nested(option) if option else None}
    return {key: value for key, value in given.items() if value is not None}


def _origin(source: Mapping[str, Any]) -> str:
    """Where a version is from, in one line."""
    if source.get("type") != "quantization":
        return " ".join(map(str, source.values()))
    base, recipe = source["base"], source["recipe"]
    made = f"quantized from {base['name']}@{base['version']}: {recipe['scheme']} by {recipe['method']}"
    named = ((name, source[name]) for name in ("job_id", "calibration", "evaluation"))
    return ", ".join([made, *(f"{name.removesuffix('_id')} {value}" for name, value in named if value)])


def _source(text: str) -> dict[str, str]:
    if found := _HUB.fullmatch(text):
        return {"type": "huggingface", **found.groupdict()}
    if found := _S3.fullmatch(text):
        return {"type": "s3", **found.groupdict()}
    if text.startswith("folder:"):
        return {"type": "folder", "path": text.removeprefix("folder:")}
    raise BadSource(f"{text!r} is no source.")


def _path(model: str) -> str:
    return f"/v1/models/{quote(model, safe='')}"


def _list(found: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        emit(found)
        return
    rows = [
        (
            row["id"], row["version"], row["dtype"], count(row["parameters"]), size(row["bytes"]),
            row["context_length"], row["parent"], " ".join(row["aliases"]), row["ready_replicas"],
        )
        for row in found["data"]
    ]  # fmt: skip
    table(("model", "version", "dtype", "parameters", "size", "context", "base", "aliases", "engines"), rows)


def _show(model: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        emit(model)
        return
    engines = f"{model['ready_replicas']} ready{' on ' + model['gpu_class'] if model['gpu_class'] else ''}"
    lines = {
        "model": f"{model['id']} (version {model['version']}, {model['version_id']})",
        "digest": model["digest"],
        "base": model["parent"],
        "adapter": model["adapter"]
        and f"rank {model['adapter']['rank']}, {', '.join(model['adapter']['target_modules'])}",
        "weights": f"{count(model['parameters'])} parameters in {model['dtype']}, {size(model['bytes'])}",
        "context": f"{model['context_length']} tokens",
        "aliases": ", ".join(model["aliases"]),
        "serving": json.dumps(model["serving"]) if model["serving"] else None,
        "source": _origin(model["source"]),
        "engines": engines,
    }
    for name, value in lines.items():
        if value:
            say(f"{name:<10} {value}")
    for each in model["memory"]:
        weights, token, context = (size(each[key]) for key in ("weight_bytes", "kv_bytes_per_token", "context_bytes"))
        say(f"{each['dtype']:<10} weights {weights}, KV cache {token} a token, {context} a whole context")
    fitting = ", ".join(f"{each['gpu_class']} × {each['devices']}" for each in model["gpu_classes"])
    say(f"{'fits':<10} {fitting or 'no class of this deployment'}")
