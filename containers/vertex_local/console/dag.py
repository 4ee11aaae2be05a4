"""Where each task of a pipeline is drawn: in layers from top to bottom, nested DAGs as groups.

The layers are Sugiyama's: a task lies one layer below the last that it waits for, tasks in a layer are ordered by
the mean place of their neighbours, and an edge over several layers keeps a lane of its own between the boxes.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

# Pixels. Two boxes side by side fit the 360 of a phone when scrolled a little; a chain fits as it is.
BOX_WIDTH, BOX_HEIGHT = 208, 54
_BETWEEN, _BELOW = 20, 36
_LANE = 14
_GROUP_MARGIN, _GROUP_TITLE = 14, 30
_SWEEPS = 6
# What kfp calls a branch or a loop that has been given no name.
_MADE_UP = re.compile(r"(?:condition|condition-branches|for-loop)-\d+")

Path = tuple[str, ...]
"""Names of tasks from the root's on; all but the last are of groups."""
Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A task that a program runs for."""

    path: Path
    title: str
    x: float
    y: float
    width: float = BOX_WIDTH
    height: float = BOX_HEIGHT

    @property
    def task(self) -> str:
        return self.path[-1]


@dataclass(frozen=True)
class Group:
    """A task that is a DAG of its own: a pipeline, a branch, a loop, or what an exit handler watches."""

    path: Path
    title: str
    detail: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Edge:
    """A way from the lower edge of one box or group to the upper edge of another, every step of it downwards."""

    source: Path
    target: Path
    points: tuple[Point, ...]

    @property
    def curve(self) -> str:
        """The way as SVG draws it."""
        text = "M{:g} {:g}".format(*self.points[0])
        for (x, y), (to_x, to_y) in pairwise(self.points):
            middle = (y + to_y) / 2
            text += f"V{to_y:g}" if x == to_x else f"C{x:g} {middle:g} {to_x:g} {middle:g} {to_x:g} {to_y:g}"
        return text


@dataclass(frozen=True)
class Drawing:
    """A DAG with its size; outer groups come before inner ones."""

    width: float
    height: float
    boxes: tuple[Box, ...] = ()
    groups: tuple[Group, ...] = ()
    edges: tuple[Edge, ...] = ()

    def moved(self, x: float, y: float) -> "Drawing":
        return Drawing(
            self.width,
            self.height,
            tuple(replace(box, x=box.x + x, y=box.y + y) for box in self.boxes),
            tuple(replace(group, x=group.x + x, y=group.y + y) for group in self.groups),
            tuple(replace(edge, points=tuple((px + x, py + y) for px, py in edge.points)) for edge in self.edges),
        )


def lay_out(spec: Mapping[str, Any]) -> Drawing:
    """Places every task of a compiled pipeline.

    Args:
        spec: the PipelineSpec as ``json_format.MessageToDict`` gives it.
    """
    return _drawing(spec.get("root", {}), spec.get("components", {}), (), ())


def _drawing(component: Mapping[str, Any], components: Mapping[str, Any], path: Path, within: Sequence[str]) -> Drawing:
    """A component's DAG, ``path`` leading to it; ``within`` are the components around it, none of which can recur."""
    tasks = component.get("dag", {}).get("tasks", {})
    drawings = {}
    # A Struct keeps no order; this one is that of the numbers which kfp gives to tasks of the same name.
    names = sorted(tasks, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])
    for name in names:
        task = tasks[name]
        reference = task.get("componentRef", {}).get("name", "")
        inner = components.get(reference, {})
        if "dag" in inner and reference not in within:
            content = _drawing(inner, components, (*path, name), (*within, reference))
            drawings[name] = _group(content, (*path, name), task)
        else:
            box = Box((*path, name), _title(name, task), 0, 0)
            drawings[name] = Drawing(BOX_WIDTH, BOX_HEIGHT, (box,))
    return _layered(drawings, _downward({name: list(_producers(tasks[name], tasks)) for name in names}), path)


def _group(content: Drawing, path: Path, task: Mapping[str, Any]) -> Drawing:
    """A frame with a title around a DAG."""
    width = max(content.width, BOX_WIDTH) + 2 * _GROUP_MARGIN
    height = _GROUP_TITLE + content.height + _GROUP_MARGIN
    inside = content.moved((width - content.width) / 2, _GROUP_TITLE)
    title, detail = _title(path[-1], task), _detail(path[-1], task)
    if detail and _MADE_UP.fullmatch(title):
        title = ""
    frame = Group(path, title, detail, 0, 0, width, height)
    return Drawing(width, height, inside.boxes, (frame, *inside.groups), inside.edges)


def _title(name: str, task: Mapping[str, Any]) -> str:
    return task.get("taskInfo", {}).get("name") or name


def _detail(name: str, task: Mapping[str, Any]) -> str:
    """Under which condition, or for which items, a group runs."""
    if condition := task.get("triggerPolicy", {}).get("condition"):
        text = re.sub(r"inputs\.parameter_values\['(?:pipelinechannel--)?([^']*)'\]", r"\1", condition)
        return "if " + re.sub(r"!(?=\()", "not ", text).replace("&&", "and").replace("||", "or")
    iterator = task.get("parameterIterator") or task.get("artifactIterator")
    if iterator:
        items = iterator.get("items", {})
        source = items.get("raw") or items.get("inputParameter") or items.get("inputArtifact") or ""
        return f"for each of {source.removeprefix('pipelinechannel--')}"
    return "one of these" if name.startswith("condition-branches-") else ""


def _producers(task: Mapping[str, Any], tasks: Mapping[str, Any]) -> Iterator[str]:
    """The tasks beside this one that it waits for."""
    inputs = task.get("inputs", {})
    sources = [*inputs.get("parameters", {}).values(), *inputs.get("artifacts", {}).values()]
    named = [*task.get("dependentTasks", [])]
    named += [value.get("producerTask") for source in sources for value in source.values() if isinstance(value, dict)]
    yield from (name for name in sorted({*named} - {None}) if name in tasks)


def _downward(producers: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The same without what would close a circle, producers before what waits for them."""
    done: dict[str, list[str]] = {}
    open_: set[str] = set()

    def visit(name: str) -> None:
        open_.add(name)
        for producer in producers[name]:
            if producer not in done and producer not in open_:
                visit(producer)
        done[name] = [producer for producer in producers[name] if producer in done]

    for name in producers:
        if name not in done:
            visit(name)
    return done


@dataclass
class _Cell:
    """A box, a group or an edge's lane in a layer."""

    name: str
    layer: int
    width: float
    centre: float = 0


def _layered(drawings: Mapping[str, Drawing], producers: Mapping[str, Sequence[str]], path: Path) -> Drawing:
    layer: dict[str, int] = {}
    for name, named in producers.items():
        layer[name] = 1 + max((layer[producer] for producer in named), default=-1)
    cells = {name: _Cell(name, layer[name], drawings[name].width) for name in producers}
    ways = [_with_lanes(cells, cells[producer], cells[name]) for name, named in producers.items() for producer in named]
    rows: list[list[_Cell]] = [[] for _ in range(1 + max(layer.values(), default=-1))]
    for cell in cells.values():
        rows[cell.layer].append(cell)
    _place(rows, [pair for way in ways for pair in pairwise(way)])

    left = min((cell.centre - cell.width / 2 for cell in cells.values()), default=0)
    width = max((cell.centre + cell.width / 2 for cell in cells.values()), default=0) - left
    tops, bottoms, y = [], [], 0.0
    for row in rows:
        tops.append(y)
        bottoms.append(y + max(drawings[cell.name].height for cell in row if cell.name in drawings))
        y = bottoms[-1] + _BELOW
    for cell in cells.values():
        cell.centre = round(cell.centre - left, 1)
    placed = [
        drawing.moved(cells[name].centre - drawing.width / 2, tops[layer[name]]) for name, drawing in drawings.items()
    ]
    edges = [_edge(way, tops, bottoms, drawings, path) for way in ways]
    return Drawing(
        width,
        bottoms[-1] if bottoms else 0,
        tuple(box for drawing in placed for box in drawing.boxes),
        tuple(group for drawing in placed for group in drawing.groups),
        (*edges, *(edge for drawing in placed for edge in drawing.edges)),
    )


def _with_lanes(cells: dict[str, _Cell], source: _Cell, target: _Cell) -> list[_Cell]:
    """The cells from one task to another, with a lane added in each layer between."""
    lanes = [
        _Cell(f"{source.name}\0{target.name}\0{number}", number, _LANE)
        for number in range(source.layer + 1, target.layer)
    ]
    cells.update((lane.name, lane) for lane in lanes)
    return [source, *lanes, target]


def _place(rows: Sequence[list[_Cell]], links: Iterable[tuple[_Cell, _Cell]]) -> None:
    """Orders each row, and puts each cell as near as may be below and above those that it is linked with."""
    above: dict[str, list[_Cell]] = {}
    below: dict[str, list[_Cell]] = {}
    for upper, lower in links:
        above.setdefault(lower.name, []).append(upper)
        below.setdefault(upper.name, []).append(lower)

    def wish(cell: _Cell, linked: Mapping[str, list[_Cell]]) -> float:
        near = linked.get(cell.name)
        return sum(other.centre for other in near) / len(near) if near else cell.centre

    for row in rows:
        _spread(row, [0.0] * len(row))
    for _ in range(_SWEEPS):
        for row, linked in [*((row, above) for row in rows[1:]), *((row, below) for row in rows[-2::-1])]:
            row.sort(key=lambda cell: wish(cell, linked))
            _spread(row, [wish(cell, linked) for cell in row])


def _spread(row: Sequence[_Cell], wishes: Sequence[float]) -> None:
    """Centres the cells where they wish to be, in their order and apart, with the least sum of squared distances.

    With the room that they need subtracted, that is a regression to a rising sequence: neighbours in the wrong order
    are pooled and share their mean.
    """
    offsets = [0.0]
    for one, other in pairwise(row):
        offsets.append(offsets[-1] + (one.width + other.width) / 2 + _BETWEEN)
    pools: list[tuple[float, int]] = []
    for wished, offset in zip(wishes, offsets, strict=False):
        mean, count = wished - offset, 1
        while pools and pools[-1][0] >= mean:
            before, number = pools.pop()
            mean, count = (before * number + mean * count) / (number + count), number + count
        pools.append((mean, count))
    places = [mean for mean, count in pools for _ in range(count)]
    for cell, place, offset in zip(row, places, offsets, strict=False):
        cell.centre = place + offset


def _edge(
    way: Sequence[_Cell],
    tops: Sequence[float],
    bottoms: Sequence[float],
    drawings: Mapping[str, Drawing],
    path: Path,
) -> Edge:
    source, *lanes, target = way
    points = [(source.centre, tops[source.layer] + drawings[source.name].height)]
    # Straight down to the layer's end first: a taller neighbour is in the way of a curve.
    if points[0][1] < bottoms[source.layer]:
        points.append((source.centre, bottoms[source.layer]))
    for lane in lanes:
        points += [(lane.centre, tops[lane.layer]), (lane.centre, bottoms[lane.layer])]
    points.append((target.centre, tops[target.layer]))
    return Edge((*path, source.name), (*path, target.name), tuple(points))
