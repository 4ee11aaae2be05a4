"""The steps of the road from a trained model to Earth Engine, one module a step."""

from components.earthengine.redaction import redact_output

__version__ = "0.1.0"

# Here, as a step is a program of kfp's, of which nothing is ours before its first import.
redact_output()
