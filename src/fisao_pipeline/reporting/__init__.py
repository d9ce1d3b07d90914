"""Figures and pages: what a run has to show, drawn from its tables."""
