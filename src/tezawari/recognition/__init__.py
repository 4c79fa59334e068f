"""Material recognition: one material an image, by a fine-tuned network and by the generations of features before it."""
