"""From what a user brings (images, COCO files, prompts) to checked tables; whatever is refused carries its reason."""
