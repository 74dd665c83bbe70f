"""What training does for the memorisation audit: who chooses nothing, and what its card tells."""
