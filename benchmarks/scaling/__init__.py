"""How many devices and queued generations one database carries: real servers and records, synthetic devices."""
