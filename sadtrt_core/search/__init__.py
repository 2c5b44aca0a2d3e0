"""Finding a plan: what has to stay fp32 for an accuracy budget, at the least cost."""
