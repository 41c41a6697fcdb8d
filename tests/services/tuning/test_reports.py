"""What people read of a tuning: its report, its model card, its metrics as a table."""

import csv
import io
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
import yaml  # type: ignore[import-untyped]
from sqlalchemy.orm import Session

from services.compression.about import Origin
from services.tuning import orders
from services.tuning.card import merged_card, tuned_card
from services.tuning.orders import Material
from services.tuning.reports import metrics_csv, tuning_report
from shared.contracts.tuning import Method, Relief, TuningSpec
from shared.contracts.tuning_orders import MergeResult
from tests.services.compression.build import claimed, source, upload
from tests.services.compression.found import png
from tests.services.jobs import build
from tests.services.tuning.came import SHA, facts, figures, setting
from tests.services.tuning.made import adapter, base


def spec(**fields: Any) -> TuningSpec:
    values = {"model": "org/tiny@2", "data": [{"type": "library"}], "lora": {"rank": 8, "alpha": 16}, "name": "mine"}
    return TuningSpec.model_validate(values | {"training": {"learning_rate": 2e-4}} | fields)


def report(asked: TuningSpec | None = None, /, **fields: Any) -> str:
    data = [Origin("chats.jsonl (file-1)", SHA, bytes=2048)]
    page = tuning_report(
        figures(**fields), name="mine", spec=asked or spec(), charts={"loss.png": png()}, data=data, job_id="job-1"
    )
    return page.decode()


class TestReport:
    def test_says_what_came_of_it_and_how(self) -> None:
        page = report()
        assert "<title>Tuning of org/tiny@2</title>" in page
        for told in (
            "Validation loss 1.500 at step 10", "rank 8, alpha 16.0, on all-linear", "53,760 of 3,168,512 (1.70%)",
            "41.0%", "16 samples a step", "8, 2 to a step on each device", "9 duplicate, 1 too long",
            "chats.jsonl (file-1)", SHA, "data:image/png;base64,", "job-1",
        ):  # fmt: skip
            assert told in page, told
        assert "Memory</h2>" not in page

    def test_says_that_nothing_was_kept_apart(self) -> None:
        assert "nothing says how well it does on others" in report(validation_loss=None, best_step=None)

    def test_says_why_it_ended_early(self) -> None:
        assert "stopped after step 15: the validation loss got no better" in report(stopped_early=True)

    def test_says_what_it_did_without_memory(self) -> None:
        page = report(relief=Relief(halvings=2, gradient_checkpointing=True, activation_offloading=True, devices=4))
        assert "Memory</h2>" in page
        for told in ("was halved 2 times", "(gradient checkpointing)", "in the host&#x27;s memory", "over 4 devices"):
            assert told in page, told

    def test_shows_options_that_were_asked_for(self) -> None:
        training = {"learning_rate": 1e-3, "neftune_alpha": 5, "label_smoothing": 0.1, "weight_decay": 0.01, "seed": 7}
        page = report(spec(method="dora", training=training), setting=setting(packing=True, devices=2))
        for told in ("merged into the base", "NEFTune", "0.1</dd>", "packed rows", "sharded (FSDP2)", "<dd>7</dd>"):
            assert told in page, told

    def test_a_name_is_no_html(self) -> None:
        page = report(data=facts(sources={"<script>alert(1)</script>": 3}))
        assert "<script>" not in page


class TestMetrics:
    def test_are_openais_columns(self) -> None:
        rows = [
            (1, {"loss": 2.5, "token_accuracy": 0.25, "learning_rate": 1e-4}),
            (2, {"loss": 1.0, "token_accuracy": 0.5, "validation_loss": 1.5, "validation_token_accuracy": 0.4}),
            (3, {"epoch": 1.0}),
        ]
        table = list(csv.reader(io.StringIO(metrics_csv(rows).decode())))
        assert table == [
            ["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"],
            ["1", "2.5", "0.25", "", ""],
            ["2", "1.0", "0.5", "1.5", "0.4"],
        ]


@pytest.fixture
def session(uncommitted: Session) -> Session:
    return uncommitted


@pytest.fixture
def tenant(session: Session) -> UUID:
    return build.tenant(session)


@pytest.fixture
def material(session: Session, tenant: UUID) -> Material:
    """A LoRA tuning of a model of the Hub."""
    base(session, tenant, source={"type": "huggingface", "repo_id": "org/Tiny", "revision": "abc"})
    file = upload(session, tenant, filename="mine.jsonl", sha256="ef" * 32)
    return orders.read(session, claimed(session, tenant, "tuning", data=[source(file)], name="mine"))


def front(card: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return found


class TestCard:
    def test_of_an_adapter_says_how_it_is_loaded(self, material: Material) -> None:
        card = tuned_card(material, figures(relief=Relief(halvings=1)))
        assert {"base_model": "org/Tiny", "base_model_relation": "adapter", "library_name": "peft"}.items() <= front(
            card
        ).items()
        for told in (
            "# mine\n", "`tiny@1` (`org/Tiny` at revision `abc`", "rank 16, alpha 32.0",
            "Validation loss, the lowest: 1.5", "mine.jsonl", f"`{'ef' * 32}`", "the micro-batch was halved once",
            "--max-lora-rank 16 --lora-modules mine=.", "modelyard chat mine",
        ):  # fmt: skip
            assert told in card, told

    def test_of_a_whole_model_needs_no_peft(self, material: Material) -> None:
        asked = material.tuning.model_copy(update={"method": Method.FULL, "lora": None})
        card = tuned_card(replace(material, spec=TuningSpec.model_validate(asked.model_dump())), figures())
        assert front(card)["base_model_relation"] == "finetune"
        assert 'from_pretrained("."' in card
        assert "PeftModel" not in card

    def test_of_a_merge_names_the_job_that_trained(self, session: Session, tenant: UUID) -> None:
        own = base(session, tenant)
        adapter(session, tenant, own, name="mine", source={"type": "tuning", "job_id": "job-1"})
        material = orders.read(session, claimed(session, tenant, "merge", model="mine"))
        card = merged_card(material, MergeResult(layers=21, bytes=2048, seconds=1.0))
        assert "The adapter `mine@1`, which job `job-1` has trained" in card
        assert "Matrices that it changes: 21" in card
        assert front(card)["tags"] == ["merge", "peft", "modelyard"]
