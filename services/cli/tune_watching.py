"""A tuning while it trains: the newest loss behind the count of its steps."""

from collections.abc import Mapping
from typing import Any, Final

from services.cli.client import Client, Unreachable
from services.cli.pacing import Pace
from services.cli.tuning_view import live
from services.cli.waiting import Standing

PAGE: Final = 1000  #: steps that are asked for at once


class Losses(Pace):
    """Step, loss, validation loss, learning rate, tokens a second, time left."""

    def __init__(self, client: Client, job: Mapping[str, Any]) -> None:
        super().__init__(job["kind"])
        self._client = client
        self._path = f"/v1/jobs/{job['id']}/metrics"
        self._after = -1  # the newest step that is known
        self._newest = dict[str, float]()

    def look(self) -> None:
        """Read the figures of new steps."""
        try:
            more = True
            while more:
                page = self._client.get(self._path, after=self._after, limit=PAGE)
                for row in page["data"]:
                    self._after = row["id"]
                    self._newest |= row["values"]
                more = page["has_more"]
        except Unreachable:
            return

    def standing(self, job: Mapping[str, Any]) -> Standing:
        """How far it is. An attempt that goes on from a checkpoint tells its steps anew."""
        progress = job["progress"]
        if progress["unit"] == "steps":
            self._after = min(self._after, progress["done"])
        return super().standing(job)

    def figures(self, job: Mapping[str, Any], *, rate: float) -> str:
        """The newest ones, once there are any."""
        told = live(self._newest) if job["progress"]["unit"] == "steps" else ""
        return f", {told}" if told else super().figures(job, rate=rate)
