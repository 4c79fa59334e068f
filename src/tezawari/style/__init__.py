"""Style transfer: the conditional network, its perceptual loss, Gatys' optimisation, mixing, maps and colour."""
