"""What runs in tesseract-core's own environment: the model behind its protocol, and the client that is measured."""
