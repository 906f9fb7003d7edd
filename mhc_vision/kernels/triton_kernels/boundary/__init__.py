"""The layer boundary: merge of one branch, then the logits, the read and the LayerNorm of the next.

Side data per token are laid out (k, M), tokens last, where a vector of them is one line of memory. `logits` of a
connection are [post n | res n*n] where streams are merged and [pre n | post n | res n*n] where they are made.
"""
