"""What an operator sees of the instruments, made from the one list of them: a table for the docs, a
dashboard for Grafana, and alert rules for Prometheus."""
