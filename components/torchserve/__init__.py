"""What makes a `.mar` serve Earth Engine in a plain TorchServe: the handler, and a description of the model for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from components.earthengine.payloads import batches

if TYPE_CHECKING:
    from components.earthengine.contract import ModelContract

# Copied into the archive, never imported here: it needs TorchServe.
HANDLER = Path(__file__).with_name("earthengine_handler.py")
DESCRIPTION_NAME = "earthengine.json"


def description(contract: ModelContract) -> str:
    """What the handler must know of a contract, as JSON: Google's images have nothing that reads YAML for sure."""
    described = {
        "payload_format": contract.payload_format,
        "table": contract.table,
        "patch": contract.patch,
        "parts": [
            {
                "name": part.name,
                "kind": "band" if part.has_pixels else "property",
                "shape": part.shape,
                "channels": part.channels,
                "values": part.values,
            }
            for part in batches.parts(contract)
        ],
        "outputs": [{"name": output.name, "dimensions": output.dimensions} for output in contract.outputs],
    }
    return json.dumps(described, indent=1)
