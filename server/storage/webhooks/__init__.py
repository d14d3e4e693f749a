"""The outbox of webhooks: events recorded with the changes they tell of, and their deliveries."""
