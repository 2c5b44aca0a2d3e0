"""sadtrt: what a lower precision costs and buys for the SadTalker face renderer on NVIDIA GPUs."""

__version__ = "0.1.0"
