"""Where weights are kept between their uses, and how they are moved to the device."""
