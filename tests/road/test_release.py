"""A release step by step: what a model gets when, what is taken back when it fails, and what stays afterwards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from components import storage
from components.conclude import why
from components.deploy import run_of
from components.earthengine.contract import ModelContract
from components.earthengine.errors import ParameterError, PipelineError, VerificationError
from components.endpoint import find_or_create_endpoint
from components.golden import Golden
from components.traffic import change_traffic
from tests.road.runs import Doing, Site, deployed, labels, registered, spoil, traffic

pytestmark = pytest.mark.slow


def state(site: Site) -> object:
    """Everything that a run could change, save the verdict on the version, as one value to compare."""
    found = site.vertex.endpoints.list_endpoints(parent=site.vertex.parent)
    endpoints = sorted((each.name, each.etag) for each in found)
    files = storage.split(site.staging)[0].list_blobs(prefix="staging/")
    kept = sorted((blob.name, blob.generation) for blob in files if "/runs/" not in blob.name)
    return endpoints, site.traffic, sorted(site.deployed), sorted(site.versions), kept


def thirds(site: Site) -> dict[str, int]:
    """An endpoint whose traffic three deployments share, as 33, 33 and 34."""
    site.deploy_by_hand("0", ["1", "2", "3"])
    return change_traffic(site.vertex, site.endpoint, lambda _: {"1": 33, "2": 33, "3": 34})


def test_a_canary_is_verified_then_promoted_in_steps_each_verified(site: Site) -> None:
    first = site.run("1").walk()
    assert first.released
    assert [each.share for each in first.verifications] == [100, 100], "all at once where nothing else serves"
    (old,) = first.traffic
    run = site.run("2")
    newcomer = run.deploy().deployed_model
    assert site.traffic == {old: 100}, "a deployment has no traffic"
    assert site.deployed == {old, newcomer}
    assert site.trials == [run.name]
    assert "verified" not in labels(site.vertex, run.model)
    with pytest.raises(VerificationError, match="holds no verification that passed; nothing is released"):
        run.release()
    run.verify()
    assert site.traffic == {old: 100}
    assert labels(site.vertex, run.model)["verified"].startswith("passed-")
    assert labels(site.vertex, run.model)["verified-by"] == run.name
    assert run.release() == f"deployed model {newcomer} has all the traffic"
    assert site.traffic == {newcomer: 100}
    shares = [(each.share, "/trial-" in each.endpoint) for each in run.record.verifications()]
    assert shares == [(100, True), (10, False), (50, False), (100, False)]
    assert all(each.deployed_model == newcomer and not each.fault for each in run.record.verifications())
    assert run.record.verifications()[1].elsewhere > 0, "at 10 % of the traffic others answer too"
    done = run.conclude()
    assert (done.released, done.changed, done.traffic) == (True, True, {newcomer: 100})
    assert done.sentence.endswith(f"(deployed model {newcomer}) is verified and has all the traffic; retired: none")
    assert site.deployed == {old, newcomer}, "the previous model stays, to go back to"
    assert site.trials == []


@pytest.mark.parametrize("stage", ["trial", "canary", "half", "all"])
def test_a_failure_at_any_stage_leaves_traffic_exactly_as_before(site: Site, stage: str) -> None:
    before = thirds(site)
    run = site.run("1")
    archive = Path(run.archive)
    newcomer = run.deploy().deployed_model
    if stage == "trial":
        spoil(archive)
    else:
        run.verify()
    if stage == "canary":
        spoil(archive)
    spoiling = Doing(run.record.folder, {"half": 10, "all": 50}.get(stage, 0), lambda: spoil(archive))
    with pytest.raises(VerificationError, match=r"output index differs at \d+ of \d+ values") as caught:
        run.verify() if stage == "trial" else run.release(record=spoiling)
    assert newcomer in str(caught.value)
    assert site.traffic == before, "taken back at once, not only when the run is concluded"
    assert labels(site.vertex, run.model)["verified"].startswith("failed-")
    shares = [each.share for each in run.record.verifications()]
    assert shares == [100, 10, 50, 100][: {"trial": 1, "canary": 2, "half": 3, "all": 4}[stage]]
    done = run.conclude(fault=str(caught.value))
    assert (done.released, done.traffic, done.retired) == (False, before, ())
    assert f"(deployed model {newcomer}) was removed; traffic: 33 % to 1, 33 % to 2, 34 % to 3; " in done.sentence
    assert "output index differs" in done.sentence
    assert site.traffic == before
    assert site.deployed == set(before)
    assert site.trials == []
    again = run.conclude(fault="the step is tried again")
    assert again.traffic == before, "concluding twice does no harm"


def test_a_model_that_is_too_slow_is_refused_on_trial_and_in_service(site: Site) -> None:
    first = site.run("1").walk()
    run = site.run("2")
    run.deploy()
    with pytest.raises(
        VerificationError, match=r"the model is too slow: a request takes .* allowed by max_latency_seconds"
    ):
        run.verify(max_latency_seconds=0.0001)
    run.verify()
    with pytest.raises(
        VerificationError, match="choose a faster machine_type, more replicas, a smaller tile, or raise"
    ):
        run.release(max_latency_seconds=0.0001)
    assert site.traffic == first.traffic
    done = run.conclude("too slow")
    assert (done.traffic, site.deployed) == (first.traffic, set(first.traffic))


def test_numbers_out_of_range_change_nothing(site: Site) -> None:
    run = site.run("1")
    with pytest.raises(ParameterError, match="max_replicas 0"):
        run.deploy(max_replicas=0)
    assert run.record.deployment() is None
    assert site.deployed == set()
    run.deploy()
    run.verify()
    with pytest.raises(ParameterError, match="canary_percent is 0"):
        run.release(canary_percent=0)
    assert site.traffic == {}
    done = replace(run, keep_previous=-1).conclude("too slow")
    assert (site.traffic, site.deployed, site.trials, done.untidy) == ({}, set(), [], ())
    done = replace(site.run("1", "once-more"), keep_previous=-1).walk()
    assert done.released
    assert "keep_previous is -1" in done.untidy[0]
    assert "not tidied up: keep_previous is -1" in done.sentence


def test_the_models_that_served_last_stay_deployed_and_older_ones_go(site: Site) -> None:
    served = [next(iter(site.run(version, keep_previous=9).walk().traffic)) for version in ("1", "2")]
    for version, keep in (("3", 2), ("4", 1), ("5", 0)):
        # A run that ended after its deployment, which nobody has verified.
        unverified = site.run(f"{version}-crashed").deploy().deployed_model
        before = site.deployed
        done = site.run(version, keep_previous=keep).walk()
        served += done.traffic
        stays = set(served[-1 - keep :])
        assert unverified in before
        assert site.deployed == stays, "the newest of those that have served"
        assert set(done.retired) == before - stays
        assert site.traffic == {served[-1]: 100}
        assert site.trials == [], "neither its own trial nor the one that was left over"


def test_old_versions_are_deleted_save_those_deployed_elsewhere_named_or_not_ours(site: Site) -> None:
    elsewhere = find_or_create_endpoint(site.vertex, f"{site.endpoint.rsplit('/', 1)[-1]}-2").name
    there = replace(site.run("1"), endpoint=elsewhere, name="elsewhere")
    assert there.walk().released
    for number in (2, 3, 4, 5):
        registered(site.vertex, site.archive(str(number)), site.staging)
    name = there.model.rsplit("@", 1)[0]
    site.vertex.models.merge_version_aliases(name=f"{name}@2", version_aliases=["champion"])
    by_hand = site.vertex.models.get_model(name=f"{name}@3")
    site.vertex.models.update_model(model={"name": f"{name}@3", "labels": {}}, update_mask={"paths": ["labels"]})
    assert by_hand.labels
    done = site.run("6", keep_versions=1).walk()
    model_id = name.rsplit("/", 1)[-1]
    assert done.retired == (f"{model_id}@4",), "5 is the newest of the earlier ones"
    assert site.versions == {"1", "2", "3", "5", "6"}
    assert deployed(site.vertex, elsewhere) == set(traffic(site.vertex, elsewhere)) != set()
    done = site.run("6", "again", keep_versions=0).walk()
    assert done.retired == (f"{model_id}@5",)
    assert "retired" not in done.sentence or done.changed


def test_the_released_version_becomes_the_default_one_and_one_with_another_alias_stays(site: Site) -> None:
    assert site.run("1").walk().released
    name = site.run("1").model.rsplit("@", 1)[0]
    assert site.run("2", keep_versions=0, keep_previous=0).walk().retired[1:] == (f"{name.rsplit('/', 1)[-1]}@1",)
    site.vertex.models.merge_version_aliases(name=f"{name}@2", version_aliases=["of-the-paper"])
    assert site.run("3", keep_versions=0, keep_previous=0).walk().released
    aliases = {
        each.version_id: list(each.version_aliases) for each in site.vertex.models.list_model_versions(name=name)
    }
    assert aliases == {"2": ["of-the-paper"], "3": ["default"]}


def test_the_same_run_twice_changes_nothing_and_says_so(site: Site) -> None:
    assert site.run("1", "first").walk().changed
    assert site.run("2", "second").walk().changed
    before = state(site)
    done = site.run("2", "third").walk()
    assert state(site) == before
    assert (done.released, done.changed, done.retired) == (True, False, ())
    assert done.sentence.endswith("had all the traffic already and was verified again; nothing was changed")
    assert [each.share for each in done.verifications] == [100]
    assert labels(site.vertex, site.run("2").model)["verified-by"] == f"{site.endpoint.rsplit('/', 1)[-1]}-third"


def test_a_model_in_service_that_fails_its_verification_stays_in_service(site: Site) -> None:
    first = site.run("1", "first").walk()
    again = site.run("1", "again")
    again.deploy()
    with pytest.raises(VerificationError, match="too slow"):
        again.verify(max_latency_seconds=0.0001)
    done = again.conclude("too slow")
    assert (done.released, done.changed, done.traffic) == (False, False, first.traffic)
    assert "was there before this run and stays" in done.sentence
    assert site.deployed == set(first.traffic)


def test_a_step_that_is_tried_again_deploys_once(site: Site) -> None:
    run = site.run("1")
    first = run.deploy()
    again = run.deploy()
    assert (again.deployed_model, again.traffic_before, again.created) == (first.deployed_model, {}, True)
    assert site.deployed == {first.deployed_model}
    assert site.trials == [run.name]
    found = site.vertex.endpoints.get_endpoint(name=site.endpoint)
    assert [run_of(each) for each in found.deployed_models] == [run.name]
    run.conclude("enough")
    assert (site.deployed, site.trials) == (set(), [])


def test_a_canary_that_was_left_is_promoted_from_where_it_stands(site: Site) -> None:
    """Its run ended after the canary, as where Vertex AI itself was gone."""
    first = next(iter(site.run("1").walk().traffic))
    crashed = site.run("2", "crashed")
    crashed.deploy()
    crashed.verify()
    spoiling = Doing(crashed.record.folder, 10, lambda: spoil(crashed.archive))
    good = Golden.load(Path(crashed.archive))
    with pytest.raises(PipelineError):
        crashed.release(record=spoiling, promotion_steps=[10, 100])
    good.save(Path(crashed.archive))
    model = crashed.record.deployment()
    assert model
    newcomer = model.deployed_model
    change_traffic(site.vertex, site.endpoint, lambda _: {first: 90, newcomer: 10})
    done = site.run("2", "next").walk()
    assert [(each.share, "/trial-" in each.endpoint) for each in done.verifications] == [
        (10, False),
        (50, False),
        (100, False),
    ]
    assert site.traffic == {newcomer: 100}
    assert site.trials == [], "the trial of the run that crashed is gone, too"


def test_a_run_that_deployed_nothing_concludes_nothing(site: Site) -> None:
    run = site.run("1", "nothing")
    assert run.record.deployment() is None
    with pytest.raises(VerificationError, match="holds no deployment; nothing can be verified"):
        run.verify()
    done = run.conclude("upload: no such bucket")
    assert done.sentence == "nothing was deployed: upload: no such bucket"
    assert (done.released, done.changed, done.deployment) == (False, False, None)
    assert ModelContract.read(Path(run.archive)).name in run.model


def test_a_model_whose_traffic_is_taken_before_the_run_is_concluded_does_not_count_as_released(site: Site) -> None:
    (old,) = site.run("1").walk().traffic
    run = site.run("2", keep_previous=0)
    newcomer = run.deploy().deployed_model
    run.verify()
    run.release()
    change_traffic(site.vertex, site.endpoint, lambda _: {old: 100})
    done = run.conclude()
    assert not done.released
    assert done.reason == "another run or a person took its traffic when it had been released"
    assert f"(deployed model {newcomer}) stays deployed; traffic: 100 % to {old}" in done.sentence
    assert (site.traffic, site.deployed, site.trials) == ({old: 100}, {old, newcomer}, [])


def test_a_run_that_has_given_no_traffic_takes_none(site: Site) -> None:
    site.deploy_by_hand("1", ["1"])
    site.deploy_by_hand("2", ["2"])
    change_traffic(site.vertex, site.endpoint, lambda _: {"1": 100})
    run = site.run("2", "adopts")
    assert not run.deploy().created
    change_traffic(site.vertex, site.endpoint, lambda _: {"2": 100})  # a person's decision
    done = run.conclude("a step was killed")
    assert (done.traffic, site.traffic, site.deployed) == ({"2": 100}, {"2": 100}, {"1", "2"})


def test_what_a_person_deployed_and_never_gave_traffic_stays(site: Site) -> None:
    (old,) = site.run("1").walk().traffic
    site.deploy_by_hand("2", ["7"])
    done = site.run("3", keep_previous=0).walk()
    assert done.retired == (old,)
    assert site.deployed == {*done.traffic, "7"}


def test_the_reason_is_what_a_step_wrote_down(site: Site) -> None:
    run = site.run("1")
    with pytest.raises(VerificationError), run.record.telling("verify"):
        raise VerificationError("the model is too slow")
    assert why(site.vertex, run.record, run.name, "task failed") == "verify: the model is too slow"
    assert why(site.vertex, site.run("1", "killed").record, "no-such-run", "task failed") == "task failed"
    assert "see its log" in why(site.vertex, site.run("1", "killed").record, "no-such-run", None)


def test_where_vertex_ai_cannot_be_asked_a_version_is_not_marked(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert site.run("1", "first").walk().released
    again = site.run("1", "again")
    again.deploy()
    before = labels(site.vertex, again.model)
    change_traffic(site.vertex, site.endpoint, lambda _: {})
    with pytest.raises(VerificationError, match="is not released"):
        again.verify()
    assert labels(site.vertex, again.model) == before
    assert not again.record.verifications()[-1].conclusive
