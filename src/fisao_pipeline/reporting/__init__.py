"""Figures and pages, the paper's and our own: tables in, plotly figures and HTML out; no Kedro and no model inside."""
