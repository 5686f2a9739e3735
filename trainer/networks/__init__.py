"""The motion RNN and the frame generator, in one module."""

from trainer.networks.config import NetworksConfig
from trainer.networks.navsynth import NavSynth, Synthesis, parameter_counts

__all__ = ["NavSynth", "NetworksConfig", "Synthesis", "parameter_counts"]
