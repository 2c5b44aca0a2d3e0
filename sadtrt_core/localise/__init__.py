"""Where a lower precision loses the picture: which stage, which block, which nodes, and whose numbers do not fit."""
