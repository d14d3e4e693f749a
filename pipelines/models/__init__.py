"""The model families: for each pipeline class its parts, shapes, file layouts and inputs. No tensors."""
