"""What runs beside the requests: retention, and the end of orphans."""
