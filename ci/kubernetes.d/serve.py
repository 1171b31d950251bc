"""serve.py STORE DIR ADDRESS: serves what ci/kubernetes made; see README.md."""
import functools
import http.server
import os
import select
import signal
import stat
import sys
import threading

sys.dont_write_bytecode = True
from registry import Registry  # noqa: E402

# As the public repository lays it out.
PREFIX = "/core:/stable:/v1.20/deb/"


class Repository(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def translate_path(self, path):
        if not path.startswith(PREFIX):
            return os.path.join(self.directory, "nothing here")
        return super().translate_path("/" + path[len(PREFIX):])

    def log_message(self, *_):
        pass


def main(store, folder, address):
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    handler = functools.partial(Repository, directory=os.path.join(store, "repository", "deb"))
    with Registry(os.path.join(store, "registry"), address) as registry, \
            http.server.ThreadingHTTPServer((address, 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        write_endpoints(folder, {
            "repository": f"http://{address}:{server.server_port}{PREFIX[:-1]}",
            "key": os.path.join(store, "repository", "key.asc"),
            "registry": registry.host,
        })
        holder = os.fstat(0).st_mode
        held = stat.S_ISFIFO(holder) or stat.S_ISSOCK(holder)
        while not stop.wait(0.2):
            if registry.process.poll() is not None:
                sys.exit("docker-registry ended by itself")
            if held and select.select([0], [], [], 0)[0] and not os.read(0, 4096):
                break
        server.shutdown()
    os.unlink(os.path.join(folder, "endpoints"))


def write_endpoints(folder, values):
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "endpoints")
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.writelines(f"{name}={value}\n" for name, value in values.items())
    os.replace(path + ".new", path)


main(*sys.argv[1:])
