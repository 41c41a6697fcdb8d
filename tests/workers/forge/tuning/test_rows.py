"""Rows become micro-batches: in one order for all devices, and no sample learns of another."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, MambaConfig

from shared.contracts.forge_orders import Data
from tests.workers.forge.tuning.given import order, run
from workers.forge.refusing import Refused
from workers.forge.tuning import attention, quick_head
from workers.forge.tuning.collating import COUNTS, Collator
from workers.forge.tuning.ordering import NOTHING, Order, Rows
from workers.forge.tuning.samples import Row


def row(*samples: list[int]) -> Row:
    """Samples in a row; all of their tokens are learned."""
    ids = np.concatenate(samples).astype(np.int32)
    return Row(ids, np.ones(len(ids), dtype=bool), tuple(map(len, samples)))


A, B, C = [5, 6, 7, 8], [9, 10, 11], [12, 13, 14, 15, 16]


class TestOrder:
    @settings(max_examples=60, deadline=None)
    @given(
        rows=st.integers(1, 90),
        accumulation=st.integers(1, 4),
        micro=st.sampled_from([1, 2, 3]),
        devices=st.sampled_from([1, 2, 4]),
        epoch=st.integers(0, 3),
    )
    def test_devices_and_micro_batches_change_no_batch(  # noqa: PLR0917 - fixtures
        self, rows: int, accumulation: int, micro: int, devices: int, epoch: int
    ) -> None:
        lengths = [1 + number * 7 % 13 for number in range(rows)]
        size = accumulation * micro * devices

        def steps(micro: int, devices: int) -> list[set[int]]:
            orders = [Order(lengths, size, micro, seed=4, rank=rank, devices=devices) for rank in range(devices)]
            for each in orders:
                each.epoch = epoch
            parts = [list(each) for each in orders]
            assert {len(part) for part in parts} == {len(orders[0])}
            cut = size // (micro * devices)
            groups = [
                [number for part in parts for batch in part[start : start + cut] for number in batch]
                for start in range(0, len(parts[0]), cut)
            ]
            assert sorted(each for group in groups for each in group if each != NOTHING) == list(range(rows))
            return [set(group) - {NOTHING} for group in groups]

        assert steps(micro, devices) == steps(size, 1)
        assert [len(group) for group in steps(size, 1)[:-1]] == [size] * ((rows - 1) // size)

    def test_epochs_and_seeds_differ(self) -> None:
        def first(seed: int, epoch: int) -> list[list[int]]:
            found = Order(list(range(40)), 4, 4, seed=seed)
            found.epoch = epoch
            return list(found)

        assert first(1, 0) == first(1, 0)
        assert first(1, 0) != first(1, 1) != first(2, 1)


class TestCollator:
    def test_padding_is_at_the_end_and_has_no_loss(self) -> None:
        batch = Collator(padding=0, packed=False, length=8)([row(A), row(B)])
        assert batch["input_ids"].tolist() == [A, [*B, 0]]
        assert batch["labels"].tolist() == [[-100, *A[1:]], [-100, *B[1:], -100]]
        assert (batch[COUNTS].tokens, batch[COUNTS].targets, batch[COUNTS].squares) == (7, 5, 25)
        assert "attention_mask" not in batch

    def test_no_sample_is_predicted_from_the_one_before(self) -> None:
        batch = Collator(padding=0, packed=True, length=12)([row(A, B), row(C)])
        assert batch["labels"][0].tolist() == [-100, *A[1:], -100, *B[1:]]
        assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2], [0, 1, 2, 3, 4, 0, 0]]

    def test_flat_rows_come_with_the_bounds_of_their_samples(self) -> None:
        batch = Collator(padding=0, packed=True, length=8, flat=True)([row(A, B), row(C)])
        assert batch["input_ids"].tolist() == [[*A, *B, *C, 0, 0, 0, 0]]
        assert batch["cu_seq_lens_q"].tolist()[:5] == [0, 4, 7, 12, 16]
        assert set(batch["cu_seq_lens_q"].tolist()[5:]) <= {16}
        assert batch["max_length_q"] == 8

    def test_widths_can_be_of_a_few_sizes(self) -> None:
        batch = Collator(padding=0, packed=False, length=8, multiple=8)([row(A)])
        assert batch["input_ids"].shape == batch["labels"].shape == (1, 8)

    def test_a_device_without_a_row_has_one_without_a_loss(self) -> None:
        rows = Rows([row(A)], padding=3)
        batch = Collator(padding=3, packed=False, length=8)([rows[NOTHING]])
        assert (batch["input_ids"].tolist(), batch["labels"].tolist()) == ([[3]], [[-100]])


class TestApart:
    def test_layers_that_carry_a_state_are_found(self) -> None:
        config = MambaConfig(vocab_size=32, hidden_size=16, state_size=4, num_hidden_layers=1)
        model = AutoModelForCausalLM.from_config(config)
        with pytest.raises(Refused, match="unsupported_packing"):
            attention.check_apart(model)

    def test_masks_of_attention_hold(self, tiny: Path) -> None:
        attention.check_apart(AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32))


class TestPacking:
    @pytest.fixture(scope="class")
    def model(self, tiny: Path) -> Any:
        model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32, attn_implementation="sdpa")
        model.requires_grad_(requires_grad=False)
        assert quick_head.attach(model)
        return model

    def _loss(self, model: Any, *rows: Row) -> float:
        batch = Collator(padding=0, packed=True, length=12)(rows)
        del batch[COUNTS]
        with torch.no_grad():
            return float(model(**batch, quick_head=True).nll)

    def test_packed_or_not_the_loss_is_the_same(self, model: Any) -> None:
        apart = sum(self._loss(model, row(sample)) for sample in (A, B, C))
        assert self._loss(model, row(A, B, C)) == pytest.approx(apart, rel=1e-6)
        assert self._loss(model, row(A, B), row(C)) == pytest.approx(apart, rel=1e-6)

    def test_another_sample_before_it_changes_nothing(self, model: Any) -> None:
        with_a, with_other = (self._loss(model, row(first, B)) - self._loss(model, row(first)) for first in (A, C))
        assert with_a == pytest.approx(with_other, abs=1e-5)

    def test_a_run_learns_from_packed_rows(self, tiny: Path, examples: Data, tmp_path: Path) -> None:
        given = order(tiny, examples, training={"packing": True, "max_length": 128, "batch_size": 2, "steps": 4,
                                                "micro_batch_size": 2})  # fmt: skip
        tuned = run(given, tmp_path / "out")
        figures = tuned.result.figures
        assert (figures.setting.packing, figures.setting.attention) == (True, "sdpa")
        assert figures.data.rows < figures.data.kept / 3
        assert tuned.losses[4] < tuned.losses[1]
