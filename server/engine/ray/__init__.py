"""Workers on the hosts of a Ray cluster. Only `actor`, `bridge` and `monitor` run in processes that import Ray."""
