"""Every stage's parameters as one typed block: a typo or a value out of range fails before any node runs."""
