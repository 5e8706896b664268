"""The formulas of SimA's peers as the tests of swapped models ask them: any mask, grouped heads, a host's own scale."""

import importlib
import inspect

from sima_hf.peers import PEERS


def formula_of(name, query, key, value, mask=None, bias=None, scale=None):
    """The literal formula in float64, `(B,H,Nq,Dv)`; the mask boolean, `(B,Nk)` or `(B or 1,H or 1,Nq,Nk)`."""
    formula = getattr(importlib.import_module(f"sima_hf.peers.{name}"), f"{name}_reference")
    query, key, value = query.double(), key.double(), value.double()
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    options = {"bias": 0.0 if bias is None else bias.double(), "scale": scale}
    options = {word: given for word, given in options.items() if word in inspect.signature(formula).parameters}
    if not PEERS[name].takes_full_mask:
        return formula(query, key, value, keep=mask, **options)
    if mask is not None:
        mask = (mask[:, None, None] if mask.dim() == 2 else mask).expand(*query.shape[:3], key.shape[2])
    return formula(query, key, value, mask, **options)
