"""Out of GPU memory: what is done at once is halved, said, and done again instead of ending the run."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class HalvingSize:
    """How many are done at once: a setting's value, halved each time that memory runs out, and so from then on."""

    def __init__(self, size: int, setting: str, effect: str, advice: str):
        """Begin with the setting's value.

        Args:
            size: The value.
            setting: Its full name, for messages: `policy_training.ppo.micro_batch_size`.
            effect: What a smaller one changes, for the warning.
            advice: What else takes less memory, for the error where nothing is left to halve.
        """
        self.size, self.setting, self.effect, self.advice = size, setting, effect, advice

    def run(self, attempt: Callable[[int], Result], smallest: int = 1) -> Result:
        """The attempt's result, at the present size or at the first half, quarter, … of it that memory allows.

        Without an error the attempt is called once and nothing else happens. After one, all that the attempt held is
        freed and it is called again from its beginning, so it must not change anything before it is sure to succeed,
        and should give the same for the same size.

        Args:
            attempt: Called with a size.
            smallest: A size that halving cannot go below: responses of one prompt, for instance.

        Raises:
            torch.OutOfMemoryError: If memory runs out at the smallest size; the message says what to change.
        """
        while True:
            try:
                return attempt(self.size)
            except torch.OutOfMemoryError as error:
                # Its traceback holds the frames, and these the tensors, that there is no room for.
                said = str(error)
            if self.size <= smallest:
                raise torch.OutOfMemoryError(
                    f"Out of GPU memory with as little at once as there can be ({self.setting} {self.size}). "
                    f"{self.advice} `kedro run --pipelines=plan` says what fits. ({said})"
                )
            halved = max(self.size // 2, smallest)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            logger.warning(
                "Out of GPU memory with %s %d: going on with %d. %s Set it so and this time is saved.",
                self.setting,
                self.size,
                halved,
                self.effect,
            )
            self.size = halved
