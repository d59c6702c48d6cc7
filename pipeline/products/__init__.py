"""What people do with labels."""
