# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Visual entropy H(I): the complexity of an image as seen by a vision tower.

H is the Shannon entropy of the normalized eigenvalue spectrum of the covariance of the image's patch features
(Durian, arXiv 2602.21743, Eq. 5 to 9). It is 0 if the patches vary in one direction, and log k if they vary equally
in k directions. The features of P patches, centered on their mean, span at most min(P - 1, d) directions, so
0 <= H <= log(min(P - 1, d)).
"""

import torch

ROUNDING = 1e-5
"""Spread of the patches relative to their norm (both root mean square) up to which patches count as equal.

The patches of a uniform image are equal up to rounding, and normalizing the spectrum would turn rounding into the
entropy of noise. Measured after 32 blocks in float32 (random weights): 7e-7 for a uniform image, 1e-4 for a thin line
that differs from the background by one gray level, 5e-2 for a black line on white.
"""


def visual_entropy(features: torch.Tensor) -> torch.Tensor:
    """Entropy of the covariance spectrum of one image's patch features (Eq. 5 to 9).

    With mu the mean patch, C = (F - 1 mu^T)(F - 1 mu^T)^T / (P - 1) and lambda_k its eigenvalues,

        H = - sum_k p_k log p_k,    p_k = lambda_k / sum_j lambda_j,    0 log 0 = 0.

    Args:
        features: Patch features F of one image, ``(num_patches, dim)``, floating point.

    Returns:
        H in nats, a float64 scalar on the device of ``features``. Exactly 0 for equal patches and for a single patch.

    Raises:
        ValueError: ``features`` has another shape or dtype, is empty, or contains NaN or inf.
    """
    return spectral_entropy(scatter_matrix(features))


def scatter_matrix(features: torch.Tensor) -> torch.Tensor:
    """(P - 1) C of Eq. 6, or the d x d matrix with the same non-zero eigenvalues if that is smaller.

    The factor P - 1 cancels in H. The matrix is zero if the relative spread of the patches is at most ``ROUNDING``.

    Args:
        features: See ``visual_entropy``.

    Returns:
        float64, ``(n, n)`` with n = min(num_patches, dim), on the device of ``features``.
    """
    if features.ndim != 2 or 0 in features.shape or not features.is_floating_point():
        raise ValueError(
            f"features must be a floating (patches, dim) tensor, got {features.dtype} of shape {tuple(features.shape)}"
        )
    if not torch.isfinite(features).all():
        raise ValueError("features contain NaN or inf")
    # In float64: squaring in float32 gives eigenvalues of about 1e-7 lambda_max instead of 0, and thousands of these
    # add up to more than 1e-5 nats.
    features = features.detach().double()
    centred = features - features.mean(dim=0)
    # Frobenius norms: sqrt(P d) times the root mean squares.
    if torch.linalg.matrix_norm(centred) <= ROUNDING * torch.linalg.matrix_norm(features):
        centred = torch.zeros_like(centred)
    patches, dim = centred.shape
    return centred @ centred.T if patches <= dim else centred.T @ centred


def spectral_entropy(matrix: torch.Tensor) -> torch.Tensor:
    """H of the normalized eigenvalues of a ``scatter_matrix`` (Eq. 7 to 9) in nats; 0 for the zero matrix."""
    eigenvalues = torch.linalg.eigvalsh(matrix).clamp(min=0)  # rounding makes zero eigenvalues slightly negative
    total = eigenvalues.sum()
    return torch.special.entr(eigenvalues / total).sum() if total > 0 else total  # entr(p) = -p log p, entr(0) = 0
