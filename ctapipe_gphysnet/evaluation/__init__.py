"""Judging reconstructors on simulated DL2 events."""
