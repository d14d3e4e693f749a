"""What generations await before they may be claimed: inputs to be fetched, and prompts to be rewritten."""
