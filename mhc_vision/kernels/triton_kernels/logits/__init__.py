"""Logits: scale ∘ (rms_norm(vec(X)) · φ) + bias, and the gradients of X, φ, scale and bias.

For streams of bf16 or fp16, φ and the gradients that meet X in a matrix product are each split into two bf16 numbers:
then every product of two factors is exact, and the sum is as good as in fp32.
"""
