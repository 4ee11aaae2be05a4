"""What runs in containers: one folder an image."""
