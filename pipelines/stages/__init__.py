"""The stages of a generation: encode the prompt, denoise, decode, write the video."""
