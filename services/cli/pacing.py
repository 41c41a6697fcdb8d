"""How a job that makes or measures a model goes on: what it writes, its phase, count, rate and time left."""

from collections.abc import Mapping
from typing import Any, Final

from services.cli.client import Client, Unreachable
from services.cli.job_view import LONGEST, clip
from services.cli.output import note
from services.cli.waiting import Standing
from shared.clock import monotonic

#: what is going on, by the kind of the job and the unit of its progress; everything else is an evaluation
PHASES: Final = {
    ("calibration", "samples"): "collecting",
    ("calibration", "layers"): "measuring",
    ("quantization", "layers"): "quantizing",
    ("tuning", "samples"): "reading",
    ("tuning", "steps"): "training",
    ("merge", "layers"): "merging",
}
EVALUATING: Final = "evaluating"
#: what follows a phase whose count is full; everything else is finishing
NEXT: Final = {"reading": "loading", "training": "saving", "quantizing": "saving", "merging": "saving"}


class Log:
    """The lines that a job's attempts write, told as they come."""

    def __init__(self, client: Client, job_id: str) -> None:
        self._client = client
        self._path = f"/v1/jobs/{job_id}/logs"
        self._after = 0

    def look(self) -> None:
        """Tell what is new; a gateway that does not answer is asked again next time."""
        try:
            more = True
            while more:
                page = self._client.get(self._path, after=self._after)
                for line in page["data"]:
                    self._after = line["id"]
                    note(clip(f"  {line['message']}", width=LONGEST))
                more = page["has_more"]
        except Unreachable:
            return


class Pace:
    """How fast a job goes, since its count last began; other kinds of jobs have more to tell (`figures`)."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._counting: tuple[str, int] = ("", 0)  # unit and attempt
        self._begun: tuple[int, float] = (0, 0.0)
        self._told: tuple[tuple[object, ...], str] = ((), "")

    def look(self) -> None:
        """Ask for whatever `figures` tells; a gateway that does not answer is asked again next time."""

    def figures(self, job: Mapping[str, Any], *, rate: float) -> str:
        """What stands behind the count of a job that works, at so many units a second (0: not known yet)."""
        del job
        return f", {rate:.2g} a second" if rate else ""

    def standing(self, job: Mapping[str, Any]) -> Standing:
        """How far the job is, in words and numbers. A line is said anew when more is done."""
        progress, state, attempt = job["progress"], job["state"], job["attempt"]
        done, total, unit = progress["done"], progress["total"] or 0, progress["unit"]
        if (unit, attempt) != self._counting or done < self._begun[0]:
            self._counting, self._begun = (unit, attempt), (done, monotonic())
        works = state == "running" and done < total
        phase = PHASES.get((self._kind, unit), EVALUATING) if works else state
        if state == "running" and total and not works:
            phase = NEXT.get(PHASES.get((self._kind, unit), EVALUATING), "finishing")
        title = f"{phase} (attempt {attempt})" if attempt > 1 else phase
        rate = self._rate(done) if works else 0.0
        figures = self.figures(job, rate=rate) if works else ""
        left = f", {(total - done) / rate:.0f} s left" if rate else ""
        now = (title, done, total)
        if now != self._told[0]:
            self._told = (now, f"{title} {done}/{total} {unit}{figures}{left}" if works else title)
        return Standing(f"{state} {phase}", title, done, total or None, f"{unit}{figures}", self._told[1])

    def _rate(self, done: int) -> float:
        first, begun = self._begun
        seconds = monotonic() - begun
        return (done - first) / seconds if done > first and seconds > 0 else 0.0
