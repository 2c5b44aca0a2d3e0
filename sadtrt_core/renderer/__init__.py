"""The face renderer in PyTorch, compatible with SadTalker state dicts, and the weights it runs with."""
