"""ONNX graphs as torch modules, so that what is trained in torch can be an ONNX model.

`graph.py` reads a model into plain data and refuses what it does not know, `roles.py` says which tensors are
weights, `module.py` runs a graph. All other modules are operators, one function each, by name in `table.py`:
`function(node, *inputs)` with None for inputs that are left out, returning a tensor or a tuple of them.

Everything runs in float32 (doubles stay doubles, half floats become floats); uint16 is held in int32, uint32
and uint64 in int64, as torch lacks most of their arithmetic. Needs opset 7 or later, whose operators
broadcast.
"""

from frconvert.torch_graph.module import GraphModule, module_of, module_of_graph
from frconvert.torch_graph.table import OPERATORS, find

__all__ = ["OPERATORS", "GraphModule", "find", "module_of", "module_of_graph"]
