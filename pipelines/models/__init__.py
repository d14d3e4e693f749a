"""The model families (parts, shapes, file layouts, inputs) and the catalogue of models. No tensors."""
