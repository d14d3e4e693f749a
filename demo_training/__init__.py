"""How the demo weights were trained. No server needs it, and it is not in the wheel."""
