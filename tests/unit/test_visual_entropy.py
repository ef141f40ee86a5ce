# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_durian.entropy.visual_entropy import ROUNDING, visual_entropy


def reference(features: torch.Tensor) -> float:
    """Eq. 5 to 9 in float64: squared singular values of the centred features, one term at a time."""
    matrix = features.double().numpy()
    total = 0.0
    eigenvalues = np.linalg.svd(matrix - matrix.mean(axis=0), compute_uv=False) ** 2 / max(len(matrix) - 1, 1)
    for value in eigenvalues:
        p = value / eigenvalues.sum()
        total -= p * math.log(p) if p > 0 else 0.0
    return total


def normal(patches: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(patches, dim, generator=torch.Generator().manual_seed(seed))


@st.composite
def feature_matrices(draw) -> torch.Tensor:
    """float64 features of random shape and rank, with directions of different size."""
    patches, dim, rank = draw(st.integers(2, 24)), draw(st.integers(1, 24)), draw(st.integers(1, 24))
    seed = draw(st.integers(0, 2**32 - 1))
    scales = torch.logspace(0, -draw(st.floats(0, 4)), rank, dtype=torch.float64)
    return (normal(patches, rank, seed).double() * scales) @ normal(rank, dim, seed + 1).double()


@pytest.mark.parametrize("shape", [(2, 5), (7, 64), (64, 7), (50, 50), (300, 128), (128, 300)])
@pytest.mark.parametrize(
    "change",
    [
        lambda f: f,
        lambda f: f + 1e3,
        lambda f: f * torch.logspace(0, -12, f.shape[1]),
        lambda f: f * torch.logspace(0, 4, f.shape[1]) - 50,
        lambda f: f[:, :1] * f[:1] + 1e-6 * f,
        lambda f: f * 1e-30,
        lambda f: f * 1e30,
        lambda f: f.bfloat16(),
        lambda f: f.half(),
    ],
    ids=["plain", "offset", "decaying", "outliers", "nearly one direction", "tiny", "huge", "bfloat16", "float16"],
)
def test_features_agree_with_a_float64_svd(shape, change):
    features = change(normal(*shape))
    entropy = visual_entropy(features)
    assert entropy.shape == () and entropy.dtype == torch.float64
    assert entropy.item() == pytest.approx(reference(features), abs=1e-5)


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        pytest.param([[1.0, 2.0], [2.0, 4.0], [5.0, 10.0]], 0.0, id="one direction"),
        pytest.param(
            [[1.0, 0.0, 7.0], [-1.0, 0.0, 7.0], [0.0, 1.0, 7.0], [0.0, -1.0, 7.0]], math.log(2), id="two equal ones"
        ),
        # Eigenvalues 2 * 9 / 3 and 2 * 1 / 3: p = 0.9 and 0.1.
        pytest.param(
            [[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]], -0.9 * math.log(0.9) - 0.1 * math.log(0.1), id="unequal"
        ),
        pytest.param(torch.eye(9).tolist(), math.log(8), id="a regular simplex reaches the bound"),
        pytest.param([[3.0, -1.0, 2.0]], 0.0, id="one patch"),
    ],
)
def test_values_by_hand(features, expected):
    assert visual_entropy(torch.tensor(features)).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e30, 3e-39, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_patches_are_exactly_zero(value, dtype):
    assert visual_entropy(torch.full((37, 11), value, dtype=dtype)).item() == 0.0


def test_patches_equal_up_to_rounding_are_zero():
    features, noise = torch.ones(64, 32, dtype=torch.float64), normal(64, 32).double()
    assert visual_entropy(features + 0.5 * ROUNDING * noise).item() == 0.0
    faint = features + 10 * ROUNDING * noise
    assert visual_entropy(faint).item() == pytest.approx(reference(faint), abs=1e-9)


@settings(derandomize=True, deadline=None)
@given(feature_matrices(), st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6), st.floats(-10, 10))
def test_bounds_and_invariances(features, seed, scale, offset):
    entropy = visual_entropy(features).item()
    patches, dim = features.shape
    assert 0 <= entropy <= math.log(max(min(patches - 1, dim), 1)) + 1e-9
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64, generator=generator)).Q
    for changed in (
        features[torch.randperm(patches, generator=generator)],
        features * -scale,
        features @ rotation,
        features + offset * torch.randn(dim, dtype=torch.float64, generator=generator),
        features.repeat(3, 1),
        torch.cat([features, torch.zeros(patches, 2)], dim=1),
    ):
        assert visual_entropy(changed).item() == pytest.approx(entropy, abs=1e-9)


def test_malformed_features_are_refused():
    for value in (math.nan, math.inf):
        broken = normal(6, 4)
        broken[2, 1] = value
        with pytest.raises(ValueError, match="NaN or inf"):
            visual_entropy(broken)
    shapes = [torch.ones(4), torch.ones(2, 3, 4), torch.ones(0, 4), torch.ones(4, 0), torch.ones(4, 4).long()]
    for features in shapes:
        with pytest.raises(ValueError, match="patches, dim"):
            visual_entropy(features)
