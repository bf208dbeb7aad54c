"""ATen operators that a graph cannot hold, and what to write instead."""

from __future__ import annotations

from graphrt.frontends.torch.table import refuse

_SIZE = "the size of its result depends on the data"
refuse(
    f"{_SIZE}; keep the whole tensor and write torch.where(mask, x, 0), or for a known number of places torch.nonzero_static",
    "masked_select.default",
)
refuse(f"{_SIZE}; keep the mask, or write torch.nonzero_static(x, size=n)", "nonzero.default", "nonzero_numpy.default")
refuse(
    f"{_SIZE}; sort, and compare neighbours with torch.where",
    "_unique.default",
    "_unique2.default",
    "unique_dim.default",
    "unique_consecutive.default",
)
refuse(
    "its result is a number of Python's, which the graph cannot go on with; compare with torch.eq and torch.all",
    "equal.default",
)
refuse(
    "graphrt has no complex numbers; keep real and imaginary parts in two tensors, or take the transform outside the model",
    "_fft_r2c.default",
    "_fft_c2r.default",
    "_fft_c2c.default",
    "complex.default",
    "polar.default",
    "view_as_complex.default",
    "view_as_real.default",
    "_conj.default",
    "stft.default",
    "linalg_eig.default",
    "_linalg_eigvals.default",
    "linalg_eigvals.default",
)
refuse(
    "graphrt has singular values and LU factors, and what follows from them, but not this; compute it outside the model and "
    "pass the result, or write it as a fixed number of steps of torch.matmul (Newton's iteration gives square roots)",
    "cholesky.default",
    "cholesky_inverse.default",
    "cholesky_solve.default",
    "geqrf.default",
    "linalg_cholesky_ex.default",
    "_linalg_eigh.default",
    "linalg_householder_product.default",
    "linalg_ldl_factor_ex.default",
    "linalg_ldl_solve.default",
    "linalg_lu.default",
    "linalg_lu_solve.default",
    "linalg_matrix_exp.default",
    "linalg_pinv.atol_rtol_tensor",
    "linalg_qr.default",
    "lu_unpack.default",
    "ormqr.default",
    "triangular_solve.default",
)
