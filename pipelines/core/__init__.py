"""Types that every other package uses: requests, models, precisions, errors. No tensors."""
