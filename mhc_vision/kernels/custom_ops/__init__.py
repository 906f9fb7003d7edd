"""The Triton kernels as PyTorch custom ops, which compile, export to AOT graphs and run under every wrapper.

One file per op, whole: the op and its gradient, their fakes for tracing, the autograd rule and the FLOP formulas. All
take flattened, contiguous tensors: M tokens, n streams, C channels, k logits. Triton is imported when an op runs, so
that machines without it can import this package; where no kernel can run, the public ops do not call these.

FLOP formulas get shapes in the places of tensors, and count the matrix and vector products that the formulas of
`reference` have, two operations for a multiplication and an addition; what a backward pass recomputes is not counted.
"""
