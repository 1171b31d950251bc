"""images.py VERSION BIN ROOT DATA: makes the container images and pushes them into the registry folder DATA.

BIN holds our binaries, ROOT unpacked Debian packages. Layers are gzip, manifests OCI; the same input gives the
same digests. Images that upstream publishes for several architectures are an index here too.
"""
import glob
import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import urllib.request

sys.dont_write_bytecode = True
from registry import Registry  # noqa: E402

TIME = int(os.environ["SOURCE_DATE_EPOCH"])
CREATED = "2021-01-13T13:20:00Z"
OCI = "application/vnd.oci.image."
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
LOADER = "ld-linux-x86-64.so.2"


class Layer:
    """Files of one layer by path; folders come of themselves."""

    def __init__(self):
        self.entries = {}
        for link in ("bin", "sbin", "lib", "lib64"):
            self.link(link, f"usr/{link}")
        self.text("etc/nsswitch.conf", "hosts: files dns\n")
        self.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
        self.text("etc/group", "root:x:0:\nnobody:x:65534:\n")
        for folder in ("tmp", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64"):
            self.folder(folder)

    def folder(self, path):
        while path and path not in self.entries:
            info = tarfile.TarInfo(path)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if path == "tmp" else 0o755
            self.entries[path] = (info, None)
            path = os.path.dirname(path)

    def put(self, path, content, mode):
        self.folder(os.path.dirname(path))
        info = tarfile.TarInfo(path)
        info.size, info.mode = len(content), mode
        self.entries[path] = (info, content)

    def text(self, path, content):
        self.put(path, content.encode(), 0o644)

    def file(self, path, source):
        with open(source, "rb") as file:
            self.put(path, file.read(), 0o755 if os.access(source, os.X_OK) else 0o644)

    def link(self, path, target):
        self.folder(os.path.dirname(path))
        info = tarfile.TarInfo(path)
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, target, 0o777
        self.entries[path] = (info, None)

    def program(self, path, root):
        """A program of ROOT with the libraries it is linked to."""
        self.file(path, os.path.join(root, path))
        self.libraries(os.path.join(root, path), root)
        self.file(f"usr/lib64/{LOADER}", os.path.realpath(os.path.join(root, LIBRARIES, LOADER)))

    def libraries(self, path, root):
        """What a program or a library is linked to, and what that is linked to."""
        waiting = [path]
        while waiting:
            dynamic = subprocess.run(["readelf", "-dW", waiting.pop()], check=True, capture_output=True, text=True).stdout
            for name in re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic):
                inside = f"usr/lib64/{name}" if name == LOADER else f"{LIBRARIES}/{name}"
                source = os.path.realpath(os.path.join(root, LIBRARIES, name))
                if not source.startswith(root + "/"):
                    raise SystemExit(f"images.py: {name} leads out of {root}")
                if inside not in self.entries:
                    self.file(inside, source)
                    waiting.append(source)

    def tar(self):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path in sorted(self.entries):
                info, content = self.entries[path]
                info.mtime = TIME
                tar.addfile(info, io.BytesIO(content) if content is not None else None)
        return buffer.getvalue()


class Image:
    def __init__(self, name, about, layer, entry, command=None):
        self.name, self.about, self.layer, self.entry, self.command = name, about, layer, entry, command


def kubernetes_images(version, binaries):
    for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler"):
        layer = Layer()
        layer.file(f"usr/local/bin/{name}", os.path.join(binaries, name))
        yield Image(f"{name}:{version}", name, layer, [f"/usr/local/bin/{name}"])


def proxy_image(version, binaries, root):
    layer = Layer()
    layer.file("usr/local/bin/kube-proxy", os.path.join(binaries, "kube-proxy"))
    layer.program("usr/sbin/xtables-nft-multi", root)
    layer.program("usr/sbin/conntrack", root)
    for family in ("iptables", "ip6tables"):
        for end in ("", "-save", "-restore"):
            layer.link(f"usr/sbin/{family}{end}", "xtables-nft-multi")
    for path in sorted(glob.glob(os.path.join(root, LIBRARIES, "xtables", "*.so"))):
        inside = f"{LIBRARIES}/xtables/{os.path.basename(path)}"
        if os.path.islink(path):
            layer.link(inside, os.readlink(path))
        else:
            layer.file(inside, path)
            # Loaded by iptables at run time: `statistic`, by which kube-proxy shares connections, is linked to libm.
            layer.libraries(path, root)
    return Image(f"kube-proxy:{version}", "kube-proxy with Debian's iptables (nft) and conntrack", layer, ["/usr/local/bin/kube-proxy"])


def support_images(binaries, root):
    etcd = Layer()
    etcd.program("usr/bin/etcd", root)
    etcd.link("usr/local/bin/etcd", "../../bin/etcd")
    yield Image("etcd:3.4.13-0", "Debian trixie's etcd 3.5 under the name that kubeadm 1.20 asks for", etcd, [])
    pause = Layer()
    pause.file("pause", os.path.join(binaries, "pause"))
    yield Image("pause:3.2", "holds the namespaces of a pod", pause, ["/pause"])
    dns = Layer()
    dns.file("coredns", os.path.join(binaries, "cluster-dns"))
    yield Image("coredns:1.7.0", "stand-in for CoreDNS: cluster addresses of Services, nothing else", dns, ["/coredns"])


def workload_images(binaries, root):
    box = os.path.join(root, "usr/bin/busybox")
    busybox = Layer()
    busybox.file("usr/bin/busybox", box)
    for path in subprocess.run([box, "--list"], check=True, capture_output=True, text=True).stdout.split():
        if path != "busybox":
            busybox.link(f"usr/bin/{path}", "busybox")
    yield Image("library/busybox:1.37", "Debian's busybox-static", busybox, [], ["sh"])
    hello = Layer()
    hello.file("hello", os.path.join(binaries, "hello"))
    yield Image("ingot-test/hello:1", "answers HTTP on 8080 with the name of its pod", hello, ["/hello"])


def digest(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def encode(document):
    return json.dumps(document, separators=(",", ":")).encode()


def call(method, url, content=None, kind="application/octet-stream"):
    request = urllib.request.Request(url, data=content, method=method, headers={"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=120) as reply:
        return reply.headers


def push_blob(base, repository, content):
    place = call("POST", f"{base}/v2/{repository}/blobs/uploads/", b"")["Location"]
    call("PUT", f"{place}{'&' if '?' in place else '?'}digest={digest(content)}", content)
    return {"digest": digest(content), "size": len(content)}


def push_manifest(base, repository, reference, document):
    content = encode(document)
    call("PUT", f"{base}/v2/{repository}/manifests/{reference or digest(content)}", content, document["mediaType"])
    return {"mediaType": document["mediaType"], "digest": digest(content), "size": len(content)}


def push_image(base, repository, reference, image, architecture="amd64"):
    tar = image.layer.tar()
    layer = push_blob(base, repository, gzip.compress(tar, 6, mtime=0))
    settings = {"Env": [f"PATH={SEARCH_PATH}"], "WorkingDir": "/"}
    if image.entry:
        settings["Entrypoint"] = image.entry
    if image.command:
        settings["Cmd"] = image.command
    configuration = push_blob(base, repository, encode({
        "created": CREATED, "architecture": architecture, "os": "linux", "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [digest(tar)]},
        "history": [{"created": CREATED, "created_by": "ci/kubernetes"}],
    }))
    return push_manifest(base, repository, reference, {
        "schemaVersion": 2, "mediaType": OCI + "manifest.v1+json",
        "config": {"mediaType": OCI + "config.v1+json", **configuration},
        "layers": [{"mediaType": OCI + "layer.v1.tar+gzip", **layer}],
        "annotations": {"org.opencontainers.image.description": image.about},
    })


def push_index(base, repository, tag, image):
    """As upstream: an index. The other architecture has no program, which a wrong choice would show."""
    entries = []
    other = Image(image.name, f"not built for this architecture: {image.about}", Layer(), [])
    for architecture, variant in (("arm64", other), ("amd64", image)):
        manifest = push_image(base, repository, None, variant, architecture)
        entries.append({**manifest, "platform": {"architecture": architecture, "os": "linux"}})
    push_manifest(base, repository, tag, {"schemaVersion": 2, "mediaType": OCI + "index.v1+json", "manifests": entries})


def main(version, binaries, root, data):
    root = os.path.realpath(root)
    os.makedirs(data)
    with Registry(data, readonly=False) as registry:
        base = f"http://{registry.host}"
        several = [*kubernetes_images(version, binaries), proxy_image(version, binaries, root), *support_images(binaries, root)]
        for image in several:
            push_index(base, *image.name.split(":"), image)
        for image in workload_images(binaries, root):
            push_image(base, *image.name.split(":"), image)


main(*sys.argv[1:])
