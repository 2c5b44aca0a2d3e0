"""sadtrt: what a lower precision costs and buys for the SadTalker face renderer on NVIDIA GPUs."""

__version__ = "0.1.0"

#: Every part of the package, from the bottom up: each imports only those before it.
LAYERS = (
    "errors",
    "files",
    "stats",
    "codec",
    "case",
    "precision",
    "plan",
    "progress",
    "renderer",
    "graph",
    "engine",
    "runners",
    "config",
    "rows",
    "records",
    "environment",
    "measure",
    "report",
    "gate",
    "session",
    "benchmark",
    "compare",
    "accuracy",
    "sampling",
    "drop_in",
    "doctor",
    "machine_fixes",
    "fleet",
    "export_folder",
    "compare_worker",
    "commands",
    "cli",
)
