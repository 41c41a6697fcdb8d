"""`python -I -m workers.forge.merge spec.json`: an adapter is added to its base (`MergeOrder`)."""

from shared.contracts.forge import ForgeSpec
from shared.contracts.tuning_orders import MergeOrder, MergeResult
from workers.forge.pipe import Pipe
from workers.forge.running import quick_imports, run
from workers.forge.telling import Tell


def main() -> None:
    """Merge what the spec says."""
    run(_work)


def _work(spec: ForgeSpec, pipe: Pipe) -> MergeResult:
    # They read the environment that run() has written, and take seconds: a SIGTERM ends them.
    with quick_imports("scipy"):  # half a second, for a loss of object detection
        from workers.forge.tuning.merging import merge  # noqa: PLC0415
    return merge(MergeOrder.model_validate(spec.spec), spec.out, tell=Tell(pipe.send))


if __name__ == "__main__":
    main()
