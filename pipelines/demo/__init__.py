"""The demo model: weights of Wan's architecture that run on any CPU, and the grammar of its captions."""
