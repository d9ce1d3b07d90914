"""What `python -m fisao_pipeline` does beside `run`, one module per command or pair of commands."""
