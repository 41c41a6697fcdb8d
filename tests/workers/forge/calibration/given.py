"""Samples for a model."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Given:
    """N samples of L tokens, and which of them are no padding."""

    ids: NDArray[np.int32]
    mask: NDArray[np.uint8]
