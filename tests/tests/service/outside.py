# Somebody outside of the cluster: makes Services as its administrator, and connects to their addresses.
#   create FOLDER FIRST COUNT   COUNT Services at once; tells how long the API took
#   all FOLDER COUNT            until so many Services have addresses that answer; tells how long
#   one FOLDER NAME             one Service, until its address answers; tells how long after the API's answer
#   delete FOLDER NAME          takes one away, until its address answers no more; tells how long
#   hold ADDRESS                one connection, asked again and again until standard input ends; fails when it was dropped
import base64, http.client, json, os, re, select, socket, ssl, sys, time

API = ("10.77.0.10", 6443)
SERVICES = "/api/v1/namespaces/default/services"


def connection(folder):
    text = open(f"{folder}/admin.conf").read()
    for name in ("certificate-authority-data", "client-certificate-data", "client-key-data"):
        with open(f"{folder}/{name}", "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(base64.b64decode(re.search(f"{name}: (.*)", text)[1]))
    context = ssl.create_default_context(cafile=f"{folder}/certificate-authority-data")
    context.load_cert_chain(f"{folder}/client-certificate-data", f"{folder}/client-key-data")
    return http.client.HTTPSConnection(*API, context=context, timeout=30)


def ask(api, method, path, body=None):
    api.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
    answer = api.getresponse()
    text = answer.read()
    if answer.status >= 300:
        sys.exit(f"{method} {path}: {answer.status} {text.decode()}")
    return json.loads(text)


def service(name):
    spec = {"type": "LoadBalancer", "selector": {"nobody": "here"}, "ports": [{"port": 80}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def address(service):
    ingress = service["status"].get("loadBalancer", {}).get("ingress") or [{}]
    return ingress[0].get("ip")


def answers(ip):
    try:
        socket.create_connection((ip, 80), timeout=1).close()
        return True
    except OSError:
        return False


def until(what, seconds=60):
    end = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > end:
            sys.exit(f"not within {seconds} s")
        time.sleep(0.01)
    return found


def hold(ip):
    held, count = http.client.HTTPConnection(ip, 80, timeout=20), 0
    held.connect()
    own = held.sock.getsockname()
    while not select.select([sys.stdin], [], [], 0.1)[0]:
        held.request("GET", "/health")
        answer = held.getresponse()
        answer.read()
        if answer.status != 200 or held.sock is None or held.sock.getsockname() != own:
            sys.exit(f"after {count} answers: {answer.status}, dropped")
        count += 1
    print(f"{count} answers")


def main(what, *rest):
    if what == "hold":
        return hold(*rest)
    api = connection(rest[0])
    began = time.monotonic()
    if what == "create":
        first, count = int(rest[1]), int(rest[2])
        for number in range(first, first + count):
            ask(api, "POST", SERVICES, service(f"many-{number:04}"))
    elif what == "all":
        def whole():
            ips = [ip for ip in map(address, ask(api, "GET", SERVICES)["items"]) if ip]
            return len(ips) >= int(rest[1]) and all(map(answers, ips))
        until(whole)
    elif what == "one":
        ask(api, "POST", SERVICES, service(rest[1]))
        began = time.monotonic()
        until(lambda: (ip := address(ask(api, "GET", f"{SERVICES}/{rest[1]}"))) and answers(ip))
    elif what == "delete":
        ip = address(ask(api, "GET", f"{SERVICES}/{rest[1]}"))
        ask(api, "DELETE", f"{SERVICES}/{rest[1]}")
        began = time.monotonic()
        until(lambda: not answers(ip))
    print(f"{time.monotonic() - began:.3f}")


main(*sys.argv[1:])
