"""Convolutions in eight bits: ranges of their operands, and the graph that carries them."""
