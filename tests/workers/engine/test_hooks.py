"""What of transformers' continuous batching we hold on to. A failure here means: read the new one, then the engine.

None of it is a public interface, and the package changed monthly between 5.8 and 5.23.
"""

import inspect
from typing import Any

import pytest
import torch
import transformers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching import cb_logits_processors, continuous_api, input_outputs
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager, OutputRouter
from transformers.generation.continuous_batching.model_runner import ModelRunner
from transformers.generation.continuous_batching.requests import (
    FutureRequestState,
    GenerationOutput,
    RequestState,
    RequestStatus,
)

from tests.workers.engine.stepping import GREEDY
from workers.engine.sampling import Sampler

MOVED = "transformers' continuous batching is not what workers/engine was written against (5.17): "


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


@pytest.fixture(scope="module")
def manager() -> ContinuousBatchingManager:
    """A manager of a model too small to be of use."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=32, max_position_embeddings=64, **shape, **heads))
    model.set_attn_implementation("paged|sdpa")
    made: ContinuousBatchingManager = model.init_continuous_batching(
        GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0),
        ContinuousBatchingConfig(block_size=32, num_blocks=8, max_batch_tokens=32, use_cuda_graph=False),
    )
    return made


class TestHooks:
    def test_the_version_is_the_one_that_was_read(self):
        assert transformers.__version__.startswith("5.17."), MOVED + transformers.__version__

    def test_the_list_that_our_sampler_stands_in_for(self):
        theirs = cb_logits_processors.ContinuousBatchingLogitsProcessorList
        for name in ("check_kwargs", "fill_defaults", "prepare_tensor_args", "__call__"):
            assert len(parameters(getattr(theirs, name))) == len(parameters(getattr(Sampler, name))), MOVED + name
        assert parameters(theirs.prepare_tensor_args) == parameters(Sampler.prepare_tensor_args), MOVED
        made = vars(theirs(transformers.LogitsProcessorList()))
        for name in ("do_processing", "tensors_required"):
            assert name in made, MOVED + name
            assert hasattr(Sampler, name)

    def test_what_the_list_is_called_with_and_where(self):
        sources = {
            input_outputs: ["logits_processors.prepare_tensor_args(", "requests_in_batch=requests_in_batch"],
            ModelRunner: [
                "self.logit_processor(sliced_input_ids_2d, logits_2d, batch_data[",
                "if self.logit_processor.do_processing",
                "torch.argmax(probs, dim=-1",
            ],
            continuous_api: ["logit_processor.check_kwargs(state.logit_processor_kwargs)"],
        }
        for place, lines in sources.items():
            source = inspect.getsource(place)
            assert [line for line in lines if line not in source] == [], MOVED + str(place)

    def test_what_is_read_of_a_sequence(self):
        state = RequestState("1", [3, 4], logit_processor_kwargs={"sampling": GREEDY})
        for name in ("request_id", "position_offset", "initial_tokens", "generated_tokens", "_true_initial_tokens"):
            assert hasattr(state, name), MOVED + name
        state.generated_tokens = [5, 6]
        again = state.create_equivalent_initial_request()
        assert (again.initial_tokens, again._true_initial_tokens) == ([3, 4, 5, 6], 2), MOVED
        assert again.logit_processor_kwargs == {"sampling": GREEDY}, MOVED
        assert {"state", "has_new_token", "query_length"} <= set(FutureRequestState.__slots__), MOVED
        state.track = "ours"  # our place on their object, which therefore must have no slots

    def test_what_is_read_of_an_output(self):
        output = GenerationOutput("1", generated_tokens=[1], status=RequestStatus.FINISHED)
        assert (output.is_finished(), output.error, output.generated_tokens) == (True, None, [1]), MOVED

    def test_how_requests_come_and_go(self, manager):
        asked = ["input_ids", "request_id", "max_new_tokens", "streaming", "eos_token_id"]
        assert set(asked) <= set(parameters(manager.add_request)), MOVED
        assert parameters(manager.register_result_handler) == ["request_id", "callback"], MOVED
        assert parameters(manager.cancel_request) == ["request_id"], MOVED
        assert {"output_queue", "result_handlers"} <= set(vars(OutputRouter())), MOVED
        for name in ("logit_processor", "input_queue", "batch_processor", "background_thread_status", "output_router"):
            assert hasattr(manager, name), MOVED + name
        assert not manager.is_running()

    def test_our_sampler_generates_in_their_loop(self, manager):
        sampler = manager.logit_processor = Sampler()
        manager.start()
        manager.add_request([1, 2, 3], max_new_tokens=4, eos_token_id=-1, sampling=GREEDY)
        output = manager.get_result(timeout=60)
        figures = manager.batch_processor
        assert figures is not None
        assert len(figures.scheduler.active_requests) + len(figures.scheduler.waiting_requests) == 0, MOVED
        assert figures.cache.get_num_free_blocks() > 0, MOVED
        manager.stop(block=True)
        assert output is not None
        assert output.error is None, MOVED + str(output.error)
        assert len(output.generated_tokens) == sampler.tokens_generated == 4, MOVED
