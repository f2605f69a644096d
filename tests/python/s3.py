#!/usr/bin/env python3
"""An S3 server of other authors (moto) for tests, and a way to fetch what is in it.

    s3.py serve BUCKET                       prints http://127.0.0.1:PORT, serves until it is killed; everything is in memory
    s3.py fetch ENDPOINT BUCKET DIR          copies every object into DIR that is there and not deleted meanwhile

moto knows `If-None-Match: *` but looks and writes in two steps, so that two writers could both create a key. Here it
stands behind a lock for whatever changes something, as a real server decides about one key at a time.

Exit codes: 0 done, 77 moto is not installed (see requirements.txt).
"""

import pathlib
import sys
import threading

SKIPPED = 77
KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}


def one_change_at_a_time(application):
    lock = threading.Lock()

    def served(environ, start_response):
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return application(environ, start_response)
        with lock:
            return list(application(environ, start_response))

    return served


def serve(bucket):
    import logging

    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = one_change_at_a_time(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever).start()
    client(endpoint).create_bucket(Bucket=bucket)
    print(endpoint, flush=True)


def fetch(endpoint, bucket, folder):
    s3 = client(endpoint)
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page.get("Contents", []):
            path = pathlib.Path(folder, entry["Key"])
            # Objects never change once they are there.
            if path.exists():
                continue
            try:
                content = s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
            except s3.exceptions.NoSuchKey:
                # Servers that go on meanwhile delete too; what was deleted since the listing belongs to no copy.
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def client(endpoint):
    import boto3

    return boto3.client("s3", endpoint_url=endpoint, **KEYS)


def main(arguments):
    try:
        import boto3  # noqa: F401
        import moto.server  # noqa: F401
    except ImportError as error:
        print(f"skipped: {error.name} is not installed; see tests/python/requirements.txt", file=sys.stderr)
        return SKIPPED
    match arguments:
        case ["serve", bucket]:
            serve(bucket)
        case ["fetch", endpoint, bucket, folder]:
            fetch(endpoint, bucket, folder)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
