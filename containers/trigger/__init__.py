"""A Cloud Run function that starts the deploy pipeline when a model or a training job is ready."""
