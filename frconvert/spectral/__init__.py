"""The frequency domain: orthonormal DCT over chosen axes, zigzag order, and where the energy is."""
