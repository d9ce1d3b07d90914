"""What a run will need of a GPU, computed from configurations: memory, tokens, hours. No model is loaded."""
