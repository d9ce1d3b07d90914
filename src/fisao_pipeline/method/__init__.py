"""The paper as pure functions on tensors and strings: torch, jaxtyping and the standard library, nothing else.

Shapes: ``b`` responses, ``t`` completion tokens, ``d`` embedding width, ``v`` vocabulary, ``m`` object mentions. Masks
are bool and True always means "counts".
"""
