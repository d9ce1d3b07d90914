"""Wiring: one package a stage, nodes thin, everything heavy one layer down."""
