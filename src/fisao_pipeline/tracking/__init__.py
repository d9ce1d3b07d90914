"""MLflow: runs recorded in the data folder and copied to a server."""
