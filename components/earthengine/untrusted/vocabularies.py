"""Vocabularies: a table may be filled from a file that the SavedModel brings along, an asset, and from no other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

OPERATOR = "InitializeTableFromTextFileV2"
_CALLS = {"PartitionedCall", "StatefulPartitionedCall"}


def is_asset(graph: Any, function: str, tensor: str) -> bool:
    """Whether a tensor in a function is an asset's path, whoever calls the function.

    That is known of an argument alone: where TensorFlow binds it to an object, this is an asset, and where another
    function gives it, it is one there. What the graph outside of its functions does is not asked: TensorFlow's loader
    for Python runs nothing of it where there are objects.

    Args:
        graph: a MetaGraphDef.
        function: its name.
        tensor: as an input of a node in the function names it.
    """
    seen: set[tuple[str, str]] = set()
    waiting = [(function, tensor)]
    while waiting:
        place = waiting.pop()
        if place in seen:
            continue
        seen.add(place)
        given = _given(graph, *place)
        if given is None:
            return False
        waiting += given
    return True


def _given(graph: Any, function: str, tensor: str) -> list[tuple[str, str]] | None:
    """What the callers of a function give for an argument, by their own names; None where it may be another path."""
    library, objects = graph.graph_def.library, graph.object_graph_def
    found = [each for each in library.function if each.signature.name == function]
    arguments = [each.name for each in found[0].signature.input_arg] if len(found) == 1 else []
    # By its attribute TensorFlow's optimiser may put a function in another's place.
    if tensor not in arguments or "api_implements" in found[0].attr:
        return None
    index = arguments.index(tensor)
    if function in objects.concrete_functions:
        # They are the last arguments.
        bound = [None] * len(arguments) + list(objects.concrete_functions[function].bound_inputs)
        node = bound[len(bound) - len(arguments) + index]
        if node not in {number for number, each in enumerate(objects.nodes) if each.WhichOneof("kind") == "asset"}:
            return None
    elif function in _named(objects) or function in {each.gradient_func for each in library.gradient}:
        return None
    calls = [
        (caller.signature.name, node)
        for caller in library.function
        for node in caller.node_def
        if function in functions_of(node)
    ]
    if any(node.op not in _CALLS or len(node.input) <= index for _, node in calls):
        return None
    return [(caller, node.input[index]) for caller, node in calls]


def functions_of(node: Any) -> list[str]:
    """The functions that a node may call, among other names."""
    found = [attribute.func.name for attribute in node.attr.values()]
    found += [each.name for attribute in node.attr.values() for each in attribute.list.func]
    return [*found, node.op]  # a function may be called by its own name


def _named(objects: Any) -> Iterator[str]:
    for saved in objects.nodes:
        yield saved.bare_concrete_function.concrete_function_name
        yield from saved.function.concrete_functions
