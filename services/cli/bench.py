"""`modelyard bench`: what this host reaches, measured by processes that need no yard."""

import json
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from services.cli.output import AsJson, ExitCode, emit, fail, say, table
from shared.contracts.serving import Policy
from shared.embedded.roles import ROOT, module_argv

COMPARISON: Final = "workers.runtime.comparison"
ALL: Final = ",".join(Policy)

app = typer.Typer(add_completion=False, help="Measure what this host reaches.")


@app.callback()
def bench() -> None:
    """Measure what this host reaches."""


def _policies(value: str) -> str:
    unknown = set(value.split(",")) - set(Policy)
    if unknown:
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: the policies are {ALL}")
    return value


@app.command()
def batching(  # noqa: PLR0913 - one option, one argument
    policies: Annotated[
        str, typer.Option(callback=_policies, help="Policies, with commas between them.", show_default=False)
    ] = ALL,
    *,
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="Length of the trace.")] = 30,
    rate: Annotated[float, typer.Option(min=0.1, max=10_000, help="Requests a second, on average.")] = 8,
    model: Annotated[str, typer.Option("--model", "-m", help="A packaged model, or a folder.")] = "yard-tiny",
    seed: Annotated[int, typer.Option(help="Of the trace: the same seed, the same trace.")] = 1,
    size: Annotated[int, typer.Option(min=1, max=4096, help="Requests that the engine holds.")] = 32,
    slo_ms: Annotated[
        float, typer.Option(min=1, help="Objective of a request's latency; elastic keeps its p95.")
    ] = 3000,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Then go faster and faster, until the p99 is above --p99-ms.")
    ] = False,
    p99_ms: Annotated[float, typer.Option(min=1, help="What the p99 may be in the sweep.")] = 6000,
    simulate: Annotated[bool, typer.Option("--simulate", help="An engine that is only arithmetic.")] = False,
    as_json: AsJson = False,
) -> None:
    """Replay one bursty trace through each batching policy, and compare.

    Starts an engine of its own on this host's CPU, unless it simulates one.
    """
    figures = {"seconds": seconds, "rate": rate, "seed": seed, "size": size, "slo-ms": slo_ms, "p99-ms": p99_ms}
    argv = [*module_argv(COMPARISON), "--policies", *policies.split(",")]
    argv += [f"--{name}={value}" for name, value in figures.items()]
    argv += [f"--{name}" for name, wanted in (("sweep", sweep), ("simulate", simulate)) if wanted]
    argv += [] if simulate else [f"--model={_folder(model)}"]
    result = _run(argv)
    if as_json:
        emit(result)
    else:
        _show(result)


def _folder(model: str) -> Path:
    """Where the model lies: beside the packaged ones, or where it says."""
    folders = (Path(str(resources.files("infra.models"))) / model, Path(model))
    found = next((folder for folder in folders if (folder / "config.json").is_file()), None)
    if found is None:
        fail(f"there is no model in {model}", code=ExitCode.NOT_FOUND)
    return found.resolve()


def _run(argv: list[str]) -> dict[str, Any]:
    """The comparison's result, with a bar on stderr while it runs."""
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            lines = _with_bar(json.loads(line) for line in process.stdout)
            last = next((line for line in lines if "result" in line or "error" in line), {})
        except KeyboardInterrupt:
            process.terminate()
            raise typer.Exit(ExitCode.INTERRUPTED) from None
    if "result" not in last:
        fail(last.get("error", f"the comparison ended with status {process.returncode}"))
    result: dict[str, Any] = last["result"]
    return result


def _with_bar(lines: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Pass lines on; those that tell progress move a bar."""
    from rich.console import Console  # noqa: PLC0415 - 60 ms that the other commands need not pay
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as bar:
        run = bar.add_task("the engine starts", total=None)
        for line in lines:
            if "policy" in line:
                what = f"{line['policy']} at {line['rate']:.3g} requests/s"
                bar.update(run, description=what, total=line["of"], completed=line["done"])
            yield line


def _show(result: dict[str, Any]) -> None:
    asked = f"{result['seconds']:g} s of {result['rate']:g} requests/s in bursts, seed {result['seed']}"
    say(f"{result['engine']}: {asked}, {result['size']} places")
    table(
        (
            "policy",
            "tokens/s",
            "p50",
            "p95",
            "p99",
            "TTFT p50",
            "TTFT p95",
            f"≤ {_s(result['slo_ms'] / 1000)}",
            "batch",
        ),
        [
            (
                row["policy"],
                f"{row['tokens_per_s']:.0f}",
                *(_s(row[f"latency_{name}_s"]) for name in ("p50", "p95", "p99")),
                *(_s(row[f"ttft_{name}_s"]) for name in ("p50", "p95")),
                f"{row['attainment']:.1%}",
                f"{row['batch']:.1f}",
            )
            for row in result["scores"]
        ],
    )
    if result["sweep"] is not None:
        _show_sweep(result)


def _show_sweep(result: dict[str, Any]) -> None:
    """The highest rate of each policy, beside static's."""
    rows = result["sweep"]
    if not rows:
        say(f"no policy has a p99 within {_s(result['p99_ms'] / 1000)} at this rate")
        return
    static = next((row["tokens_per_s"] for row in rows if row["policy"] == Policy.STATIC), None)
    say(f"at the highest rate whose p99 is within {_s(result['p99_ms'] / 1000)}:")
    table(
        ("policy", "requests/s", "tokens/s", "p99", "× static"),
        [
            (
                row["policy"],
                f"{row['rate']:.1f}",
                f"{row['tokens_per_s']:.0f}",
                _s(row["latency_p99_s"]),
                f"{row['tokens_per_s'] / static:.2f}" if static else None,
            )
            for row in rows
        ],
    )


def _s(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
