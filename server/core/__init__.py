"""What the other layers speak of: generations, events, errors, settings, and the rules they follow."""
