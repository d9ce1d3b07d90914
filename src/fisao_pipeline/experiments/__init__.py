"""Studies: the whole method run once per arm and seed, and what the rows come to. No Kedro, no MLflow."""
