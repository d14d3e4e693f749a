"""A small model of Wan's architecture that runs on any CPU, for trying the server without a GPU, and its grammar."""
