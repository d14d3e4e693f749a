"""The kernels that compute attention, and the choice between them."""
