"""A TorchServe handler that does what the one of Earth Engine's PyTorch notebook does.

The notebook overrides `postprocess` and `handle` of TorchServe's base handler; TorchServe's JSON envelope has
taken the instances out of the body before, and puts the predictions into one after. TorchServe copies this
file into its worker, so it imports nothing of the project.
"""

from __future__ import annotations

from typing import Any

from ts.torch_handler.base_handler import BaseHandler  # type: ignore[import-untyped]


class MostProbableClass(BaseHandler):  # type: ignore[misc]  # TorchServe has no types
    """Answers each pixel's most probable class as a number."""

    def postprocess(self, data: Any) -> list[Any]:
        """From probabilities `[N, classes, H, W]` to nested lists `[N][H][W]`."""
        answers: list[Any] = data.argmax(dim=1).float().tolist()
        return answers

    def handle(self, data: Any, context: Any) -> list[Any]:  # noqa: ARG002  TorchServe's signature
        """From nested lists `[N][C][H][W]` to the answer."""
        return self.postprocess(self.inference(self.preprocess(data)))
