"""Running a torch module op by op, beside itself with other weights.

The module runs over each batch in two strands, one with its own weights and one with refined ones. Strands
stop at every operation that uses a tensor of interest, hand over what goes in, and go on when they are told,
so that weights may be decided between the two. Operations are seen below autograd, as they reach the
backend: whatever way a module calls its layers, its weights are recognised by the memory they are in.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode

from frconvert.distill.layers import (
    CONVOLUTION,
    LINEAR,
    LOOKUP,
    TRANSPOSED,
    TRANSPOSED_CONVOLUTION,
    Norm,
    Use,
)
from frconvert.errors import UsageError

Values = dict[str, NDArray[Any]]

_aten = torch.ops.aten

# Samples that `outputs` runs, and about how many values they have together.
_LEAST_SAMPLES, _MOST_SAMPLES, _SAMPLED_VALUES = 8, 64, 1 << 18


@dataclass(slots=True)
class Call:
    """An operation about to run: what uses which tensors, its inputs, and how to run it."""

    use: Use | Norm
    inputs: Any
    run: Callable[[dict[str, torch.Tensor]], torch.Tensor]  # replacements by name -> output


class _Watch(TorchDispatchMode):  # type: ignore[misc]
    """Recognises weights in operations and hands such calls to `report`."""

    def __init__(self, names: dict[int, tuple[str, torch.Tensor]], report: Callable[[Call], Any]) -> None:
        super().__init__()
        self._names, self._report = names, report

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        call = self._recognise(func, args, kwargs)
        if call is None:
            return func(*args, **kwargs)
        return self._report(call)

    def _name(self, value: Any) -> tuple[str, torch.Tensor] | None:
        if not isinstance(value, torch.Tensor):
            return None
        return self._names.get(value.untyped_storage().data_ptr())

    def _whole(self, value: Any) -> str | None:
        found = self._name(value)
        return (
            found[0]
            if found and found[1].shape == value.shape and found[1].stride() == value.stride()
            else None
        )

    def _recognise(self, func: Any, args: Any, kwargs: Any) -> Call | None:
        packet = func.overloadpacket
        if packet in (_aten.addmm, _aten.mm):
            return self._matrix_product(func, args, kwargs, 1 if packet is _aten.addmm else 0)
        if packet is _aten.convolution:
            return self._convolution(func, args)
        if packet in (_aten.embedding, _aten.index, _aten.slice, _aten.select):
            return self._lookup(func, args, kwargs)
        if packet is _aten.native_layer_norm and self._whole(args[2]) and self._whole(args[3]):
            return self._norm(func, args, kwargs, (2, 3), -1)
        if "batch_norm" in str(packet) and len(args) > 4 and self._whole(args[1]) and self._whole(args[2]):
            return self._norm(func, args, kwargs, (1, 2), 1)
        return None

    def _lookup(self, func: Any, args: Any, kwargs: Any) -> Call | None:
        name = self._whole(args[0])
        if name is None or args[0].dim() < 2:
            return None
        packet = func.overloadpacket
        if packet is _aten.embedding:
            rows = args[1]
        elif packet is _aten.index:
            if len(args[1]) != 1 or args[1][0] is None:
                return None
            rows = args[1][0]
        elif args[1] != 0:  # along another axis
            return None
        elif packet is _aten.select:
            rows = torch.tensor([args[2] % len(args[0])])
        else:
            rows = torch.arange(len(args[0]))[slice(*args[2:5])]
        return Call(Use(name, LOOKUP), rows, lambda new: func(new.get(name, args[0]), *args[1:], **kwargs))

    def _norm(self, func: Any, args: Any, kwargs: Any, places: tuple[int, int], axis: int) -> Call:
        names = [self._whole(args[place]) for place in places]

        def run(new: dict[str, torch.Tensor]) -> Any:
            changed = list(args)
            for place, name in zip(places, names, strict=True):
                changed[place] = new.get(str(name), args[place])
            return func(*changed, **kwargs)

        return Call(Norm(str(names[0]), str(names[1]), axis), args[0], run)

    def _matrix_product(self, func: Any, args: Any, kwargs: Any, first: int) -> Call | None:
        left, right = args[first], args[first + 1]
        found = self._name(right)
        if found is None or found[1].dim() != 2:
            return None
        name, tensor = found
        if right.shape == tensor.shape and right.stride() == tensor.stride():
            kind = TRANSPOSED
        elif right.shape == tensor.shape[::-1] and right.stride() == tensor.stride()[::-1]:
            kind = LINEAR
        else:
            return None
        bias = self._whole(args[0]) if first else None

        def run(new: dict[str, torch.Tensor]) -> Any:
            weight = new.get(name, tensor)
            weight = weight if kind == TRANSPOSED else weight.t()
            start = (new.get(bias, args[0]) if bias else args[0],) if first else ()
            return func(*start, left, weight, **kwargs)

        return Call(Use(name, kind, bias), left, run)

    def _convolution(self, func: Any, args: Any) -> Call | None:
        name = self._whole(args[1])
        if name is None:
            return None
        bias = self._whole(args[2]) if args[2] is not None else None
        stride, padding, dilation, transposed, extra, groups = args[3:9]
        rank = args[1].dim() - 2
        stride, padding, dilation, extra = (
            tuple(part) * rank if len(part) == 1 else tuple(part)
            for part in (stride, padding, dilation, extra)
        )
        pads = tuple((p, p - (e if transposed else 0)) for p, e in zip(padding, extra, strict=True))

        def run(new: dict[str, torch.Tensor]) -> Any:
            vector = args[2] if bias is None else new.get(bias, args[2])
            return func(args[0], new.get(name, args[1]), vector, *args[3:])

        kind = TRANSPOSED_CONVOLUTION if transposed else CONVOLUTION
        return Call(Use(name, kind, bias, groups, stride, pads, dilation), args[0], run)


class Strand:
    """One forward pass that stops at every recognised call."""

    def __init__(
        self,
        module: Callable[..., Any],
        inputs: Sequence[torch.Tensor],
        names: dict[int, tuple[str, torch.Tensor]],
    ) -> None:
        self.output: Any = None
        self._error: BaseException | None = None
        self._call: Call | None = None
        self._new: dict[str, torch.Tensor] = {}
        self._go, self._here = threading.Semaphore(0), threading.Semaphore(0)

        def report(call: Call) -> Any:
            self._call = call
            self._here.release()
            self._go.acquire()
            self._call = None
            return call.run(self._new)

        def body() -> None:
            self._go.acquire()
            try:
                with torch.no_grad(), _Watch(names, report):
                    self.output = module(*inputs)
            except BaseException as error:  # handed to the other thread
                self._error = error
            self._call = None
            self._here.release()

        self._thread = threading.Thread(target=body, daemon=True)
        self._thread.start()

    def advance(self, new: dict[str, torch.Tensor]) -> Call | None:
        """Runs the current call with these tensors and on to the next, which is returned; None at the end."""
        self._new = new
        self._go.release()
        self._here.acquire()
        if self._error is not None:
            raise self._error
        return self._call


class TorchRunner:
    """Runs a module over batches; see `closed_form.Runner`."""

    def __init__(
        self,
        module: torch.nn.Module,
        batches: Sequence[Sequence[torch.Tensor]],
        names: Mapping[str, str],
    ) -> None:
        """Takes a module in evaluation mode.

        Args:
            module: of floats on the processor.
            batches: of its inputs, by position.
            names: of its parameters -> of the tensors in the checkpoint.
        """
        self._module, self._batches = module, batches
        self.batches = len(batches)
        self._memory = {
            tensor.untyped_storage().data_ptr(): (names[name], tensor.detach())
            for name, tensor in module.named_parameters()
            if name in names
        }
        self._some = _some(batches)
        found = []
        with _plain_attention():
            first = Strand(module, self._some[0], self._memory)
            while (call := first.advance({})) is not None:
                found.append(call.use)
        self.uses = tuple(found)

    def walk(self, changed: Values | None) -> Iterator[Iterable[tuple[Any, Any]]]:
        """See `closed_form.Runner`."""
        with _plain_attention():
            yield from self._walk(changed)

    def _walk(self, changed: Values | None) -> Iterator[Iterable[tuple[Any, Any]]]:
        count = 1 if changed is None else 2
        strands = [
            [Strand(self._module, batch, self._memory) for _ in range(count)] for batch in self._batches
        ]
        for use in self.uses:
            pairs = self._pairs(use, strands, _as_tensors(changed))
            yield pairs
            for _ in pairs:  # those that nobody asked for: all strands must get here
                pass
        new = _as_tensors(changed)
        for own in strands:
            if any(call is not None for call in _advanced(own, new)):
                raise UsageError("the model does not run alike on all calibration data")

    def _pairs(
        self, use: Use | Norm, strands: list[list[Strand]], new: dict[str, torch.Tensor]
    ) -> Iterator[tuple[Any, Any]]:
        for own in strands:
            calls = _advanced(own, new)
            if any(call is None or call.use != use for call in calls):
                raise UsageError("the model does not run alike on all calibration data")
            values = [_values(call) for call in calls if call is not None]
            yield values[0], values[-1]

    def outputs(self, changed: Values) -> list[NDArray[Any]]:
        """See `closed_form.Runner`."""
        new = _as_tensors(changed)
        found = []
        for batch in self._some:
            with _plain_attention(), torch.no_grad(), _Watch(self._memory, lambda call: call.run(new)):
                result = self._module(*batch)
            found += [part.numpy().copy() for part in _tensors(result)]
        return found


def _some(batches: Sequence[Sequence[torch.Tensor]]) -> list[tuple[torch.Tensor, ...]]:
    """A few samples out of batches from everywhere."""
    size = sum(part[:1].numel() for part in batches[0])
    most = max(_LEAST_SAMPLES, min(_MOST_SAMPLES, _SAMPLED_VALUES // max(size, 1)))
    every = max(1, len(batches) // most)
    each = max(1, most * every // len(batches))
    return [tuple(part[:each] for part in batch) for batch in batches[::every]]


def _as_tensors(changed: Values | None) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values) for name, values in (changed or {}).items()}


def _advanced(strands: list[Strand], new: dict[str, torch.Tensor]) -> list[Call | None]:
    """The next calls of a batch's strands; only the second one has new tensors."""
    return [strand.advance(new if number else {}) for number, strand in enumerate(strands)]


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention layers as the operations that they are made of, not as one."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _values(call: Call) -> NDArray[Any]:
    """What a call is given; of a normalisation, what comes out of it with its own scale and shift."""
    if isinstance(call.use, Norm):
        with torch.no_grad():
            result = call.run({})
        return (result[0] if isinstance(result, tuple) else result).numpy()  # type: ignore[no-any-return]
    return call.inputs.numpy()  # type: ignore[no-any-return]


def _tensors(result: Any) -> Iterator[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        yield result
    elif isinstance(result, Mapping):
        for value in result.values():
            yield from _tensors(value)
    elif isinstance(result, list | tuple):
        for value in result:
            yield from _tensors(value)
