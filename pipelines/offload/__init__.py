"""Where weights stay while they are not computed with, and how they reach the device."""
