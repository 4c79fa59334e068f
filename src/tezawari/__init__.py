"""tezawari: the material appearance of images."""
