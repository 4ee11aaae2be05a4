"""The pipelines, as Kubeflow compiles them: deploy, and retrain with deploy inside."""

# No `from __future__ import annotations`: kfp reads the annotations itself.

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.built_images import Images
from components.earthengine.contract import Framework
from components.parameters import CANARY_PERCENT, MAX_LATENCY_SECONDS, PROMOTION_STEPS
from components.whole import whole_file

# Vertex AI and the local one put the job's own project and region in their place.
PROJECT = "{{$.pipeline_google_cloud_project_id}}"
LOCATION = "{{$.pipeline_google_cloud_location}}"


@dataclass(frozen=True)
class CustomTraining:
    """The machine that a Vertex AI CustomJob trains on.

    Attributes:
        machine_type: such as n1-standard-8.
        accelerator_type: such as NVIDIA_TESLA_T4; empty for none.
        accelerator_count: of each machine.
        service_account: that the job runs as; Vertex AI's own for custom code if empty.
    """

    machine_type: str
    accelerator_type: str = ""
    accelerator_count: int = 1
    service_account: str = ""

    def custom_job(self, component: Any) -> Any:
        """The component as one that starts a CustomJob and waits for it."""
        from google_cloud_pipeline_components.v1.custom_job import create_custom_training_job_from_component

        return create_custom_training_job_from_component(
            component,
            machine_type=self.machine_type,
            accelerator_type=self.accelerator_type,
            accelerator_count=self.accelerator_count,
            service_account=self.service_account,
        )


def deploy_pipeline(framework: Framework, images: Images) -> Any:
    """The deploy DAG of a framework, its parameters' defaults and descriptions as the console shows them.

    Raises:
        ParameterError: digests are given, but not of each image that the template names.
    """
    from kfp import dsl

    from components import steps

    serving = images.of_framework(framework)[f"serving-{framework}"]

    @dsl.pipeline(
        name=f"deploy-{framework}-to-earth-engine", display_name=f"Deploy a {framework} model to Earth Engine"
    )
    def deploy(
        model_uri: str,
        staging: str = "",
        endpoint: str = "",
        serving_image: str = serving,
        machine_type: str = "n1-standard-2",
        min_replicas: int = 1,
        max_replicas: int = 1,
        canary_percent: int = CANARY_PERCENT,
        promotion_steps: list[int] = list(PROMOTION_STEPS),  # noqa: B006 -- kfp reads it, nothing changes it
        max_latency_seconds: float = MAX_LATENCY_SECONDS,
        keep_previous: int = 1,
        keep_versions: int = 10,
        allow_pickle: bool = False,
    ) -> None:
        """Exports a trained model, registers and deploys it, and gives it traffic once it answers rightly.

        Args:
            model_uri: Folder in Cloud Storage that holds the trained model and its model.yaml, gs://bucket/folder.
            staging: Folder that models are staged to. Empty: earth-engine-models in the bucket of model_uri.
            endpoint: Id or display name of the endpoint; made if there is none. Empty: the model's name.
            serving_image: URI of the prediction server's image, in the same region.
            machine_type: Machine of each replica.
            min_replicas: Replicas that always run, and are billed. At least 1.
            max_replicas: Replicas at most; quota is charged for these.
            canary_percent: Share of the traffic that a verified model gets first, 1 to 100; all on a new endpoint.
            promotion_steps: Shares that it gets after that, each verified before the next, rising to 100.
            max_latency_seconds: What a request may take at the 99th percentile; more than 0, at most 60.
            keep_previous: How many earlier models stay deployed without traffic, to go back to; each is billed.
            keep_versions: How many earlier versions stay in the registry; what is deployed stays in any case.
            allow_pickle: Whether the model may run code of its own when it is loaded: a pickled module's, model.code.
        """
        where = {"project": PROJECT, "location": LOCATION}
        of_model = {"model_uri": model_uri, "staging": staging}
        job = {"run": dsl.PIPELINE_JOB_NAME_PLACEHOLDER, **where}
        run = {**job, **of_model}
        model = dsl.importer(artifact_uri=model_uri, artifact_class=dsl.Model, reimport=True)
        model.set_display_name("import model")
        exported = steps.export(model=model.output, allow_pickle=allow_pickle)
        archived = steps.archive(exported=exported.output, serving_image=serving_image)
        answered = steps.preflight(
            archived=archived.output,
            serving_image=serving_image,
            min_replicas=min_replicas,
            max_replicas=max_replicas,
            canary_percent=canary_percent,
            promotion_steps=promotion_steps,
            max_latency_seconds=max_latency_seconds,
            keep_previous=keep_previous,
            keep_versions=keep_versions,
        )
        registered = steps.upload(archived=archived.output, serving_image=serving_image, **run).after(answered)
        found = steps.create_endpoint(registered=registered.output, endpoint=endpoint, **job)
        concluded = steps.conclude(keep_previous=keep_previous, keep_versions=keep_versions, **run)
        with dsl.ExitHandler(concluded, name="deploy, verify and release"):
            deployed = steps.deploy(
                registered=registered.output,
                endpoint=found.output,
                machine_type=machine_type,
                min_replicas=min_replicas,
                max_replicas=max_replicas,
                **run,
            )
            verified = steps.verify(
                archived=archived.output,
                max_latency_seconds=max_latency_seconds,
                **run,
            ).after(deployed)
            released = steps.release(
                archived=archived.output,
                canary_percent=canary_percent,
                promotion_steps=promotion_steps,
                max_latency_seconds=max_latency_seconds,
                **run,
            ).after(verified)
        # What a step finds in the registry or on an endpoint is not in its inputs, so none may be skipped.
        tasks = (model, exported, archived, answered, registered, found, deployed, verified, released, concluded)
        for task in tasks:
            task.set_caching_options(enable_caching=False)

    return deploy


def retrain_pipeline(framework: Framework, images: Images, training: CustomTraining | None = None) -> Any:
    """The retrain DAG of a framework: train, evaluate, gate, and where the challenger is better deploy.

    Args:
        framework: of the model.
        images: that steps run in and that serves.
        training: what machine a Vertex AI CustomJob trains on; a step as any other if not given.

    Raises:
        ParameterError: digests are given, but not of each image that the template names.
    """
    from kfp import dsl

    from components import training_steps

    deploy = deploy_pipeline(framework, images)
    serving = images.of_framework(framework)[f"serving-{framework}"]
    train = training.custom_job(training_steps.train) if training else training_steps.train

    @dsl.pipeline(
        name=f"retrain-{framework}-for-earth-engine", display_name=f"Retrain a {framework} model for Earth Engine"
    )
    def retrain(
        staging: str,
        contract_uri: str = "",
        data: str = "samples",
        held_out: str = "",
        held_out_share: float = 0.3,
        margin: float = 0.0,
        seed: int = 0,
        endpoint: str = "",
        serving_image: str = serving,
        machine_type: str = "n1-standard-2",
        min_replicas: int = 1,
        max_replicas: int = 1,
        canary_percent: int = CANARY_PERCENT,
        promotion_steps: list[int] = list(PROMOTION_STEPS),  # noqa: B006 -- kfp reads it, nothing changes it
        max_latency_seconds: float = MAX_LATENCY_SECONDS,
        keep_previous: int = 1,
        keep_versions: int = 10,
    ) -> None:
        """Trains a model anew, holds it against the one that serves, and deploys it where it is better.

        Args:
            staging: Folder in Cloud Storage that models are staged to and runs are recorded in, gs://bucket/folder.
            contract_uri: Folder with the model.yaml to train for, and a sample scene. Empty: the packaged land cover.
            data: What to train on. samples: those that are packaged. Or a table (.csv, .parquet) with a column for
              each band and one named as the output, or TFRecords as Earth Engine exports them, both in gs://.
            held_out: Data that challenger and champion are judged by. Empty: a share of the data.
            held_out_share: Share of the data that is held out, of points of each class, between 0 and 1.
            margin: By how much the contract's first metric must be better, in its own unit.
            seed: Of the training; the same data and seed give the same model.
            endpoint: Id or display name of the endpoint; made if there is none. Empty: the model's name.
            serving_image: URI of the prediction server's image, in the same region.
            machine_type: Machine of each replica.
            min_replicas: Replicas that always run, and are billed. At least 1.
            max_replicas: Replicas at most; quota is charged for these.
            canary_percent: Share of the traffic that a verified model gets first, 1 to 100; all on a new endpoint.
            promotion_steps: Shares that it gets after that, each verified before the next, rising to 100.
            max_latency_seconds: What a request may take at the 99th percentile; more than 0, at most 60.
            keep_previous: How many earlier models stay deployed without traffic, to go back to; each is billed.
            keep_versions: How many earlier versions stay in the registry; what is deployed stays in any case.
        """
        where = {"project": PROJECT, "location": LOCATION}
        trained = train(
            framework=framework,
            contract_uri=contract_uri,
            data=data,
            held_out=held_out,
            held_out_share=held_out_share,
            seed=seed,
        )
        evaluated = training_steps.evaluate(
            trained=trained.outputs["trained"], judged_by=trained.outputs["judged_by"], endpoint=endpoint, **where
        )
        gated = training_steps.gate(
            evaluated=evaluated.outputs["evaluated"],
            run=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
            staging=staging,
            margin=margin,
        )
        # What serves is not in the inputs of these, so none may be skipped.
        for task in (trained, evaluated, gated):
            task.set_caching_options(enable_caching=False)
        with dsl.If(gated.outputs["Output"] == "better", name="better than what serves"):
            deploy(
                model_uri=trained.outputs["Output"],
                staging=staging,
                endpoint=endpoint,
                serving_image=serving_image,
                machine_type=machine_type,
                min_replicas=min_replicas,
                max_replicas=max_replicas,
                canary_percent=canary_percent,
                promotion_steps=promotion_steps,
                max_latency_seconds=max_latency_seconds,
                keep_previous=keep_previous,
                keep_versions=keep_versions,
                allow_pickle=False,
            )

    return retrain


def compile_deploy(framework: Framework, images: Images, path: Path) -> Path:
    """Compile the deploy DAG of a framework to a template that aiplatform.PipelineJob runs."""
    return _compile(deploy_pipeline(framework, images), framework, images, path)


def compile_retrain(framework: Framework, images: Images, path: Path, training: CustomTraining | None = None) -> Path:
    """Compile the retrain DAG of a framework to a template that aiplatform.PipelineJob runs."""
    return _compile(retrain_pipeline(framework, images, training), framework, images, path)


def _compile(pipeline: Any, framework: Framework, images: Images, path: Path) -> Path:
    from kfp import compiler

    from components import steps

    uris = images.of_framework(framework)
    named = {steps.VERTEX_IMAGE: uris[steps.VERTEX_IMAGE], steps.EXPORT_IMAGE: uris[f"steps-{framework}"]}
    with whole_file(path) as aside:
        compiler.Compiler().compile(pipeline, str(aside))
        template = yaml.safe_load(aside.read_text(encoding="utf-8"))
        _name_images(template, named)
        aside.write_text(yaml.safe_dump(template, sort_keys=True), encoding="utf-8")
    return path


def _name_images(part: Any, named: Mapping[str, str]) -> None:
    """Put URIs in place of the images' names, of steps and of CustomJobs in the parameters of steps."""
    for key, value in part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ():
        if key in {"image", "image_uri"} and value in named:
            part[key] = named[value]
        else:
            _name_images(value, named)
