"""The steps before a retrained model is deployed, as Kubeflow components made as those of `components.steps` are."""

# No `from __future__ import annotations`: kfp reads the annotations themselves.

from kfp import dsl
from kfp.dsl import HTML, Artifact, ClassificationMetrics, Dataset, Input, Metrics, Model, Output

from components.steps import EXPORT_IMAGE, VERTEX_IMAGE


@dsl.component(base_image=EXPORT_IMAGE, install_kfp_package=False)
def train(
    framework: str,
    contract_uri: str,
    data: str,
    held_out: str,
    held_out_share: float,
    seed: int,
    trained: Output[Model],
    judged_by: Output[Dataset],
) -> str:
    from pathlib import Path
    from typing import cast

    from components.challenger import train_challenger
    from components.deadline import within
    from components.earthengine.contract import Framework

    with within("train"):
        told = train_challenger(
            cast(Framework, framework),
            contract_uri,
            data,
            held_out,
            held_out_share,
            seed,
            Path(trained.path),
            Path(judged_by.path),
        )
    print(told)  # noqa: T201 -- the step's log
    return str(trained.uri)


@dsl.component(base_image=EXPORT_IMAGE, install_kfp_package=False)
def evaluate(
    trained: Input[Model],
    judged_by: Input[Dataset],
    project: str,
    location: str,
    endpoint: str,
    evaluated: Output[Artifact],
    confusion: Output[ClassificationMetrics],
) -> None:
    from pathlib import Path

    from components.contest import evaluate_both
    from components.deadline import within
    from components.vertex import Vertex
    from components.whole import write_text

    with within("evaluate"):
        contest = evaluate_both(Vertex(project, location), Path(trained.path), Path(judged_by.path), endpoint)
    write_text(Path(evaluated.path), contest.dump())
    if contest.challenger.labels:
        rows = [list(row[:-1]) for row in contest.challenger.confusion]
        confusion.log_confusion_matrix(list(contest.challenger.labels), rows)
    print(contest.sentence)  # noqa: T201 -- the step's log


@dsl.component(base_image=VERTEX_IMAGE, install_kfp_package=False)
def gate(
    evaluated: Input[Artifact],
    run: str,
    staging: str,
    margin: float,
    challenger: Output[Metrics],
    champion: Output[Metrics],
    decision: Output[HTML],
) -> str:
    from pathlib import Path

    from components.contest import Contest
    from components.deadline import within
    from components.gate import decide
    from components.pages import write_decision
    from components.record import Record

    contest = Contest.parse(Path(evaluated.path).read_text(encoding="utf-8"))
    decided = decide(contest, margin)
    with within("gate"):
        Record.of(staging, run).keep_decision(decided)
    for artifact, evaluation in ((challenger, contest.challenger), (champion, contest.champion)):
        for name, value in evaluation.finite().items() if evaluation else ():
            artifact.log_metric(name, value)
    write_decision(decided, Path(decision.path))
    decision.metadata["reason"] = decided.reason
    print(decided.reason)  # noqa: T201 -- the step's log
    return "better" if decided.better else "not better"
