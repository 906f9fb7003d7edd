"""Triton kernels and their launches; imported only where the Triton backend runs.

An op is one file, or a folder: its launches in `launch.py`, its kernels beside it.

Shapes: M tokens, n streams, C channels, k logits. Loads are brought to fp32, but for factors of matrix products; sums
are fp32, results are rounded once. A kernel keeps numbers per token as tuples of vectors over the tokens of its tile,
so that its loops hold nothing but plain multiplications and additions. No atomics: sums over tokens are made of partial
sums in a fixed order, and no launch depends on the number of multiprocessors.
"""
