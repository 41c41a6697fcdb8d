from datetime import timedelta

import pytest
from sqlalchemy.orm import Session

from services.jobs import lifecycle
from services.jobs.types import Ending, Outcome
from services.usage import service
from shared.clock import utc_now
from shared.errors import UnknownClass
from shared.ids import new_id
from shared.queues import gpu_class
from tests.services.jobs import build


class TestOfAttempt:
    def test_the_classs_price(self):
        usage = service.of_attempt("h200", gpu_seconds=7200, prompt_tokens=3, completion_tokens=4)
        assert usage.cost == pytest.approx(2 * gpu_class("h200").price_per_gpu_hour)
        assert (usage.prompt_tokens, usage.completion_tokens, usage.gpu_seconds) == (3, 4, 7200)

    def test_an_unknown_class(self):
        with pytest.raises(UnknownClass):
            service.of_attempt("abacus", gpu_seconds=1)


class TestTotals:
    def test_each_attempt_counts_once_for_its_tenant(self, session: Session):
        tenant = build.tenant(session)
        for _ in range(2):
            build.job(session, tenant)
        usage = service.of_attempt("cpu", gpu_seconds=2, prompt_tokens=5, completion_tokens=7)
        for claim in build.claim(session, limit=2):
            lifecycle.end(session, [Ending(claim.job_id, claim.attempt, Outcome.SUCCEEDED, usage=usage)])
        now = utc_now()
        since, until = now - timedelta(hours=1), now + timedelta(hours=1)
        (total,) = service.totals(session, tenant, since=since, until=until)
        assert (total.gpu_class, total.jobs, total.attempts) == ("cpu", 2, 2)
        assert (total.prompt_tokens, total.completion_tokens, total.gpu_seconds) == (10, 14, 4)
        assert not service.totals(session, new_id(), since=since, until=until)
        assert not service.totals(session, tenant, since=until, until=until)
