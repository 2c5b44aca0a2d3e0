"""Which parts lose the picture, and what has to stay fp32 for a budget."""
