"""Products with φ inside a kernel: of two bf16 parts, in TF32 that takes them exactly, or of one fp32 part."""

import triton
import triton.language as tl


@triton.jit
def add_products(products, x, phi_ptr, at, inside, num_entries, SPLIT: tl.constexpr):
    """products + x · φ, (tokens, K), with φ (channels, K) at `at`; its low part lies `num_entries` further."""
    phi = tl.load(phi_ptr + at, mask=inside, other=0.0).to(tl.float32)
    if SPLIT:
        low = tl.load(phi_ptr + num_entries + at, mask=inside, other=0.0)
        products = tl.dot(x, phi, products, input_precision="tf32")
        products = tl.dot(x, low.to(tl.float32), products, input_precision="tf32")
    else:
        products = tl.dot(x, phi, products, input_precision="ieee")
    return products


@triton.jit
def products_backward(high, low, phi_ptr, at, inside, num_entries, SPLIT: tl.constexpr):
    """d · φᵀ, (tokens, channels), with φᵀ (K, channels) at `at` and d = high + low; without SPLIT d is `high`."""
    phi = tl.load(phi_ptr + at, mask=inside, other=0.0).to(tl.float32)
    if SPLIT:
        phi_low = tl.load(phi_ptr + num_entries + at, mask=inside, other=0.0)
        d_x = tl.dot(high, phi, input_precision="tf32")
        d_x = tl.dot(low, phi, d_x, input_precision="tf32")
        d_x = tl.dot(high, phi_low.to(tl.float32), d_x, input_precision="tf32")
    else:
        d_x = tl.dot(high, phi, input_precision="ieee")
    return d_x
