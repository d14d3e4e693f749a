"""Workers on hosts of a Ray cluster. Only `actor`, `bridge`, `drain` and `monitor` import Ray, each in a process."""
