import inspect
import re

import pytest
from google.cloud import aiplatform_v1

from containers.vertex_local import coverage
from containers.vertex_local.api.methods import OPERATIONS, method_names
from containers.vertex_local.app import SERVICES


def test_the_table_of_the_readme_is_that_of_the_routes() -> None:
    readme = coverage.README.read_text(encoding="utf-8")
    assert coverage.with_table(readme) == readme, "run python -m containers.vertex_local.coverage"


@pytest.mark.parametrize("service", [service for service in SERVICES if service != OPERATIONS])
def test_every_method_of_the_client_is_in_the_table(service: str) -> None:
    client = getattr(aiplatform_v1, f"{service}Client")
    calls = {
        name
        for name, function in inspect.getmembers(client, inspect.isfunction)
        if {"retry", "timeout", "metadata"} <= inspect.signature(function).parameters.keys()
    }
    shared = {"get_location", "list_locations", "get_iam_policy", "set_iam_policy", "test_iam_permissions"}
    operations = {name for name in calls if name.endswith(("_operation", "_operations"))}
    named = {re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in method_names(service)}
    assert named == calls - shared - operations
