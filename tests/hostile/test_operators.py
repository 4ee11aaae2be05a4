"""The lists of operators that reach beyond a model, held against the frameworks that are installed."""

from __future__ import annotations

import re

import torch
import torch.onnx  # registers more of them

from components.earthengine.untrusted import saved_model, torchscript

# Operators of TensorFlow whose argument is named like a file's, and is none.
_HARMLESS = {"TensorSliceDataset", "CTCBeamSearchDecoder"}
_SAVERS = {"SaveV2", "RestoreV2", "MergeV2Checkpoints"}


def test_every_operator_of_pytorch_that_takes_a_name_of_a_file() -> None:
    reaching = set()
    for schema in torch._C._jit_get_all_schemas():
        namespace, _, name = schema.name.partition("::")
        words = {argument.name for argument in schema.arguments if "str" in str(argument.type)}
        if any(re.search(r"file|path|url|address|group_name", word) for word in words) or "rpc" in name:
            reaching.add((namespace, name.partition(".")[0]))
    assert ("aten", "save") in reaching
    assert {each for each in reaching if not torchscript.EFFECTS & set(each)} == set()


def test_every_operator_of_tensorflow_that_takes_a_name_of_a_file_or_a_program() -> None:
    from tensorflow.core.framework.op_def_pb2 import OpList
    from tensorflow.python.client import pywrap_tf_session

    operators = OpList.FromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList())).op
    named = re.compile(r"file(name)?s?$|_file|path|url|address|directory|^prefix|ckpt|graph_def|module$", re.IGNORECASE)
    reaching = {
        each.name
        for each in operators
        if any(named.search(argument.name) for argument in (*each.input_arg, *each.attr)) or "PyFunc" in each.name
    }
    assert {"ReadFile", "WriteFile", "EagerPyFunc"} <= reaching
    unknown = {name for name in reaching if not saved_model.EFFECTS.fullmatch(name)}
    assert unknown - _SAVERS == _HARMLESS
