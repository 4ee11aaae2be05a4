from __future__ import annotations

from google.cloud.aiplatform_v1 import types

from components.deploy import serves


def test_a_version_is_known_by_its_model_whether_the_project_is_named_by_id_or_number() -> None:
    deployed = types.DeployedModel(model="projects/123/locations/r/models/fields", model_version_id="2")
    assert serves(deployed, "projects/my-project/locations/r/models/fields@2")
    assert not serves(deployed, "projects/123/locations/r/models/fields@1")
    assert not serves(deployed, "projects/123/locations/r/models/other@2")
