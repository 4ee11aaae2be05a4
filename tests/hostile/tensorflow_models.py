"""Hostile directories of trained TensorFlow models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import h5py
import numpy as np
from google.protobuf.message import Message

from tests.hostile import contracts
from tests.hostile.corpus import hostile
from tests.hostile.zipped import bomb, rewrite, with_entry, with_link

KERAS, H5, FOLDER = "net.keras", "net.h5", "net"
Edit = Callable[[Any], object]


def _write(folder: Path, file: str) -> None:
    contracts.write(folder, framework="tensorflow", model={"file": file})


@cache
def _good() -> Path:
    """A folder with a good model in each form."""
    import keras
    import tensorflow as tf

    folder = Path(mkdtemp())
    model = keras.Sequential([keras.Input((None, None, 2)), keras.layers.Conv2D(1, 1, name="conv")])
    model.save(folder / KERAS)
    model.save(folder / H5)
    tf.saved_model.save(_Sum(), str(folder / FOLDER))
    return folder


def _Sum() -> Any:  # noqa: N802  a class, of a module that takes seconds to import
    import tensorflow as tf

    class Sum(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.scale = tf.Variable(1.0)

        @tf.function(input_signature=[tf.TensorSpec([None, None, None, 2], tf.float32)])  # type: ignore[untyped-decorator]
        def __call__(self, tiles: Any) -> Any:
            return tf.reduce_sum(tiles, -1) * self.scale

    return Sum()


def harmless(folder: Path) -> None:
    _write(folder, KERAS)
    shutil.copy(_good() / KERAS, folder / KERAS)


def _keras(folder: Path, edit: Edit) -> None:
    """A .keras whose config is edited."""

    def changed(name: str, content: bytes) -> bytes:
        if name != "config.json":
            return content
        config = json.loads(content)
        edit(config)
        return json.dumps(config).encode()

    _write(folder, KERAS)
    rewrite(_good() / KERAS, folder / KERAS, changed)


def _h5(folder: Path, edit: Edit) -> None:
    """A .h5 that is edited."""
    _write(folder, H5)
    shutil.copy(_good() / H5, folder / H5)
    with h5py.File(folder / H5, "r+") as file:
        edit(file)


def _h5_config(folder: Path, edit: Edit) -> None:
    def edited(file: h5py.File) -> None:
        config = json.loads(file.attrs["model_config"])
        edit(config)
        file.attrs["model_config"] = json.dumps(config)

    _h5(folder, edited)


def _layer(module: str, class_name: str, **config: Any) -> Edit:
    layer = {"module": module, "class_name": class_name, "config": config, "registered_name": None}
    return lambda whole: whole["config"]["layers"].append(layer)


def _lambda(mark: Path) -> dict[str, Any]:
    """A Lambda layer's function: Python's own code in base64."""
    import keras

    function = eval(f"lambda x: open({str(mark)!r}, 'w') and x")  # noqa: S307
    return {
        "class_name": "__lambda__",
        "config": dict(
            zip(("code", "defaults", "closure"), keras.src.utils.python_utils.func_dump(function), strict=True)
        ),
    }


@hostile("tensorflow", "Lambda")
def keras_lambda(folder: Path, mark: Path) -> None:
    _keras(folder, _layer("keras.layers", "Lambda", name="l", function=_lambda(mark)))


@hostile("tensorflow", "Lambda")
def h5_lambda(folder: Path, mark: Path) -> None:
    function = list(_lambda(mark)["config"].values())
    _h5_config(folder, _layer("keras.layers", "Lambda", name="l", function=function, function_type="lambda"))


@hostile("tensorflow", "cannot be loaded")
def keras_of_another_module(folder: Path, mark: Path) -> None:
    _keras(folder, lambda whole: whole.update(module="os", class_name="system", config=f"touch {mark}"))


@hostile("tensorflow", "cannot be loaded")
def keras_of_a_registered_name(folder: Path, mark: Path) -> None:
    _keras(
        folder,
        lambda whole: whole.update(
            module="builtins", class_name="function", config=f"touch {mark}", registered_name="os.system"
        ),
    )


@hostile("tensorflow", "cannot be loaded")
def keras_that_fetches(folder: Path, mark: Path) -> None:
    _keras(folder, _layer("keras.utils", "get_file", fname=str(mark), origin="file:///etc/passwd"))


@hostile("tensorflow", "SavedModel")
def keras_with_a_saved_model_of_elsewhere(folder: Path, mark: Path) -> None:
    _keras(folder, _layer("keras.layers", "TFSMLayer", filepath=str(_good() / FOLDER)))


@hostile("tensorflow", "SavedModel")
def h5_with_a_saved_model_of_elsewhere(folder: Path, mark: Path) -> None:
    _h5_config(folder, _layer("keras.layers", "TFSMLayer", filepath=str(_good() / FOLDER)))


@hostile("tensorflow", "cannot be loaded")
def keras_that_reads_a_file(folder: Path, mark: Path) -> None:
    _keras(folder, _layer("keras.layers", "StringLookup", name="s", vocabulary="/etc/passwd"))


@hostile("tensorflow", "cannot be loaded")
def h5_that_reads_a_file(folder: Path, mark: Path) -> None:
    _h5_config(folder, _layer("keras.layers", "StringLookup", name="s", vocabulary="/etc/passwd"))


@hostile("tensorflow", "claim .* weights")
def keras_of_terabytes(folder: Path, mark: Path) -> None:
    _keras(folder, lambda whole: whole["config"]["layers"][1]["config"].update(filters=10**12))


@hostile("tensorflow", "claim .* weights")
def keras_of_gigabytes(folder: Path, mark: Path) -> None:
    """What a machine has, so that no allocator refuses it."""
    _keras(folder, lambda whole: whole["config"]["layers"][1]["config"].update(filters=10**8))


@hostile("tensorflow", "claim .* weights")
def h5_of_terabytes(folder: Path, mark: Path) -> None:
    _h5_config(folder, lambda whole: whole["config"]["layers"][1]["config"].update(filters=10**12))


@hostile("tensorflow", "too deep")
def keras_of_depth(folder: Path, mark: Path) -> None:
    _write(folder, KERAS)
    deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    rewrite(_good() / KERAS, folder / KERAS, lambda name, content: deep if name == "config.json" else content)


@hostile("tensorflow", "leads out of the archive")
def keras_traversal(folder: Path, mark: Path) -> None:
    _write(folder, KERAS)
    with_entry(_good() / KERAS, folder / KERAS, "assets/../../marker")


@hostile("tensorflow", "is a link")
def keras_link(folder: Path, mark: Path) -> None:
    _write(folder, KERAS)
    with_link(_good() / KERAS, folder / KERAS, "assets", "/etc")


@hostile("tensorflow", "times the archive's")
def keras_bomb(folder: Path, mark: Path) -> None:
    _write(folder, KERAS)
    bomb(folder / KERAS, "model.weights.h5", 256, {"config.json": b"{}", "metadata.json": b"{}"})


@hostile("tensorflow", "at most 16,777,216 are read")
def keras_config_bomb(folder: Path, mark: Path) -> None:
    _write(folder, KERAS)
    bomb(folder / KERAS, "config.json", 32)


def _kernel(file: h5py.File) -> str:
    found: list[str] = []
    file.visit(lambda name: found.append(name) if name.endswith("/kernel") else None)
    return found[0]


@hostile("tensorflow", "link to another file")
def h5_link(folder: Path, mark: Path) -> None:
    def edit(file: h5py.File) -> None:
        name = _kernel(file)
        del file[name]
        file[name] = h5py.ExternalLink("/etc/other.h5", "k")

    _h5(folder, edit)


@hostile("tensorflow", "lie in another file")
def h5_values_of_another_file(folder: Path, mark: Path) -> None:
    def edit(file: h5py.File) -> None:
        name = _kernel(file)
        del file[name]
        file.create_dataset(name, (1, 1, 2, 1), "f4", external=[("/etc/passwd", 0, 8)])

    _h5(folder, edit)


@hostile("tensorflow", "lie in another file")
def h5_virtual_values(folder: Path, mark: Path) -> None:
    def edit(file: h5py.File) -> None:
        name = _kernel(file)
        del file[name]
        layout = h5py.VirtualLayout((1, 1, 2, 1), "f4")
        layout[...] = h5py.VirtualSource("/etc/other.h5", "k", (1, 1, 2, 1))
        file.create_virtual_dataset(name, layout)

    _h5(folder, edit)


@hostile("tensorflow", "claims .* bytes of shape")
def h5_dataset_of_terabytes(folder: Path, mark: Path) -> None:
    """Of which none is written."""

    def edit(file: h5py.File) -> None:
        name = _kernel(file)
        del file[name]
        file.create_dataset(name, (10**6, 10**6), "f4", chunks=(1000, 1000))

    _h5(folder, edit)


@hostile("tensorflow", "claims .* bytes of shape")
def keras_dataset_of_terabytes(folder: Path, mark: Path) -> None:
    weights = folder / "weights"
    with h5py.File(weights, "w") as file:
        file.create_dataset("layers/conv/vars/0", (10**6, 10**6), "f4", chunks=(1000, 1000))
    content = weights.read_bytes()
    weights.unlink()
    _write(folder, KERAS)
    rewrite(_good() / KERAS, folder / KERAS, lambda name, old: content if name.endswith(".h5") else old)


# What a SavedModel's graph may do.


def _saved(folder: Path, model: Any) -> None:
    import tensorflow as tf

    _write(folder, FOLDER)
    tf.saved_model.save(model, str(folder / FOLDER))


def _acting(act: Callable[[Any], object]) -> Any:
    """A module that acts when it is asked."""
    import tensorflow as tf

    class Acts(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec([None, None, None, 2], tf.float32)])  # type: ignore[untyped-decorator]
        def __call__(self, tiles: Any) -> Any:
            act(tiles)
            return tf.reduce_sum(tiles, -1)

    return Acts()


@hostile("tensorflow", "WriteFile.*reaches files")
def saved_model_that_writes(folder: Path, mark: Path) -> None:
    import tensorflow as tf

    _saved(folder, _acting(lambda _: tf.io.write_file(str(mark), "x")))


@hostile("tensorflow", "ReadFile.*reaches files")
def saved_model_that_reads(folder: Path, mark: Path) -> None:
    import tensorflow as tf

    _saved(folder, _acting(lambda _: tf.debugging.assert_equal(tf.io.read_file("/etc/hostname"), "x")))


@hostile("tensorflow", "PyFunc.*reaches files")
def saved_model_that_calls_python(folder: Path, mark: Path) -> None:
    import tensorflow as tf

    _saved(folder, _acting(lambda tiles: tf.py_function(lambda _: mark.touch(), [tiles], [])))


@hostile("tensorflow", "PrintV2.*reaches files")
def saved_model_that_prints_to_a_file(folder: Path, mark: Path) -> None:
    import tensorflow as tf

    _saved(folder, _acting(lambda _: tf.print("x", output_stream=f"file://{mark}")))


@hostile("tensorflow", "SaveV2.*reads or writes a file")
def saved_model_that_saves(folder: Path, mark: Path) -> None:
    import tensorflow as tf

    _saved(
        folder,
        _acting(
            lambda tiles: tf.raw_ops.SaveV2(
                prefix=str(mark), tensor_names=["t"], shape_and_slices=[""], tensors=[tiles]
            )
        ),
    )


@hostile("tensorflow", "WriteFile.*reaches files")
def saved_model_that_writes_in_a_branch(folder: Path, mark: Path) -> None:
    import tensorflow as tf

    def act(tiles: Any) -> None:
        tf.cond(tf.reduce_sum(tiles) > 0, lambda: tf.io.write_file(str(mark), "x"), tf.no_op)

    _saved(folder, _acting(act))


@hostile("tensorflow", "WriteFile.*reaches files")
def saved_model_that_writes_when_loaded(folder: Path, mark: Path) -> None:
    import tensorflow as tf
    from tensorflow.python.trackable.resource import CapturableResource

    class Resource(CapturableResource):  # type: ignore[misc]
        def _create_resource(self) -> Any:
            return tf.raw_ops.MutableHashTableV2(key_dtype=tf.string, value_dtype=tf.int64)

        def _initialize(self) -> Any:
            tf.io.write_file(str(mark), "x")
            return tf.constant(1)

    model = _Sum()
    model.resource = Resource()
    _saved(folder, model)
    mark.unlink(missing_ok=True)


def _edited(folder: Path, edit: Callable[[Any], object]) -> None:
    """A good SavedModel whose graph is edited."""
    _write(folder, FOLDER)
    shutil.copytree(_good() / FOLDER, folder / FOLDER)
    _edit_graph(folder / FOLDER / "saved_model.pb", edit)


def _edit_graph(path: Path, edit: Edit) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    model: Message = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    edit(model.meta_graphs[0])  # type: ignore[attr-defined]
    path.write_bytes(model.SerializeToString())


@hostile("tensorflow", r"the constant .* has the shape \[1000000, 1000000\]")
def saved_model_with_a_constant_of_terabytes(folder: Path, mark: Path) -> None:
    """Of one number, written once."""

    def edit(graph: Any) -> None:
        node = graph.graph_def.library.function[0].node_def.add(name="huge", op="Const")
        node.attr["dtype"].type = 1
        tensor = node.attr["value"].tensor
        tensor.dtype = 1
        tensor.float_val.append(1)
        for _ in range(2):
            tensor.tensor_shape.dim.add(size=10**6)

    _edited(folder, edit)


@hostile("tensorflow", "more values than the checkpoint holds")
def saved_model_with_a_variable_of_terabytes(folder: Path, mark: Path) -> None:
    def edit(graph: Any) -> None:
        for node in graph.object_graph_def.nodes:
            if node.HasField("variable"):
                for _ in range(2):
                    node.variable.shape.dim.add(size=10**6)

    _edited(folder, edit)


@hostile("tensorflow", "asset .* leads out")
def saved_model_with_an_asset_outside(folder: Path, mark: Path) -> None:
    _edited(folder, lambda graph: graph.asset_file_def.add(filename="../../../etc/passwd"))


@hostile("tensorflow", "leads out of the directory by a link")
def saved_model_with_a_link(folder: Path, mark: Path) -> None:
    _write(folder, FOLDER)
    shutil.copytree(_good() / FOLDER, folder / FOLDER)
    shutil.rmtree(folder / FOLDER / "variables")
    (folder / FOLDER / "variables").symlink_to(_good() / FOLDER / "variables")


@hostile("tensorflow", "is none|cannot be loaded")
def saved_model_of_noise(folder: Path, mark: Path) -> None:
    _write(folder, FOLDER)
    (folder / FOLDER).mkdir()
    (folder / FOLDER / "saved_model.pb").write_bytes(np.random.default_rng(0).bytes(10_000))


@hostile("tensorflow", "does not exist")
def saved_model_that_is_a_dangling_link(folder: Path, mark: Path) -> None:
    _write(folder, FOLDER)
    (folder / FOLDER).mkdir()
    (folder / FOLDER / "saved_model.pb").symlink_to("nowhere")


def _writing_graph(mark: Path) -> bytes:
    """A graph of a dataset that writes a file, as a text."""
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        with tf.control_dependencies([tf.io.write_file(str(mark), "x")]):
            stop = tf.constant(3, tf.int64)
        tf.data.Dataset.range(stop)._variant_tensor  # noqa: B018
    definition = graph.as_graph_def()
    (dataset,) = (node.name for node in definition.node if node.op == "RangeDataset")
    node = definition.node.add(name="answer", op="_Retval", input=[dataset])
    node.attr["T"].type = tf.variant.as_datatype_enum
    node.attr["index"].i = 0
    return bytes(definition.SerializeToString())


@hostile("tensorflow", "DatasetFromGraph.*reaches files")
def saved_model_that_runs_a_graph_of_a_text(folder: Path, mark: Path) -> None:
    import tensorflow as tf

    def act(_: Any) -> None:
        dataset = tf.raw_ops.DatasetFromGraph(graph_def=tf.constant(_writing_graph(mark)))
        tf.debugging.assert_equal(tf.raw_ops.DatasetCardinality(input_dataset=dataset), tf.constant(3, tf.int64))

    _saved(folder, _acting(act))


@hostile("tensorflow", "DecodeProtoV2.*reaches files")
def saved_model_that_reads_descriptions(folder: Path, mark: Path) -> None:
    import tensorflow as tf

    def act(_: Any) -> None:
        tf.io.decode_proto([b""], "a.B", ["c"], [tf.int64], descriptor_source="/etc/passwd")

    _saved(folder, _acting(act))


def _saved_by_a_session(folder: Path, mark: Path, signed: Callable[[Any, Any], Any], edit: Edit) -> None:
    """TensorFlow 1's SavedModel that may save a file: by its signature, of tiles and of what saves, or by an edit."""
    import tensorflow as tf

    tf1 = tf.compat.v1
    _write(folder, FOLDER)
    with tf.Graph().as_default():
        tiles = tf1.placeholder(tf.float32, [None, None, None, 2])
        save = tf.raw_ops.SaveV2(
            prefix=tf.constant(str(mark)), tensor_names=["a"], shape_and_slices=[""], tensors=[tf.constant([1.0])]
        )
        with tf.control_dependencies([save]):
            saved = tf.constant([1.0], name="saved") + 0
        outputs = {"y": tf.reduce_sum(tiles, 3)} | signed(tf, saved)
        with tf1.Session() as session:
            scale = tf1.get_variable("scale", initializer=1.0)
            session.run(scale.initializer)
            builder = tf1.saved_model.Builder(str(folder / FOLDER))
            info = tf1.saved_model.build_tensor_info
            signature = tf1.saved_model.build_signature_def(
                {"tiles": info(tiles)}, {name: info(each) for name, each in outputs.items()}
            )
            builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
            builder.save()
    _edit_graph(folder / FOLDER / "saved_model.pb", edit)


@hostile("tensorflow", "SaveV2.*reads or writes a file")
def saved_model_that_saves_for_a_sparse_output(folder: Path, mark: Path) -> None:
    def signed(tf: Any, saved: Any) -> Any:
        return {"z": tf.SparseTensor(tf.constant([[0]], tf.int64), saved, tf.constant([1], tf.int64))}

    _saved_by_a_session(folder, mark, signed, lambda _: None)


@hostile("tensorflow", "SaveV2.*reads or writes a file")
def saved_model_that_saves_for_a_composite_output(folder: Path, mark: Path) -> None:
    def signed(tf: Any, saved: Any) -> Any:
        return {"z": tf.RaggedTensor.from_row_lengths(saved, tf.constant([1], tf.int64))}

    _saved_by_a_session(folder, mark, signed, lambda _: None)


@hostile("tensorflow", "SaveV2.*reads or writes a file")
def saved_model_that_saves_when_restored(folder: Path, mark: Path) -> None:
    def edit(graph: Any) -> None:
        (restore,) = (node for node in graph.graph_def.node if node.name == graph.saver_def.restore_op_name)
        (save,) = (node for node in graph.graph_def.node if node.op == "SaveV2" and not node.name.startswith("save/"))
        restore.input.append(f"^{save.name}")

    _saved_by_a_session(folder, mark, lambda *_: {}, edit)


def with_vocabulary(folder: Path) -> None:
    """A harmless model that looks words up in a file of its own."""
    import tensorflow as tf

    words = Path(mkdtemp()) / "words.txt"
    words.write_text("a\nb\n")
    index = tf.lookup.TextFileIndex
    source = tf.lookup.TextFileInitializer(str(words), tf.string, index.WHOLE_LINE, tf.int64, index.LINE_NUMBER)

    class Looks(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.table = tf.lookup.StaticHashTable(source, -1)

        @tf.function(input_signature=[tf.TensorSpec([None, None, None, 2], tf.float32)])  # type: ignore[untyped-decorator]
        def __call__(self, tiles: Any) -> Any:
            return tf.reduce_sum(tiles, -1) + tf.cast(self.table.lookup(tf.constant("b")), tf.float32)

    _saved(folder, Looks())
    words.unlink()


@hostile("tensorflow", "InitializeTableFromTextFileV2.*not surely an asset")
def saved_model_with_the_words_of_another_file(folder: Path, mark: Path) -> None:
    with_vocabulary(folder)

    def edit(graph: Any) -> None:
        (function,) = (
            each
            for each in graph.graph_def.library.function
            if any(node.op == "InitializeTableFromTextFileV2" for node in each.node_def)
        )
        (node,) = (each for each in function.node_def if each.op == "InitializeTableFromTextFileV2")
        other = function.node_def.add(name="other", op="Const")
        other.attr["dtype"].type = other.attr["value"].tensor.dtype = 7
        other.attr["value"].tensor.string_val.append(b"/etc/passwd")
        other.attr["value"].tensor.tensor_shape.SetInParent()
        node.input[1] = "other:output:0"

    _edit_graph(folder / FOLDER / "saved_model.pb", edit)


@hostile("tensorflow", "InitializeTableFromTextFileV2.*not surely an asset")
def saved_model_whose_words_are_bound_to_another_file(folder: Path, mark: Path) -> None:
    with_vocabulary(folder)

    def edit(graph: Any) -> None:
        objects = graph.object_graph_def
        objects.nodes.add().constant.operation = "other"
        for function in objects.concrete_functions.values():
            for place, bound in enumerate(function.bound_inputs):
                if objects.nodes[bound].WhichOneof("kind") == "asset":
                    function.bound_inputs[place] = len(objects.nodes) - 1
        other = graph.graph_def.node.add(name="other", op="Const")
        other.attr["dtype"].type = other.attr["value"].tensor.dtype = 7
        other.attr["value"].tensor.string_val.append(b"/etc/passwd")

    _edit_graph(folder / FOLDER / "saved_model.pb", edit)


@hostile("tensorflow", "InitializeTableFromTextFileV2.*not surely an asset")
def saved_model_that_looks_words_up_elsewhere(folder: Path, mark: Path) -> None:
    """What fills the table from an asset is called once more, with another path."""
    with_vocabulary(folder)

    def edit(graph: Any) -> None:
        functions = graph.graph_def.library.function
        (fills,) = (
            each for each in functions if any(node.op == "InitializeTableFromTextFileV2" for node in each.node_def)
        )
        asks = next(each for each in functions if "__call__" in each.signature.name)
        call = asks.node_def.add(name="once_more", op="StatefulPartitionedCall", input=["elsewhere:output:0"] * 2)
        call.attr["f"].func.name = fills.signature.name

    _edit_graph(folder / FOLDER / "saved_model.pb", edit)


@hostile("tensorflow", "more values than the checkpoint holds")
def saved_model_with_a_checkpoint_of_holes(folder: Path, mark: Path) -> None:
    """A file that claims terabytes, of which none is written."""

    def edit(graph: Any) -> None:
        for node in graph.object_graph_def.nodes:
            if node.HasField("variable"):
                node.variable.shape.dim.add(size=10**9)

    _edited(folder, edit)
    with (folder / FOLDER / "variables" / "variables.data-00000-of-00001").open("r+b") as file:
        file.truncate(10**12)
