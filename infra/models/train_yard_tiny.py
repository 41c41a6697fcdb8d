"""Train `yard-tiny`, the three-million-parameter Llama that ships with Modelyard.

The text is CPython's own: the source of the standard library that runs this script, and chats in which a
user asks what a module, class or function does and the assistant answers with its docstring. Whole modules
are held out by name, so no part of a held-out module is ever trained on.

    python -m infra.models.train_yard_tiny --out infra/models/yard-tiny
"""

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from infra.models.library_text import Chat, library_chats
from services.compression.library import is_held_out
from services.compression.library import sources as library_sources

PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
CONTEXT = 2048
IGNORED = -100  # torch's cross_entropy leaves these targets out


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, together with the versions of Python and torch."""

    seed: int = 17
    steps: int = 1150
    minutes: float | None = None  #: wall-clock ceiling; makes the result depend on the machine
    vocab: int = 4096
    hidden: int = 256  #: hidden and intermediate are multiples of 128, the group of grouped quantization
    intermediate: int = 640
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2  #: two, so that tensor parallelism of 2 divides
    window: int = 512  #: tokens
    batch: int = 4  #: windows a step, half of them chats and half source text
    muon_lr: float = 0.012
    adam_lr: float = 0.004


@dataclass(frozen=True)
class Windows:
    """Packed windows [N, T] and their targets [N, T], `IGNORED` where nothing is to be learned."""

    tokens: torch.Tensor
    targets: torch.Tensor


@dataclass(frozen=True)
class Data:
    """Chats and sources of one side of the split."""

    chats: Windows
    sources: Windows


def train_tokenizer(texts: list[str], recipe: Recipe) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: every string has tokens, none is ever unknown."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocab,
        special_tokens=[PAD, END, SYSTEM, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        bos_token=END,
        extra_special_tokens=[SYSTEM, USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def chat_tokens(chat: Chat, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """Tokens and targets of one chat; only what the assistant says is learned."""
    asked = tokenizer.encode(f"{USER}\n{chat.question}{END}\n{ASSISTANT}\n")
    answer = tokenizer.encode(f"{chat.answer}{END}")
    newline = tokenizer.encode("\n")
    return asked + answer + newline, [IGNORED] * len(asked) + answer + [IGNORED] * len(newline)


def pack(documents: list[tuple[list[int], list[int]]], recipe: Recipe) -> Windows:
    """Shuffle documents by the seed, join them and cut windows of equal length; the remainder is dropped."""
    order = random.Random(recipe.seed).sample(documents, len(documents))
    tokens = torch.tensor([token for document in order for token in document[0]])
    targets = torch.tensor([target for document in order for target in document[1]])
    whole = len(tokens) // recipe.window * recipe.window
    return Windows(tokens[:whole].view(-1, recipe.window), targets[:whole].view(-1, recipe.window))


def prepare(recipe: Recipe) -> tuple[PreTrainedTokenizerFast, Data, Data]:
    """Tokenizer, training data and held-out data; the tokenizer sees no held-out text either."""
    sources = library_sources()
    chats = library_chats(sources)
    texts = [text for name, text in sources.items() if not is_held_out(name)]
    texts += [chat.answer for chat in chats if not is_held_out(chat.module)]
    tokenizer = train_tokenizer(texts, recipe)

    def side(*, held: bool) -> Data:
        spoken = [chat_tokens(chat, tokenizer) for chat in chats if is_held_out(chat.module) is held]
        written = [tokenizer.encode(text + END) for name, text in sources.items() if is_held_out(name) is held]
        return Data(pack(spoken, recipe), pack([(tokens, tokens) for tokens in written], recipe))

    return tokenizer, side(held=False), side(held=True)


def new_model(recipe: Recipe) -> LlamaForCausalLM:
    """An untrained model of the recipe's shape, the same for the same seed."""
    torch.manual_seed(recipe.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=recipe.vocab,
            hidden_size=recipe.hidden,
            intermediate_size=recipe.intermediate,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.kv_heads,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=1,
            pad_token_id=0,
        )
    )


def loss_of(model: LlamaForCausalLM, windows: Windows, rows: torch.Tensor, *, reduction: str = "mean") -> torch.Tensor:
    """Cross-entropy of the chosen windows, in nats; bfloat16 products, float32 loss."""
    targets = windows.targets[rows][:, 1:]
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=windows.tokens[rows]).logits[:, :-1]
    flat = logits.reshape(-1, logits.size(-1)).float()
    return functional.cross_entropy(flat, targets.reshape(-1), ignore_index=IGNORED, reduction=reduction)


@torch.no_grad()
def perplexity(model: LlamaForCausalLM, windows: Windows) -> float:
    """exp(mean nats) over every learnable target of `windows`."""
    model.eval()
    rows = torch.arange(len(windows.tokens)).split(8)
    total = sum(loss_of(model, windows, some, reduction="sum").item() for some in rows)
    model.train()
    return round(math.exp(total / int((windows.targets[:, 1:] != IGNORED).sum())), 2)


def batches(data: Data, recipe: Recipe) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Rows of chats and of sources for each step; each pool is gone through before it repeats."""
    generator = torch.Generator().manual_seed(recipe.seed)

    def rows(windows: Windows) -> Iterator[torch.Tensor]:
        while True:
            yield from torch.randperm(len(windows.tokens), generator=generator).split(recipe.batch // 2)

    yield from zip(rows(data.chats), rows(data.sources), strict=False)


def optimizers_of(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for embeddings and norms: fewer steps than AdamW alone needs."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=recipe.muon_lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=recipe.adam_lr, betas=(0.9, 0.95), weight_decay=0.01),
    ]


def scale_rates(optimizers: list[torch.optim.Optimizer], scale: float) -> None:
    """Set every learning rate to `scale` of the one it was created with."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("full_lr", group["lr"]) * scale


def train(model: LlamaForCausalLM, data: Data, recipe: Recipe) -> int:
    """Train in place with a short warm-up and a linear decay to zero; answers the steps done."""
    optimizers = optimizers_of(model, recipe)
    started = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("training", total=recipe.steps)
        for step, (chat_rows, source_rows) in enumerate(batches(data, recipe)):
            elapsed = (time.monotonic() - started) / 60
            done = max(step / recipe.steps, elapsed / recipe.minutes if recipe.minutes else 0.0)
            if done >= 1:
                return step
            scale_rates(optimizers, min(1.0, (step + 1) / 20) * min(1.0, (1 - done) / 0.6))
            chat, source = loss_of(model, data.chats, chat_rows), loss_of(model, data.sources, source_rows)
            ((chat + source) / 2).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            bar.update(task, completed=step + 1, description=f"loss: chat {chat:.2f}, source {source:.2f}")
    return recipe.steps


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write weights as bfloat16 safetensors, and every file that a loader asks for."""
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=1, pad_token_id=0)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.model_max_length = CONTEXT
    tokenizer.save_pretrained(out)


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "yard-tiny", help="folder to write")
    parser.add_argument("--seed", type=int, default=Recipe.seed, help="of weights and order (default %(default)s)")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="optimizer steps (default %(default)s)")
    parser.add_argument("--minutes", type=float, help="stop, fully decayed, after this long if steps are not done")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Train, measure on both sides of the split, save, and print a report as JSON."""
    chosen = options()
    recipe = Recipe(seed=chosen.seed, steps=chosen.steps, minutes=chosen.minutes)
    torch.set_num_threads(chosen.threads)
    tokenizer, training, held_out = prepare(recipe)
    model = new_model(recipe)

    def measured() -> dict[str, float]:
        return {"chat": perplexity(model, held_out.chats), "source": perplexity(model, held_out.sources)}

    untrained = measured()
    steps = train(model, training, recipe)
    report = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "seed": recipe.seed,
        "steps": steps,
        "tokens": {"chat": training.chats.tokens.numel(), "source": training.sources.tokens.numel()},
        "held_out_perplexity": {"untrained": untrained, "trained": measured()},
    }
    save(model, tokenizer, chosen.out)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
