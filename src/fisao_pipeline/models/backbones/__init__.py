"""What kinds of vision-language models differ in: one generic kind, and a small file for what another needs."""
