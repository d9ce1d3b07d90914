"""Metrics: predictions and annotations to numbers; no model inside."""
