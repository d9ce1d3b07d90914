"""Adapters to transformers and peft: a policy that samples and scores, a verifier that embeds."""
