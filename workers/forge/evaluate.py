"""`python -I -m workers.forge.evaluate spec.json` with an `EvaluateOrder`: how good a model is, beside another one."""

from shared.contracts.forge import ForgeSpec
from shared.contracts.forge_orders import EvaluateOrder, EvaluationResult
from workers.forge.pipe import Pipe
from workers.forge.running import quick_imports, run
from workers.forge.telling import Tell


def work(spec: ForgeSpec, pipe: Pipe) -> EvaluationResult:
    """Evaluate as the order says."""
    with quick_imports():  # torch reads the environment once
        from workers.forge.evaluation.evaluating import evaluate  # noqa: PLC0415

    return evaluate(EvaluateOrder.model_validate(spec.spec), spec.out, tell=Tell(pipe.send))


if __name__ == "__main__":
    run(work)
