"""Triton kernels and their launches; imported only where the Triton backend runs.

Shapes: M tokens, n streams, C channels, k logits. Loads are brought to fp32 at once, sums are fp32, results are rounded
once. A kernel keeps per-token numbers as tuples of vectors over the tokens of its tile, so that nothing but plain
multiplications and additions stands in its loops. No atomics: sums over tokens are made of partial sums in a fixed
order, and no launch depends on the number of multiprocessors.
"""
