from itertools import combinations, count, pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from containers.vertex_local.console.dag import BOX_WIDTH, Box, Drawing, Group, lay_out

Spec = dict[str, Any]


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    """Pipelines of up to six tasks a DAG, three DAGs deep, each task waiting for any of those before it."""
    components: dict[str, Any] = {}
    numbers = count()

    def dag(depth: int) -> dict[str, Any]:
        tasks: dict[str, Any] = {}
        for name in [f"task-{number}" for number in range(draw(st.integers(0, 6)))]:
            component = f"comp-{next(numbers)}"
            nested = depth < 3 and draw(st.integers(0, 3)) == 0
            components[component] = {"dag": dag(depth + 1)} if nested else {"executorLabel": "exec"}
            tasks[name] = {
                "componentRef": {"name": component},
                "dependentTasks": draw(st.lists(st.sampled_from(sorted(tasks)), unique=True)) if tasks else [],
            }
        return {"tasks": tasks}

    return {"root": {"dag": dag(1)}, "components": components}


def members(drawing: Drawing) -> list[Box | Group]:
    return [*drawing.boxes, *drawing.groups]


def overlap(one: Box | Group, other: Box | Group) -> bool:
    return (
        one.x < other.x + other.width
        and other.x < one.x + one.width
        and one.y < other.y + other.height
        and other.y < one.y + one.height
    )


def contains(outer: Group | Drawing, inner: Box | Group) -> bool:
    left, top = (outer.x, outer.y) if isinstance(outer, Group) else (0, 0)
    return (
        left - 0.1 <= inner.x
        and inner.x + inner.width <= left + outer.width + 0.1
        and top <= inner.y
        and inner.y + inner.height <= top + outer.height
    )


def nested(one: Box | Group, other: Box | Group) -> bool:
    short, long = sorted((one.path, other.path), key=len)
    return long[: len(short)] == short


@given(specs())
def test_boxes_and_groups_overlap_only_where_one_is_in_the_other(spec: Spec) -> None:
    drawing = lay_out(spec)
    for one, other in combinations(members(drawing), 2):
        assert nested(one, other) or not overlap(one, other), (one, other)


@given(specs())
def test_groups_and_the_drawing_contain_their_members(spec: Spec) -> None:
    drawing = lay_out(spec)
    for member in members(drawing):
        assert contains(drawing, member)
        for group in drawing.groups:
            if nested(group, member) and len(group.path) < len(member.path):
                assert contains(group, member)
                assert member.y - group.y >= 28, "no room for the group's title"


@given(specs())
def test_every_edge_points_down_and_past_every_box(spec: Spec) -> None:
    drawing = lay_out(spec)
    places = {item.path: item for item in members(drawing)}
    for edge in drawing.edges:
        source, target = places[edge.source], places[edge.target]
        assert edge.points[0][1] == source.y + source.height
        assert edge.points[-1][1] == target.y
        for (x, y), (to_x, to_y) in pairwise(edge.points):
            assert y < to_y
            way = Group((), "", "", min(x, to_x), y, max(abs(x - to_x), 0.01), to_y - y)
            assert not [box for box in drawing.boxes if overlap(way, box)]


@given(specs())
def test_every_task_and_every_dependency_is_drawn(spec: Spec) -> None:
    drawing = lay_out(spec)
    dags = [spec["root"]["dag"], *(part["dag"] for part in spec["components"].values() if "dag" in part)]
    tasks = [task for dag in dags for task in dag["tasks"].values()]
    assert len(drawing.boxes) + len(drawing.groups) == len(tasks)
    assert len(drawing.edges) == sum(len(task["dependentTasks"]) for task in tasks)


def task(component: str, *after: str, **more: Any) -> Spec:
    return {"componentRef": {"name": component}, "dependentTasks": list(after), **more}


def test_a_chain_fits_a_phone_and_stands_in_one_column() -> None:
    tasks = {"a": task("c"), "b": task("c", "a"), "c": task("c", "b")}
    drawing = lay_out({"root": {"dag": {"tasks": tasks}}, "components": {"c": {}}})
    assert {box.x for box in drawing.boxes} == {0}
    assert drawing.width == BOX_WIDTH < 320


def test_circles_end() -> None:
    tasks = {"a": task("loop", "b"), "b": task("c", "a")}
    components = {"loop": {"dag": {"tasks": {"inner": task("loop")}}}, "c": {}}
    drawing = lay_out({"root": {"dag": {"tasks": tasks}}, "components": components})
    assert {box.path for box in drawing.boxes} == {("b",), ("a", "inner")}
    assert len(drawing.edges) == 1


def test_a_group_says_when_it_runs() -> None:
    condition = "!(inputs.parameter_values['pipelinechannel--flip-Output'] == 'heads') && true"
    iterator = {"itemInput": "x", "items": {"raw": "[1, 2]"}}
    tasks = {
        "condition-1": task("group", triggerPolicy={"condition": condition}),
        "for-loop-2": task("group", parameterIterator=iterator, taskInfo={"name": "regions"}),
    }
    drawing = lay_out({"root": {"dag": {"tasks": tasks}}, "components": {"group": {"dag": {"tasks": {}}}}})
    assert [(group.title, group.detail) for group in drawing.groups] == [
        ("", "if not (flip-Output == 'heads') and true"),
        ("regions", "for each of [1, 2]"),
    ]


def test_producers_of_inputs_are_waited_for() -> None:
    artifacts = {"in": {"taskOutputArtifact": {"producerTask": "a", "outputArtifactKey": "out"}}}
    final = {"status": {"taskFinalStatus": {"producerTask": "b"}}}
    tasks = {
        "a": task("c"),
        "b": task("c", inputs={"artifacts": artifacts}),
        "c": task("c", inputs={"parameters": final}),
    }
    drawing = lay_out({"root": {"dag": {"tasks": tasks}}, "components": {"c": {}}})
    assert [(edge.source, edge.target) for edge in drawing.edges] == [(("a",), ("b",)), (("b",), ("c",))]
