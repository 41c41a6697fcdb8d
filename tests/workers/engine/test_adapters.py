"""Adapters in a running engine, against checkpoints that were merged by hand."""

import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.support.polling import wait_until
from tests.workers.engine.conftest import YARD_TINY
from tests.workers.engine.plain import Plain
from workers.engine.adapters import merged

PROMPT = "def read_lines(path):\n"
ASKED = {"prompt": PROMPT, "max_tokens": 16, "temperature": 0, "ignore_eos": True}
RANK = 4
P = "base_model.model."  # how PEFT begins every key
PROJECTIONS = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj", "model.layers.2.self_attn.v_proj"]
CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": 16, "target_modules": ["q_proj", "down_proj", "v_proj"]}


def tensors(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = load_file(YARD_TINY / "model.safetensors")
    made = {}
    for module in PROJECTIONS:
        rows, columns = weights[f"{module}.weight"].shape
        made[f"{P}{module}.lora_A.weight"] = torch.randn(RANK, columns, generator=generator) * 0.1
        made[f"{P}{module}.lora_B.weight"] = torch.randn(rows, RANK, generator=generator) * 0.4
    return made


def write(folder: Path, weights: dict[str, torch.Tensor], **config) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


def merge_by_hand(folder: Path, weights: dict[str, torch.Tensor], scale: float) -> Plain:
    shutil.copytree(YARD_TINY, folder)
    merged = {name: tensor.float() for name, tensor in load_file(YARD_TINY / "model.safetensors").items()}
    for module in PROJECTIONS:
        down, up = (weights[f"{P}{module}.lora_{half}.weight"] for half in "AB")
        merged[f"{module}.weight"] += scale * up @ down
    save_file(merged, folder / "model.safetensors", metadata={"format": "pt"})
    return Plain(folder)


@pytest.fixture(scope="module")
def engine(start_engine):
    return start_engine(max_adapters=3, max_in_flight=33).wait_ready()


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return write(tmp_path_factory.mktemp("one") / "adapter", tensors(1))


def load(engine, name: str, path: Path):
    return engine.post_json("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path)})


def unload(engine, name: str):
    return engine.post_json("/v1/unload_lora_adapter", {"lora_name": name})


@pytest.fixture
def loaded(engine, one):
    assert load(engine, "one", one).status_code == 200
    yield "one"
    unload(engine, "one")


class TestLoad:
    def test_its_text_and_vectors_are_those_of_a_checkpoint_merged_by_hand(self, engine, one, tmp_path):
        before = engine.complete(**ASKED)["text"]
        # When an adapter is loaded
        answer = load(engine, "one", one)
        assert (answer.status_code, answer.text) == (200, "Success: LoRA adapter 'one' added successfully.")
        # Then it answers as the merged weights do
        plain = merge_by_hand(tmp_path / "merged", load_file(one / "adapter_model.safetensors"), 16 / RANK)
        text = engine.complete(**ASKED, model="one")["text"]
        assert text == plain.complete(PROMPT, 16) != before
        [row] = engine.post("/v1/embeddings", model="one", input=PROMPT).json()["data"]
        assert torch.allclose(torch.tensor(row["embedding"]), plain.embed(plain.tokenizer.encode(PROMPT)), atol=1e-5)
        # And the model answers as before
        assert engine.complete(**ASKED)["text"] == before
        assert engine.stats().adapters == ("one",)
        assert [model["id"] for model in engine.client.get("/v1/models").json()["data"]][2:] == ["one"]
        # And once unloaded it is gone
        answer = unload(engine, "one")
        assert (answer.status_code, answer.text) == (200, "Success: LoRA adapter 'one' removed successfully.")
        assert engine.post("/v1/completions", **ASKED, model="one").status_code == 404

    def test_rank_stabilised_scale_patterns_and_whole_tensors(self, engine, tmp_path):
        weights = tensors(2)
        whole = {f"{P}model.norm.weight": torch.full((256,), 0.7)}
        config = {"use_rslora": True, "alpha_pattern": {"0.self_attn.q_proj": 0.001}, "modules_to_save": ["norm"]}
        assert load(engine, "two", write(tmp_path / "two", weights | whole, **config)).status_code == 200
        weights[f"{P}{PROJECTIONS[0]}.lora_B.weight"] *= 0.001 / 16
        plain = merge_by_hand(tmp_path / "merged", weights, 16 / RANK**0.5)
        plain.network.base_model.norm.weight.fill_(0.7)
        assert engine.complete(**ASKED, model="two")["text"] == plain.complete(PROMPT, 16)
        unload(engine, "two")

    def test_streams_that_run_meanwhile_are_not_disturbed(self, engine, one):
        asked = {"max_tokens": 60, "temperature": 1.0, "seed": 5, "ignore_eos": True}
        alone = engine.complete(prompt="number 31", **asked)["text"]
        texts = {}

        def stream(number: int) -> None:
            chunks = engine.stream("/v1/completions", prompt=f"number {number}", **asked)
            texts[number] = "".join(chunk["choices"][0]["text"] for chunk in chunks)

        readers = [threading.Thread(target=stream, args=(number,)) for number in range(32)]
        for reader in readers:
            reader.start()
        wait_until(lambda: engine.stats().running > 8)
        assert load(engine, "one", one).status_code == 200
        # One limit holds for the model and its adapters together
        crowd = ASKED | {"prompt": [PROMPT] * 33}
        assert engine.post("/v1/completions", **crowd, model="one").status_code == 429
        engine.complete(**ASKED, model="one")
        for reader in readers:
            reader.join()
        assert len(texts) == 32
        assert texts[31] == alone
        unload(engine, "one")


class TestUnload:
    def test_what_runs_ends_first(self, engine, loaded):
        texts = []

        def stream() -> None:
            asked = {"prompt": PROMPT, "max_tokens": 400, "ignore_eos": True, "seed": 1}
            texts.append(engine.stream("/v1/completions", **asked, model=loaded)[-1]["choices"][0]["finish_reason"])

        reader = threading.Thread(target=stream)
        reader.start()
        wait_until(lambda: engine.stats().running == 1)
        assert unload(engine, loaded).status_code == 200
        assert engine.stats().running == 0
        reader.join()
        assert texts == ["length"]
        assert engine.client.get("/health").status_code == 200

    def test_an_unknown_one_is_not_found(self, engine):
        answer = unload(engine, "nobody")
        assert answer.status_code == 404
        assert answer.json()["error"]["message"] == "The lora adapter 'nobody' cannot be found."


class TestRefusals:
    def test_twice_the_same_name_is_refused_and_the_models_own_too(self, engine, one, loaded):
        for name in (loaded, "yard-tiny"):
            error = load(engine, name, one).json()["error"]
            assert (error["code"], error["param"]) == ("invalid_adapter", "lora_name")

    def test_more_than_the_engine_holds_are_refused(self, engine, one):
        for name in "abc":
            assert load(engine, name, one).status_code == 200
        answer = load(engine, "d", one)
        assert answer.status_code == 400
        assert "holds 3 adapters" in answer.json()["error"]["message"]
        for name in "abc":
            unload(engine, name)

    def test_a_folder_without_an_adapter_is_not_found(self, engine, tmp_path):
        assert load(engine, "x", tmp_path).status_code == 404

    @pytest.mark.parametrize(
        ("changed", "told"),
        [
            ({"config": {"peft_type": "IA3"}}, "adapter_config.json: `peft_type`"),
            ({"config": {"use_dora": True}}, "adapter_config.json: `use_dora`"),
            ({"config": {"r": 0}}, "adapter_config.json: `r`"),
            ({"config": {"rank_pattern": {"(a+)+": 1}}}, "adapter_config.json: `rank_pattern"),
            ({"weights": {"layers.0.lora_A.weight": torch.zeros(4, 4)}}, "`layers.0.lora_A.weight` is no tensor"),
            (
                {"weights": {f"{P}layers.9.x.lora_A.weight": torch.zeros(4, 4)}},
                "`layers.9.x` is no module",
            ),
            (
                {"weights": {f"{P}{PROJECTIONS[1]}.lora_A.weight": torch.zeros(4, 8)}},
                "(256, 640) in the base model and (256, 8)",
            ),
            ({"weights": {f"{P}model.norm.weight": torch.zeros(7)}}, "`model.norm.weight` is (256,)"),
            ({"weights": {f"{P}lm_head.bias": torch.zeros(7)}}, "`lm_head` has no bias"),
            (
                {"weights": {f"{P}model.norm.lora_A.weight": torch.zeros(4, 256)}},
                "one half of a LoRA pair",
            ),
        ],
    )
    def test_one_that_does_not_fit_says_which_file_and_field(self, engine, tmp_path, changed, told):
        weights = tensors(1) | changed.get("weights", {})
        answer = load(engine, "x", write(tmp_path / "bad", weights, **changed.get("config", {})))
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_adapter", "lora_path")
        assert told in error["message"]

    def test_a_pickle_and_a_torn_file_are_not_read(self, engine, one, tmp_path):
        pickled = shutil.copytree(one, tmp_path / "pickled")
        (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
        assert "safetensors is the only format" in load(engine, "x", pickled).json()["error"]["message"]
        torn = shutil.copytree(one, tmp_path / "torn")
        with (torn / "adapter_model.safetensors").open("r+b") as file:
            file.truncate(2000)
        assert "adapter_model.safetensors" in load(engine, "x", torn).json()["error"]["message"]


class TestPeft:
    @pytest.mark.parametrize(
        "shape",
        [
            {"r": 8, "lora_alpha": 16},
            {"r": 8, "lora_alpha": 16, "use_rslora": True},
            {
                "r": 4,
                "lora_alpha": 6,
                "use_rslora": True,
                "rank_pattern": {"q_proj": 9},
                "alpha_pattern": {"v_proj": 2},
            },
        ],
    )
    def test_what_it_writes_is_merged_as_it_computes(self, tmp_path, shape):
        base = AutoModelForCausalLM.from_pretrained(YARD_TINY, dtype=torch.float32)
        tuned = get_peft_model(base, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False, **shape))
        tuned.save_pretrained(tmp_path)
        tokens = torch.arange(5, 37).reshape(2, 16)
        with torch.no_grad():
            expected = tuned(tokens).logits
            network = merged(AutoModelForCausalLM.from_pretrained(YARD_TINY, dtype=torch.float32), tmp_path)
            logits = network(tokens).logits
        assert torch.allclose(logits, expected, atol=1e-4)
        with torch.no_grad(), tuned.disable_adapter():
            plain = tuned(tokens).logits
        assert not torch.allclose(plain, expected, atol=1e-1)
