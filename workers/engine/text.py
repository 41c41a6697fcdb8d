"""From tokens to text while they arrive: whole characters only, and never past a stop string."""

from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"  # what a decoder writes for bytes that are not a character (yet)


class Detokenizer:
    """Turns growing tokens into growing text; the pieces joined equal the decoding of all tokens at once.

    A window of earlier tokens is decoded along, because many tokenizers spell a token by its neighbours
    (method: vLLM's and text-generation-inference's `prefix_offset` and `read_offset`).
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._start = 0  # first token of the window
        self._read = 0  # tokens whose text is out
        self._sent = 0  # characters of the window that are out

    def push(self, tokens: Sequence[int]) -> str:
        """Text that these tokens complete; bytes of an unfinished character wait."""
        self._tokens.extend(tokens)
        window = self._decode(self._tokens[self._start :])
        whole = window.rstrip(_INCOMPLETE)  # all of them: byte fallback writes one for each byte
        ready = whole[self._sent :]
        if whole != window:
            self._sent += len(ready)
            return ready
        self._start, self._read = self._read, len(self._tokens)
        self._sent = len(self._decode(self._tokens[self._start : self._read]))
        return ready

    def flush(self) -> str:
        """The rest: bytes that never became a character."""
        return self._decode(self._tokens[self._start :])[self._sent :]


class StopScanner:
    """Cuts a text at the stop string that is complete first, holding back what may become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Text that may be shown now."""
        self._held += text
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            shown, self._held = self._held[: min(found)[1]], ""
            return shown
        keep = max((overlap(self._held, stop) for stop in self._stops), default=0)
        split = len(self._held) - keep
        shown, self._held = self._held[:split], self._held[split:]
        return shown

    def flush(self) -> str:
        """What was held back, when nothing follows that could complete a stop string."""
        shown, self._held = self._held, ""
        return shown


def overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that begin `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
