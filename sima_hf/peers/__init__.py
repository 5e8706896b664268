"""Attention that people compare SimA with: tensors in, tensors out, one short file for each mechanism."""

from .mechanisms import PEERS, Mechanism, find_peer


__all__ = ["PEERS", "Mechanism", "find_peer"]
