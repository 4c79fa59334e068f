"""Inverses of easy transforms, learnt from pairs that the transform makes: colour, resolution, denoising."""
