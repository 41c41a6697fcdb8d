"""vLLM's page of metrics, and pages that are none."""

from hypothesis import given
from hypothesis import strategies as st

from workers.engine.figures import NOTHING, Figures
from workers.engine.guard.figures import read

PAGE = r"""
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m {\"odd\"}"} 3.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.5
vllm:generation_tokens_total{engine="0",model_name="m"} 1.2e+03
vllm:generation_tokens_created{engine="0",model_name="m"} 1.7953476381475542e+09
vllm:cache_config_info{block_size="32",cache_dtype="auto",num_cpu_blocks="None",num_gpu_blocks="682"} 1.0
"""


class TestFigures:
    def test_vllms_page_is_understood(self) -> None:
        assert read(PAGE) == Figures(running=3, waiting=2, blocks_total=682, blocks_free=341, tokens_generated=1200)

    def test_the_cores_of_a_data_parallel_server_are_added_up(self) -> None:
        figures = read(PAGE + PAGE)
        assert (figures.running, figures.waiting, figures.blocks_total) == (6, 4, 1364)
        assert figures.blocks_free == 682

    def test_a_share_without_a_size_is_a_share(self) -> None:
        figures = read("vllm:kv_cache_usage_perc 0.25\n")
        assert (figures.blocks_total, figures.blocks_free) == (1000, 750)

    def test_each_adapter_was_at_work_when_its_newest_sample_says(self) -> None:
        page = """
vllm:lora_requests_info{max_lora="4",running_lora_adapters="",waiting_lora_adapters=""} 1.3e+09
vllm:lora_requests_info{max_lora="4",running_lora_adapters="a",waiting_lora_adapters="b,c"} 1.1e+09
vllm:lora_requests_info{max_lora="4",running_lora_adapters="a, b",waiting_lora_adapters=""} 1.2e+09
"""
        assert read(page).adapters_at == {"a": 1.2e9, "b": 1.2e9, "c": 1.1e9}

    def test_another_servers_page_says_nothing(self) -> None:
        assert read("# TYPE up gauge\nup 1\nllamacpp:requests_processing 4\n") == NOTHING

    def test_numbers_that_are_none_are_passed_over(self) -> None:
        assert read('vllm:num_requests_running{a="b"} NaN\nvllm:num_requests_waiting +Inf\n') == NOTHING

    @given(st.text())
    def test_no_page_breaks_it(self, text: str) -> None:
        read(text)
        read(PAGE + text)
