"""Debian's docker-registry over a folder, on a free port, for as long as this process lives."""
import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

CONFIGURATION = """version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: {data}}}
  maintenance: {{uploadpurging: {{enabled: false}}, readonly: {{enabled: {readonly}}}}}
http: {{addr: "{host}", headers: {{X-Content-Type-Options: [nosniff]}}}}
"""


class Registry:
    def __init__(self, data, address="127.0.0.1", readonly=True):
        self.folder = tempfile.TemporaryDirectory(prefix="ingot-registry.")
        for _ in range(5):
            self.host = f"{address}:{free_port(address)}"
            path = os.path.join(self.folder.name, "config.yml")
            with open(path, "w", encoding="utf-8") as file:
                file.write(CONFIGURATION.format(data=data, host=self.host, readonly=str(readonly).lower()))
            # It goes with us, however we go.
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "docker-registry", "serve", path], stdin=subprocess.DEVNULL)
            if self.answers():
                return
            self.stop()
        raise SystemExit("docker-registry did not start")

    def answers(self):
        for _ in range(200):
            if self.process.poll() is not None:
                return False  # The port was taken in the meantime.
            try:
                with urllib.request.urlopen(f"http://{self.host}/v2/", timeout=2) as reply:
                    return reply.status == 200
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        return False

    def stop(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
        self.folder.cleanup()


def free_port(address):
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]
