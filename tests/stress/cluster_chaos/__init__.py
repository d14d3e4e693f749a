"""Kills, freezes and restarts every part of a cluster on loopback while its servers make videos."""
