"""Saved artifacts: what decides what one holds, the record beside it, and whether it is fresh."""
