"""The motion RNN and the frame generator, in one module."""

from trainer.networks.conditional import RowLabels
from trainer.networks.config import COMPILERS, NetworksConfig
from trainer.networks.navsynth import NavSynth, Synthesis, parameter_counts

__all__ = ["COMPILERS", "NavSynth", "NetworksConfig", "RowLabels", "Synthesis", "parameter_counts"]
