"""gunicorn with uvicorn's worker class: four processes on one store.

$ pip install gunicorn uvicorn-worker
$ gunicorn -c examples/gunicorn.conf.py examples.server_sdk:app
"""

bind = "127.0.0.1:8000"
workers = 4
worker_class = "uvicorn_worker.UvicornWorker"
# At SIGTERM calls have drain_seconds (8) to end: longer than that, and 10 s more.
graceful_timeout = 30
