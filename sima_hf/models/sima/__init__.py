"""The paper's own architecture. The three files named *_sima.py depend on torch and transformers alone."""

from ...importing.registration import register_config
from .configuration_sima import SimAConfig


register_config(SimAConfig)
