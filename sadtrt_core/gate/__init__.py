"""Compares a run with a baseline and answers with an exit code."""
