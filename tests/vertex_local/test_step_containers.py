"""What a task asks of its container, in Docker's terms."""

import os
from typing import Any

import pytest
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from containers.vertex_local.step_containers import options_of


def spec_of(**fields: Any) -> Any:
    executor = pipeline_spec_pb2.PipelineDeploymentConfig.ExecutorSpec()
    return json_format.ParseDict({"container": {"image": "image", **fields}}, executor).container


@pytest.mark.parametrize(
    ("resources", "size"),
    [
        ({"resourceMemoryLimit": "64Mi", "memoryLimit": 0.067108864}, 64 << 20),
        ({"resourceMemoryLimit": "1.5G"}, 1_500_000_000),
        ({"resourceMemoryLimit": "128974848"}, 128974848),
        ({"resourceMemoryLimit": "{{$.inputs.parameters['pipelinechannel--memory']}}"}, 2 << 30),
        ({"memoryLimit": 0.128}, 128_000_000),
    ],
)
def test_a_memory_limit_is_one_without_swap(resources: dict[str, Any], size: int) -> None:
    limits = options_of(spec_of(resources=resources), {"pipelinechannel--memory": "2Gi"})
    assert limits == {"mem_limit": size, "memswap_limit": size}


@pytest.mark.parametrize(
    ("resources", "cores"),
    [
        ({"resourceCpuLimit": "500m", "cpuLimit": 0.5}, 0.5),
        ({"resourceCpuLimit": "1"}, 1),
        ({"cpuLimit": 0.25}, 0.25),
        ({"resourceCpuLimit": "10000"}, os.cpu_count()),
    ],
)
def test_a_limit_of_processors_is_at_most_what_there_are(resources: dict[str, Any], cores: float) -> None:
    assert options_of(spec_of(resources=resources), {}) == {"nano_cpus": round(cores * 1e9)}


def test_a_command_takes_the_place_of_the_images_and_arguments_alone_do_not() -> None:
    assert options_of(spec_of(command=["python"], args=["-V"]), {}) == {"entrypoint": []}
    assert options_of(spec_of(args=["-V"]), {}) == {}


@pytest.mark.parametrize("limit", ["much", "-1", "5X", "1mi"])
def test_a_limit_that_is_no_quantity_is_refused(limit: str) -> None:
    with pytest.raises(ValueError, match=rf"the limit '{limit}' is no quantity"):
        options_of(spec_of(resources={"resourceMemoryLimit": limit}), {})
