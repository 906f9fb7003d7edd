"""The Triton kernels as PyTorch custom ops, which compile, export to AOT graphs and run under every wrapper.

One file per op, whole: `forward` and `backward` with their shapes for tracing, the autograd rule and the FLOP formulas.
All take flattened, contiguous tensors: M tokens, n streams, C channels, k logits. Triton is imported when an op runs,
so that machines without it can import this package; where no kernel can run, the public ops do not call these.
"""
