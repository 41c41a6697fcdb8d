"""The same model run by transformers alone, to compare an engine's answers with."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


class Plain:
    """A checkpoint in this process, in float32, with no batching and no cache."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).requires_grad_(False)

    def complete(self, prompt: str, tokens: int) -> str:
        """Greedy, past any end token."""
        sequence = self.tokenizer.encode(prompt)
        start = len(sequence)
        for _ in range(tokens):
            logits = self.network(torch.tensor([sequence]), use_cache=False).logits[0, -1]
            sequence.append(int(logits.argmax()))
        return str(self.tokenizer.decode(sequence[start:], skip_special_tokens=True))

    def embed(self, tokens: list[int]) -> torch.Tensor:
        """The last token's final norm, of length 1."""
        hidden = self.network.base_model(torch.tensor([tokens]), use_cache=False).last_hidden_state
        return torch.nn.functional.normalize(hidden[0, -1], dim=-1)
