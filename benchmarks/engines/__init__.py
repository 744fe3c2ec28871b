"""What it costs to have models elsewhere than in the server's process."""
