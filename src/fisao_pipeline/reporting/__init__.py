"""The paper's figures and the case-study page: tables in, plotly figures and HTML out; no Kedro and no model inside."""
