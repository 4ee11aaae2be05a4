"""The steps of the road from a trained model to Earth Engine, one module a step."""

__version__ = "0.1.0"
