"""The services: what each method of Vertex AI does here."""
