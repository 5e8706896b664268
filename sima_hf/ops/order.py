"""Which of the two orders of multiplication is cheaper, by counted operations."""

import torch


GAINS = ("none", "tokens")
ORDERS = ("auto", "linear", "quadratic")


def cheaper_order(query_tokens: int, key_tokens: int, channels: int, value_channels: int, full_mask: bool) -> str:
    """Return "linear" or "quadratic", whichever needs fewer multiply-adds.

    Linear: `k^T v` (`Nk D Dv`) and `q M` (`Nq D Dv`). Quadratic: `q k^T` (`Nq Nk D`) and its product with v
    (`Nq Nk Dv`). A full mask couples every pair of tokens, so only the quadratic order makes sense with it.

    While a graph is traced with a dynamic number of tokens, the answer is "linear" unless the other is known to be
    cheaper at every size: a comparison of sizes would tie the graph to one side of it.
    """
    if full_mask:
        return "quadratic"
    linear = (query_tokens + key_tokens) * channels * value_channels
    quadratic = query_tokens * key_tokens * (channels + value_channels)
    if torch.compiler.is_compiling():
        from torch.fx.experimental.symbolic_shapes import statically_known_true

        return "quadratic" if statically_known_true(quadratic < linear) else "linear"
    return "quadratic" if quadratic < linear else "linear"
