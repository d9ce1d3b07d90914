"""FiSAO as a Kedro project: a vision-language model aligned by its own vision encoder, token by token."""

__version__ = "0.1.0"
