"""Workflows as traces: projected from their history, sent over OTLP, the same after any restart."""
