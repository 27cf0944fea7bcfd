"""Every operator against the test cases that the onnx package has for it."""

import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")

from frconvert.errors import UnsupportedError  # noqa: E402
from frconvert.torch_graph import OPERATORS, find, module_of_graph  # noqa: E402
from frconvert.torch_graph.types import dtype_of, to_torch  # noqa: E402

# Why these cases do not apply.
LEFT_OUT = {
    "test_bitwise_not_3d": "uint16 is held in int32",
    "test_not_2d": "opset 1",
    "test_not_3d": "opset 1",
    "test_not_4d": "opset 1",
    "test_resize_downsample_scales_cubic_align_corners": "onnxruntime takes the whole length, as here",
    "test_resize_downsample_scales_linear_align_corners": "onnxruntime takes the whole length, as here",
    "test_scan_sum": "opset 8",
    "test_training_dropout": "dropout works as in inference",
    "test_training_dropout_default": "dropout works as in inference",
    "test_training_dropout_default_mask": "dropout works as in inference",
    "test_training_dropout_mask": "dropout works as in inference",
}
NARROW = {"float16": (1e-3, 1e-3), "bfloat16": (1e-2, 1e-2)}  # results of float32 beside those: rtol, atol


def _nodes(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield from _nodes(attribute.g.node)


def _applies(case: Any) -> bool:
    """Whether all operators and types of a case are known here."""
    model = case.model
    functions = {(each.domain, each.name) for each in model.functions}
    nodes = [*_nodes(model.graph.node), *(node for each in model.functions for node in _nodes(each.node))]
    known = all(
        find(node.domain, node.op_type)
        or node.op_type == "Constant"
        or (node.domain, node.op_type) in functions
        for node in nodes
    )
    values = [*model.graph.input, *model.graph.output]
    if not known or any(value.type.WhichOneof("value") != "tensor_type" for value in values):
        return False
    types = [value.type.tensor_type.elem_type for value in values]
    types += [
        item.i for node in nodes for item in node.attribute if node.op_type == "Cast" and item.name == "to"
    ]
    try:
        return all(dtype_of(number) is not None for number in types)
    except UnsupportedError:
        return False


@cache
def _cases() -> dict[str, list[Any]]:
    """By the operator of the first node."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found: dict[str, list[Any]] = {}
        for case in collect_testcases(None):
            if _applies(case):
                found.setdefault(case.model.graph.node[0].op_type, []).append(case)
    return found


def _array(value: Any) -> np.ndarray:
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def _check(case: Any) -> None:
    module = module_of_graph(case.model)
    for inputs, expected in case.data_sets:
        with torch.no_grad():
            found = module(*(to_torch(_array(value)) for value in inputs))
        found = found if isinstance(found, tuple) else (found,)
        for ours, theirs in zip(found, map(_array, expected), strict=True):
            rtol, atol = NARROW.get(theirs.dtype.name, (case.rtol, max(case.atol, 1e-6)))
            assert ours.dtype == to_torch(theirs).dtype, case.name
            wide = theirs.astype(np.float64)
            assert tuple(ours.shape) == theirs.shape, case.name
            np.testing.assert_allclose(ours.numpy().astype(np.float64), wide, rtol, atol, err_msg=case.name)


# Not is in the models below; Scatter is the older name of ScatterElements.
WITHOUT_CASES = {"Not", "Scatter"}


@pytest.mark.parametrize("operator", sorted(set(OPERATORS) - WITHOUT_CASES))
def test_an_operator_gives_what_the_cases_of_onnx_expect(operator: str) -> None:
    cases = [case for case in _cases().get(operator, []) if case.name not in LEFT_OUT]
    assert cases
    for case in cases:
        _check(case)


def test_models_made_of_known_operators_give_what_is_expected() -> None:
    rest = [case for name, cases in _cases().items() if name not in OPERATORS for case in cases]
    assert len(rest) > 50
    for case in rest:
        if case.name not in LEFT_OUT:
            _check(case)


def test_of_the_cases_that_are_left_out_each_exists_and_fails() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        named = {case.name: case for cases in _cases().values() for case in cases}
    for name in LEFT_OUT:
        if name in named:
            with pytest.raises((AssertionError, UnsupportedError)):
                _check(named[name])
