from __future__ import annotations

import subprocess
import sys

import pytest

IMPORTED = "import sys; print(sum(name.startswith('google.cloud.aiplatform_v1.services.') for name in sys.modules))"


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_only_the_service_asked_for_is_imported() -> None:
    client = "from google.cloud.aiplatform_v1.services.model_service import ModelServiceClient"
    alone = int(python(f"import components.vertex\n{client}\n{IMPORTED}"))
    whole = int(python(f"{client}\n{IMPORTED}"))
    assert 0 < alone < whole / 10


@pytest.mark.parametrize(
    "first", ["", "from google.cloud.aiplatform_v1.services.model_service import ModelServiceClient"]
)
def test_the_sdk_gets_the_whole_package_with_the_same_classes(first: str) -> None:
    code = f"""
import components.vertex
{first}
from google.cloud import aiplatform, aiplatform_v1
from google.cloud.aiplatform_v1 import types
from google.cloud.aiplatform_v1.services.model_service import ModelServiceClient
assert aiplatform_v1.ModelServiceClient is ModelServiceClient
assert aiplatform_v1.types.Model is types.Model is aiplatform_v1.Model
assert aiplatform_v1.PipelineJob and aiplatform.PipelineJob
print("same")
"""
    assert python(code) == "same"


def test_what_is_not_there_is_missed_as_ever() -> None:
    code = """
import components.vertex
from google.cloud import aiplatform_v1
try:
    aiplatform_v1.NoSuchThing
except AttributeError:
    print("missed")
"""
    assert python(code) == "missed"
