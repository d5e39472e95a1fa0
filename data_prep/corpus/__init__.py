"""Links become clean documents."""
