"""vLLM's Prometheus text, as far as the engine's figures need it."""

import re
from collections.abc import Iterator

from workers.engine.figures import Figures

#: `name{labels} value`; labels may hold braces inside quotes
_SAMPLE = re.compile(r'^([a-zA-Z_:][\w:]*)(?:\{((?:[^"}]|"(?:\\.|[^"\\])*")*)\})?\s+(\S+)')
_LABEL = re.compile(r'(\w+)="((?:\\.|[^"\\])*)"')
_SHARES = 1000  # blocks of a server that tells how full its cache is, but not how large


def read(text: str) -> Figures:
    """The figures in a page of metrics; those of several cores (data parallel) are added up. Unknown ones are 0."""
    found = dict.fromkeys(("num_requests_running", "num_requests_waiting", "generation_tokens_total"), 0.0)
    usage: list[float] = []
    blocks, adapters = 0, dict[str, float]()
    for name, labels, value in samples(text):
        if name in found:
            found[name] += value
        elif name in {"kv_cache_usage_perc", "gpu_cache_usage_perc"}:
            usage.append(value)
        elif name == "cache_config_info":
            told = labels.get("num_gpu_blocks", "")
            blocks += int(told) if told.isdigit() else 0
        elif name == "lora_requests_info":  # one sample for each set of adapters that ever ran; its value is when
            for adapter in _adapters(labels):
                adapters[adapter] = max(value, adapters.get(adapter, 0.0))
    total = blocks or (_SHARES if usage else 0)
    used = sum(usage) / len(usage) if usage else 0.0
    return Figures(
        running=int(found["num_requests_running"]),
        waiting=int(found["num_requests_waiting"]),
        blocks_total=total,
        blocks_free=round(total * (1 - min(max(used, 0.0), 1.0))),
        tokens_generated=int(found["generation_tokens_total"]),
        adapters_at=adapters,
    )


def _adapters(labels: dict[str, str]) -> list[str]:
    """Names in `running_lora_adapters` and `waiting_lora_adapters`, which vLLM joins by commas."""
    told = ",".join(labels.get(f"{state}_lora_adapters", "") for state in ("running", "waiting"))
    return [name.strip() for name in told.split(",") if name.strip()]


def samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Name without its `vllm:`, labels and value of each sample; lines that are none are passed over."""
    for line in text.splitlines():
        if match := _SAMPLE.match(line):
            try:
                value = float(match[3])
            except ValueError:
                continue
            if value - value == 0:  # neither NaN nor infinite
                yield match[1].partition(":")[2] or match[1], dict(_LABEL.findall(match[2] or "")), value
