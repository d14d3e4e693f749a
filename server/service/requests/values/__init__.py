"""Values of parameters: numbers, and sizes of videos."""
