"""A server with files of a trial's own, and the questions to it.

Owns the files, and what is asked through the doors and the command line. Does not own the process (`fleet.Server`), nor what is done
to it.
"""

import datetime
import http.client
import json
import pathlib
import re
import subprocess
import time

from .. import audit
from ..delta import Folder, Log
from ..fleet import Server
from ..processes import wait_for

# Seconds within which tables are computed again.
VERIFYING = 900.0
# A line of its log by what it tells, in the order in which a start comes to them.
MILESTONES = {
    "doors": "HTTP listens",
    "reading": " reading ",
    "assigned": "partitions assigned",
    "first records": "first records",
    "committed": " committed ",
}


class Site:
    """One server beside `pipelines`, each a name and a text. To `Server` it is a fleet of one."""

    skewed, beside = None, None

    def __init__(self, folder: pathlib.Path, kafka, binary: pathlib.Path, *, schema: str, pipelines: dict[str, str], more="", s3=None):
        folder.mkdir(parents=True)
        self.folder, self.kafka, self.binary, self.more = folder, kafka, binary, more
        self.storage, self.store = s3 or (Folder(folder / "data"), f'{{root: "{folder / "data"}"}}')
        for path in ("pipelines", "schemas"):
            (folder / path).mkdir()
        self.write_schema(schema)
        for name, text in pipelines.items():
            (folder / f"pipelines/{name}.yaml").write_text(text)
        self.server = Server(self, "server", 0, "direct")

    def write_schema(self, text: str):
        (self.folder / "schemas/event.yaml").write_text(text)

    def write_server(self, server: Server) -> pathlib.Path:
        (self.folder / "secret").write_text("test")
        path = self.folder / f"{server.name}.yaml"
        path.write_text(
            f"version: 1\nstorage: {self.store}\nconnections:\n  kafka:\n    main:\n"
            f'      brokers: "{self.kafka.brokers}"\n'
            f'listen: {{http: "127.0.0.1:0", postgres: off, flight: off}}\n{self.more}'
        )
        return path

    def log(self, table: str) -> Log:
        return Log(self.storage, f"tables/{table}")

    def get(self, path: str, body: dict | None = None, timeout: float = 10) -> tuple[int, dict]:
        """Status and reply of the HTTP door; `OSError` while there is none."""
        port = self.server.door()
        if port is None:
            raise ConnectionRefusedError("the door is not open yet")
        door = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        try:
            door.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body))
            reply = door.getresponse()
            return reply.status, json.loads(reply.read())
        except (http.client.HTTPException, ValueError) as error:
            raise ConnectionError(f"{path} ended early: {error!r}") from error
        finally:
            door.close()

    def rows(self, query: str) -> list[dict]:
        """Of committed events alone."""
        status, reply = self.get("/v1/sql", {"sql": query, "read": "committed"})
        if status != 200:
            raise ValueError(f"SQL answers {status}: {reply}")
        return reply["rows"]

    def pipeline(self, name: str) -> dict:
        """What the server says of one; nothing while it does not answer."""
        try:
            return next((one for one in self.get("/v1/status")[1]["pipelines"] if one["pipeline"] == name), {})
        except OSError:
            return {}

    def commanded(self, *arguments: str, patience: float = 300) -> subprocess.CompletedProcess:
        """A command of the product beside the server."""
        command = [str(self.binary), *arguments, "-c", str(self.server.file)]
        return subprocess.run(command, capture_output=True, text=True, timeout=patience, env={"NO_COLOR": "1", "PATH": "/usr/bin:/bin"})

    def status_command(self) -> subprocess.CompletedProcess:
        return self.commanded("status", "--url", f"http://127.0.0.1:{self.server.door()}")

    def wait_until_read(self, log: Log, events: int, patience: float):
        def enough():
            log.advance()
            return audit.sums(log)["in"] >= events

        wait_for(f"{events:,} events in the table", patience, enough, 0.2)

    def ended(self) -> list[str]:
        """Drains the server, which must end well."""
        code = self.server.drained(60)
        return [] if code == 0 else [f"the server ended with {code} after SIGTERM: {self.server.process.tail(10)}"]

    def proven(self) -> list[str]:
        said = self.commanded("audit")
        return [] if said.returncode == 0 else [f"`alluvium audit` ended with {said.returncode}: {said.stdout[-500:]}"]

    def verified(self, pipeline: str) -> tuple[dict, list[str]]:
        """Its tables computed again from Kafka: seconds, verdicts, and what is wrong."""
        began = time.monotonic()
        try:
            said = self.commanded("verify", pipeline, "--format", "json", patience=VERIFYING)
        except subprocess.TimeoutExpired:
            return {}, [f"`alluvium verify {pipeline}` did not end within {VERIFYING:.0f} s"]
        took = round(time.monotonic() - began, 1)
        if said.returncode != 0:
            return {"seconds": took}, [f"`alluvium verify {pipeline}` ended with {said.returncode}: {said.stdout[-1500:]} {said.stderr[-500:]}"]
        return {"seconds": took} | {one["table"]: one["verdict"] for one in json.loads(said.stdout)}, []

    def lines(self) -> list[tuple[float, str]]:
        """Log of the process that runs now, or ran last: second since 1970 and text."""
        with self.server.process.log.open("rb") as log:
            log.seek(self.server.process.from_byte)
            return stamped(log.read().decode(errors="replace"))


def stamped(text: str) -> list[tuple[float, str]]:
    """Lines of a log that begin with a time."""
    found = []
    for line in text.splitlines():
        stamp, _, rest = line.partition("Z ")
        if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+", stamp):
            found.append((datetime.datetime.fromisoformat(stamp + "+00:00").timestamp(), f" {rest.strip()} "))
    return found


def milestones(lines: list[tuple[float, str]]) -> dict[str, float]:
    """When a start came to each of its milestones for the first time."""
    reached: dict[str, float] = {}
    for at, text in lines:
        for name, words in MILESTONES.items():
            if name not in reached and words in text:
                reached[name] = at
    return reached
