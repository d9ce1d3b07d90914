"""The pocket world: rendered scenes and two small models, so that the whole method runs on two CPU cores.

Nothing outside this package knows that the pocket models are small: they are saved with ``save_pretrained`` and loaded
by the code that loads a 7B model.
"""
