"""What Transformers knows of the SimA<Host> types until one of them is met.

`AutoConfig` needs an entry for every type as soon as it is imported, and the classes themselves need the hosts' files, which take
seconds. So each type is entered as a class that makes configs of the real one.
"""

from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.configuration_auto import AutoConfig

from .hosts import HOSTS, Host


def register_stand_ins() -> None:
    """Make AutoConfig know every SimA<Host> type; nothing of a host is imported until a config of its type is met."""
    for host in HOSTS.values():
        cls = _stand_in(host)
        AutoConfig.register(cls.model_type, cls, exist_ok=True)


def _stand_in(host: Host) -> type[PreTrainedConfig]:
    class StandIn(PreTrainedConfig):
        model_type = f"sima_{host.model_type}"

        def __new__(cls, *args, **kwargs):
            return _registered(host)(*args, **kwargs)

        @classmethod
        def from_dict(cls, config_dict, **kwargs):
            return _registered(host).from_dict(config_dict, **kwargs)

    return StandIn


def _registered(host: Host) -> type[PreTrainedConfig]:
    from .classes import register_host

    return register_host(host)
