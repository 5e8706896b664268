"""Which attention a swapped model computes: SimA, or one of `peers/` in its place; and for which hosts such a one is offered."""

from collections.abc import Iterable

from ...attention import attention_function_names
from ...errors import UnsupportedModelError
from ...ops import check_gain
from ...peers.mechanisms import PEERS, Mechanism, find_peer
from ..host_table import Host


SIMA = "sima"
DEFAULT_ATTENTION = SIMA  # what a config computes that does not say
DEFAULT_GAIN = "tokens"  # of swapped models


def check_attention(name: str, gain: str = DEFAULT_GAIN) -> None:
    """Whether a swapped model can compute this attention, with this gain.

    Args:
        name: "sima", or a drop-in of `sima_hf.peers`.
        gain: as for `sima_attention`; a peer has none, so that only the default is accepted.

    Raises:
        ValueError: the name is unknown (the text has near ones), it is a module of its own and no drop-in, or a gain was chosen for a
            peer.
    """
    check_gain(gain)
    if name == SIMA:
        return
    peer = find_peer(name)
    if not peer.drop_in:
        others = ", ".join(repr(one) for one in (SIMA, *(one.name for one in PEERS.values() if one.drop_in)))
        raise ValueError(
            f"`attention` must be a mechanism that takes the place of softmax with the host's own parameters, got {name!r}: "
            f"{peer.title} is a module of its own. There are {others}."
        )
    if gain != DEFAULT_GAIN:
        raise ValueError(
            f"`gain` is an option of SimA alone, got {gain!r} with attention={name!r}. Leave it out, or choose attention='sima'."
        )


def function_names(mechanism: str | None = None) -> list[str]:
    """What `attn_implementation` may be with an attention: SimA's backends, or a peer's own name; None: with any of them."""
    if mechanism is None:
        return [*attention_function_names(), *(peer.name for peer in PEERS.values() if peer.drop_in)]
    return list(attention_function_names()) if mechanism == SIMA else [mechanism]


def declared(name: str) -> tuple[str, ...]:
    """What an attention keeps of "softmax" and "exp", as it declares itself; nothing for SimA."""
    return () if name == SIMA else find_peer(name).remaining


def linear_in_value(name: str) -> bool:
    """Whether the output of an attention is a linear function of the values, as SimA's is."""
    return name == SIMA or find_peer(name).linear_in_value


def title_of(name: str) -> str:
    """What an attention is called in sentences: "SimA", "InLine core", ..."""
    return "SimA" if name == SIMA else find_peer(name).title


def why_not_offered(name: str, host: Host) -> str | None:
    """The reason why an attention is not offered for a host, as a clause; None where it is.

    Args:
        name: "sima", or a drop-in of `sima_hf.peers`.
        host: a row of the table.
    """
    if name == SIMA:
        return None
    peer: Mechanism = find_peer(name)
    if host.sima_alone:
        return host.sima_alone
    if host.position_bias != "none" and not peer.takes_bias:
        return "its position bias is added to logits, of which this mechanism has none"
    if host.full_mask and not peer.takes_full_mask:
        return "it hides tokens from each other by a mask of queries and keys, which this mechanism does not take"
    return host.not_offered.get(name)


def offered(host: Host) -> list[str]:
    """The names of all that are offered for a host: "sima" first, then peers."""
    return [SIMA, *(one.name for one in PEERS.values() if one.drop_in and why_not_offered(one.name, host) is None)]


def check_offered(name: str, owner: str, hosts: Iterable[Host]) -> None:
    """Whether an attention is offered for all of these hosts.

    Args:
        name: "sima", or a drop-in of `sima_hf.peers`.
        owner: the model's class, for the text.
        hosts: rows of what would be swapped in it.

    Raises:
        UnsupportedModelError: it is not, with the reason.
    """
    for host in hosts:
        reason = why_not_offered(name, host)
        if reason is not None:
            raise UnsupportedModelError(
                f"attention={name!r} ({title_of(name)}) is not offered for the {host.model_type!r} attention in this {owner}: {reason}. "
                f"Offered there: {', '.join(map(repr, offered(host)))}."
            )
