"""Weights as matrices times columns are what layers compute, and Gram matrices follow the DCT."""

import numpy as np
import pytest
from scipy import fft

from frconvert.distill import layers
from frconvert.distill.layers import CONVOLUTION, LINEAR, TRANSPOSED, TRANSPOSED_CONVOLUTION, Use

torch = pytest.importorskip("torch")
RANDOM = np.random.default_rng(0)

CONVOLUTIONS = [
    {"groups": 1, "stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1)},
    {"groups": 2, "stride": (2, 1), "padding": ((0, 0), (2, 2)), "dilation": (1, 1)},
    {"groups": 4, "stride": (1, 1), "padding": ((2, 2), (1, 1)), "dilation": (2, 1)},
]


def output(use, weights, inputs):
    columns = layers.columns(use, inputs, weights.shape[2:], 10**9)
    found = layers.matrices(use, weights) @ columns.swapaxes(1, 2)  # [groups, rows, positions]
    return found.reshape(-1, found.shape[2]).T


@pytest.mark.parametrize("options", CONVOLUTIONS)
def test_matrix_times_patches_is_the_convolution(options):
    use = Use("w", CONVOLUTION, **options)
    weights = RANDOM.standard_normal((8, 4 // options["groups"], 3, 2)).astype(np.float32)
    inputs = RANDOM.standard_normal((2, 4, 9, 8)).astype(np.float32)
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(inputs), torch.from_numpy(weights), None, options["stride"],
        [low for low, _ in options["padding"]], options["dilation"], options["groups"],
    )  # fmt: skip
    np.testing.assert_allclose(
        output(use, weights, inputs), expected.movedim(1, -1).reshape(-1, 8).numpy(), atol=1e-4
    )


@pytest.mark.parametrize("options", CONVOLUTIONS)
def test_matrix_times_patches_is_the_transposed_convolution(options):
    use = Use("w", TRANSPOSED_CONVOLUTION, **options)
    weights = RANDOM.standard_normal((4, 8 // options["groups"], 3, 3)).astype(np.float32)
    inputs = RANDOM.standard_normal((2, 4, 5, 6)).astype(np.float32)
    expected = torch.nn.functional.conv_transpose2d(
        torch.from_numpy(inputs), torch.from_numpy(weights), None, options["stride"],
        [low for low, _ in options["padding"]], 0, options["groups"], options["dilation"],
    )  # fmt: skip
    np.testing.assert_allclose(
        output(use, weights, inputs), expected.movedim(1, -1).reshape(-1, 8).numpy(), atol=1e-4
    )


@pytest.mark.parametrize(
    ("use", "shape"),
    [
        (Use("w", LINEAR), (6, 4)),
        (Use("w", TRANSPOSED), (4, 6)),
        (Use("w", CONVOLUTION, groups=2), (6, 2, 3)),
        (Use("w", TRANSPOSED_CONVOLUTION, groups=2), (4, 3, 3)),
    ],
)
def test_a_tensor_comes_back_from_its_matrices(use, shape):
    tensor = RANDOM.standard_normal(shape)
    np.testing.assert_array_equal(layers.tensor_of(use, layers.matrices(use, tensor), shape), tensor)


@pytest.mark.parametrize("axes", [(), (1,), (2, 3), (0, 1, 2, 3)])
def test_the_gram_matrix_of_coefficients_gives_the_same_output_error(axes):
    use, shape = Use("w", CONVOLUTION), (5, 3, 2, 4)
    weights = RANDOM.standard_normal(shape)
    columns = RANDOM.standard_normal((1, 100, 24))
    gram = columns.swapaxes(1, 2) @ columns
    coefficients = layers.matrices(use, fft.dctn(weights, axes=axes, norm="ortho") if axes else weights)
    transformed = layers.transformed_gram(gram, use, shape, axes)
    plain = layers.matrices(use, weights)
    assert np.einsum("gri,gij,grj->", coefficients, transformed, coefficients) == pytest.approx(
        np.einsum("gri,gij,grj->", plain, gram, plain)
    )


def test_fewer_positions_are_spread_evenly():
    use = Use("w", LINEAR)
    inputs = np.arange(40, dtype=np.float32).reshape(10, 4)
    assert layers.columns(use, inputs, (), 5)[0, :, 0].tolist() == [0, 8, 16, 24, 32]
    assert layers.columns(use, inputs, (), 5, offset=1)[0, :, 0].tolist() == [4, 12, 20, 28, 36]
