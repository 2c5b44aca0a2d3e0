"""Latency, drift, telemetry and the statistics they are judged by."""
