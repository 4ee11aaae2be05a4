"""SavedModels: what a graph does and claims, looked at before it is loaded.

`tf.saved_model.load` runs the initialisers of a graph's resources, and any function in it may read and write files,
call Python or other machines. None of that is a model's business. TensorFlow itself is needed to read the graph.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from components.earthengine.untrusted import vocabularies
from components.earthengine.untrusted.files import regular, stays_inside
from components.earthengine.untrusted.zips import leads_out

# Operators that reach files, Python or other machines (TensorFlow 2.21's list of its operators; `tests/hostile` holds
# this against the version that is installed: whatever takes a file's name, a path or an address is here), and those
# that run a program which they are given as a text, where this check does not see it.
EFFECTS = re.compile(
    r"ReadFile|WriteFile|MatchingFiles|RecordInput|DumpTensor|Skipgram|FileSystemSetConfiguration|RemoteCall|"
    r"FixedUnigramCandidateSampler|LoadAndRemapMatrix|GenerateVocabRemapping|CalibrationStatisticsSaver|"
    r"InitializeTableFromTextFile(V2)?|\w*PyFunc\w*|Rpc\w+|Save|SaveSlices|Restore|RestoreSlice|DTensorRestoreV2|"
    r"DistributedSave|(Identity|WholeFile|TextLine|TFRecord|FixedLengthRecord|LMDB|SnapshotDataset|"
    r"SnapshotNestedDataset)Reader(V2)?|"
    r"\w*(TextLine|TFRecord|FixedLengthRecord|CSV|Sql|LMDB|Snapshot|SnapshotChunk|ListSnapshotChunks|Load|Save|Cache|"
    r"MatchingFiles|DataService|Register)Dataset(V\d)?|RegisterDataset(V2)?|ListSnapshotChunksDataset|"
    r"\w*DatasetToTFRecord|\w*SummaryWriter|CreateSummary(File|Db)Writer|ImportEvent|Write\w*Summary|"
    r"Debug(Identity|NanCount|NumericSummary)(V\d)?|Copy|CopyHost|"
    r"DatasetFromGraph|MlirPassthroughOp|XlaCallModule|_TPUCompileMlir|_XlaHostComputeMlir"
)
# What a checkpoint is written and read with: the saver's, which nothing else may call. TensorFlow 1's loader runs what
# the saver reads it with.
_WRITERS = {"SaveV2", "MergeV2Checkpoints"}
_SAVERS = {*_WRITERS, "RestoreV2"}
# Numbers that one constant may stand for: TensorFlow makes them all of a single one that is written. 1 GiB as float32.
MAX_CONSTANT = 1 << 28
# Variables may claim what the checkpoint beside them holds, and so much that is never saved, as seeds.
FREE_VARIABLES = 1 << 24
_GRAPH = "saved_model.pb"
# Protocol buffers hold no more (protobuf.dev, "Proto limits").
_MAX_BYTES = 2**31 - 1

# What runs as one: ("function", its name), or ("node", its name) of the graph that is in no function.
_Place = tuple[str, str]


def check(folder: Path) -> None:
    """Refuse a SavedModel whose graph reaches beyond itself, or claims more than it holds.

    Raises:
        ValueError: an operator of `EFFECTS`, a saver's where it is called, an asset or a link that leads out, or
            constants and variables of absurd shapes; or no SavedModel.
        OSError: it cannot be read.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    path = folder / _GRAPH
    if not path.exists():
        raise ValueError(f"there is no {_GRAPH} in it")
    stays_inside(folder, folder)
    if (size := regular(path)) > _MAX_BYTES:
        raise ValueError(f"{_GRAPH} has {size:,} bytes; at most {_MAX_BYTES:,} can be read")
    try:
        model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    except DecodeError as error:
        raise ValueError(f"{_GRAPH} is none ({error})") from None
    # What lies on the disk, as a file may claim more: in blocks of 512 bytes (stat(2)).
    held = sum(each.stat().st_blocks * 512 for each in (folder / "variables").glob("*")) // 4 + FREE_VARIABLES
    # As TensorFlow's loader tells what is made of objects from what a session of TensorFlow 1 runs.
    objects = len(model.meta_graphs) == 1 and model.meta_graphs[0].HasField("object_graph_def")
    for graph in model.meta_graphs:
        _check_graph(graph, held, objects)


def _check_graph(graph: Any, held: int, objects: bool) -> None:
    places = _places(graph.graph_def)
    for (kind, name), nodes in places.items():
        for node in nodes:
            if node.op == vocabularies.OPERATOR and objects and kind == "function":
                if len(node.input) < 2 or not vocabularies.is_asset(graph, name, node.input[1]):
                    raise ValueError(
                        f"the operator {node.name[:200]} ({node.op}) reads a file that is not surely an asset; "
                        "allowed: one of the model's own, which its initialiser is given"
                    )
            else:
                _check_node(node)
    saves, restores = (
        _reached(places, [("node", _node(name))])
        for name in (graph.saver_def.save_tensor_name, graph.saver_def.restore_op_name)
    )
    others = {place for place in places if place[0] == "function"} - saves - restores
    _forbid(_SAVERS, places, _reached(places, [*others, *_named(graph)]))
    _forbid(_WRITERS, places, restores)
    for asset in graph.asset_file_def:
        if leads_out(asset.filename):
            raise ValueError(f"its asset {asset.filename[:200]!r} leads out of it")
    for saved in graph.object_graph_def.nodes:
        sizes = [dim.size for dim in saved.variable.shape.dim]
        if _values(sizes) > held:
            raise ValueError(
                f"its variable {saved.variable.name[:200]} has the shape {sizes}, more values than the checkpoint holds"
            )


def _check_node(node: Any) -> None:
    if EFFECTS.fullmatch(node.op) or _names_a_file(node):
        raise ValueError(
            f"the operator {node.name[:200]} ({node.op}) reaches files, Python or other machines; a model that only "
            "computes is loaded"
        )
    for attribute in node.attr.values():
        for tensor in (attribute.tensor, *attribute.list.tensor):
            sizes = [dim.size for dim in tensor.tensor_shape.dim]
            if _values(sizes) > MAX_CONSTANT:
                raise ValueError(
                    f"the constant {node.name[:200]} has the shape {sizes}; at most {MAX_CONSTANT} values are made"
                )


def _names_a_file(node: Any) -> bool:
    """Whether an attribute that may be a file's name is one."""
    if node.op == "PrintV2":
        return bool(node.attr["output_stream"].s.startswith(b"file:"))
    described = node.attr["descriptor_source"].s if "descriptor_source" in node.attr else b""
    return not (described in {b"", b"local://"} or described.startswith(b"bytes://"))


def _values(sizes: list[int]) -> int:
    return math.prod(max(size, 1) for size in sizes)


def _forbid(operators: set[str], places: dict[_Place, list[Any]], reached: set[_Place]) -> None:
    for node in (node for place in reached for node in places[place]):
        if node.op in operators:
            raise ValueError(f"the operator {node.name[:200]} ({node.op}) reads or writes a file when the model runs")


def _places(graph: Any) -> dict[_Place, list[Any]]:
    """The nodes of each function, and those that are in none, each on its own."""
    places: dict[_Place, list[Any]] = {}
    for function in graph.library.function:
        places.setdefault(("function", function.signature.name), []).extend(function.node_def)
    for node in graph.node:
        places.setdefault(("node", node.name), []).append(node)
    return places


def _named(graph: Any) -> Iterator[_Place]:
    """What runs when a model is loaded or asked: in the graph of its signatures, and its objects' functions."""
    for signature in graph.signature_def.values():
        for tensor in (*signature.inputs.values(), *signature.outputs.values()):
            yield from (("node", _node(name)) for name in _names(tensor))
    for collection in graph.collection_def.values():
        yield from (("node", _node(name)) for name in collection.node_list.value)
    yield from (("function", name) for name in graph.object_graph_def.concrete_functions)
    for saved in graph.object_graph_def.nodes:
        yield "function", saved.bare_concrete_function.concrete_function_name
        yield from (("function", name) for name in saved.function.concrete_functions)
    yield from (("function", each.gradient_func) for each in graph.graph_def.library.gradient)


def _names(tensor: Any) -> Iterator[str]:
    """The tensors that a signature's is made of: itself, or those of a sparse one or of a composite one."""
    sparse = tensor.coo_sparse
    yield from (
        tensor.name,
        sparse.values_tensor_name,
        sparse.indices_tensor_name,
        sparse.dense_shape_tensor_name,
    )
    for part in tensor.composite_tensor.components:
        yield from _names(part)


def _reached(places: dict[_Place, list[Any]], roots: Iterable[_Place]) -> set[_Place]:
    """The places that run when others do."""
    reached: set[_Place] = set()
    waiting = list(roots)
    while waiting:
        place = waiting.pop()
        if place in reached or place not in places:
            continue
        reached.add(place)
        for node in places[place]:
            waiting += [("function", name) for name in vocabularies.functions_of(node)]
            if place[0] == "node":
                waiting += [("node", _node(name)) for name in node.input]
    return reached


def _node(tensor: str) -> str:
    """The name of the node that a tensor, or a control input, comes from."""
    return tensor.removeprefix("^").partition(":")[0]
