"""One request's life: pump, deliver, resume, authorise."""
