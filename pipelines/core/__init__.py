"""What everything else speaks of: requests, models, precisions, errors. No tensors."""
