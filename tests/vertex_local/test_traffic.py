import contextlib
import http.client
import json
import math
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from .conftest import Emulator, result_of

BODY = json.dumps({"instances": [[0.25] * 8]}).encode()


@pytest.fixture(scope="module")
def endpoint(emulator: Emulator) -> Iterator[str]:
    """An endpoint with the deployed models 1, 2 and 3."""
    name, model = emulator.endpoint(), emulator.upload().model
    for deployed_id in ("1", "2", "3"):
        emulator.deploy(name, model, id=deployed_id)
    yield name
    split(emulator, name, {})
    for deployed_id in ("1", "2", "3"):
        result_of(emulator.endpoints.undeploy_model(endpoint=name, deployed_model_id=deployed_id))


def split(emulator: Emulator, endpoint: str, traffic: dict[str, int]) -> None:
    emulator.endpoints.update_endpoint(
        endpoint={"name": endpoint, "traffic_split": traffic}, update_mask={"paths": ["traffic_split"]}
    )


def answering(emulator: Emulator, endpoint: str, count: int) -> Counter[str]:
    """How many of ``count`` predictions each deployed model gave, asked for from four threads."""

    def ask(requests: int) -> list[str]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", emulator.port)) as connection:
            ids = []
            for _ in range(requests):
                connection.request("POST", f"/v1/{endpoint}:predict", BODY)
                ids.append(json.loads(connection.getresponse().read())["deployedModelId"])
            return ids

    with ThreadPoolExecutor(4) as pool:
        return Counter(deployed_id for ids in pool.map(ask, [count // 4] * 4) for deployed_id in ids)


def chance(counts: Counter[str], shares: dict[str, int]) -> float:
    """How likely it is that requests shared out so differ from the shares by this much or more (Pearson)."""
    total = sum(counts.values())
    expected = {deployed_id: total * share / 100 for deployed_id, share in shares.items() if share}
    assert set(counts) <= set(expected)
    deviation = sum((counts[deployed_id] - number) ** 2 / number for deployed_id, number in expected.items())
    # The tail of the chi-square distribution, with one degree of freedom or with two.
    return {2: math.erfc(math.sqrt(deviation / 2)), 3: math.exp(-deviation / 2)}[len(expected)]


@pytest.mark.slow
def test_predictions_are_shared_out_as_the_split_says(emulator: Emulator, endpoint: str) -> None:
    shares = {"1": 70, "2": 20, "3": 10}
    split(emulator, endpoint, shares)
    counts = answering(emulator, endpoint, 3000)
    assert sum(counts.values()) == 3000
    assert chance(counts, shares) > 1e-6, counts


def test_a_new_split_holds_at_once_and_nothing_goes_where_there_is_no_share(emulator: Emulator, endpoint: str) -> None:
    for deployed_id in ("1", "3", "2"):
        split(emulator, endpoint, {deployed_id: 100})
        assert answering(emulator, endpoint, 20) == {deployed_id: 20}
    shares = {"1": 0, "2": 40, "3": 60}
    split(emulator, endpoint, shares)
    counts = answering(emulator, endpoint, 400)
    assert chance(counts, shares) > 1e-6, counts
