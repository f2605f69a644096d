#!/usr/bin/env python3
"""An S3 server (moto) that answers each call only after a delay: as far away as a real one is.

    far_store.py MILLISECONDS

Prints its address once it listens. A conditional put checks and writes in two steps in moto, so puts of one key wait for
each other here. Owns the delay and that order; ends with its parent's signal.
"""

import collections
import logging
import sys
import threading
import time

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server


class Far:
    def __init__(self, application, delay: float):
        self.application, self.delay = application, delay
        self.keys = collections.defaultdict(threading.Lock)

    def __call__(self, environ, start_response):
        time.sleep(self.delay)
        if environ["REQUEST_METHOD"] != "PUT":
            return self.application(environ, start_response)
        with self.keys[environ["PATH_INFO"]]:
            return list(self.application(environ, start_response))


def main():
    logging.disable(logging.CRITICAL)  # a line for each request
    delay = float(sys.argv[1]) / 1000
    server = make_server("127.0.0.1", 0, Far(DomainDispatcherApplication(create_backend_app), delay), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
    ).create_bucket(Bucket="far")
    print(endpoint, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
