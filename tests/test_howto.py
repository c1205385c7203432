"""The pages in docs/howto: their units, image, hook and transcript, as far as that goes on any machine.

Behind which proxies, is in `test_proxies`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trustme
import yaml
from cryptography.hazmat.primitives import serialization

from tests.cli.test_main import run, running
from tests.cli.test_serve import authority, issue, shown
from tests.fleet.server import free_port
from tests.test_peers import need
from trionotify.cli.serve import serve
from trionotify.http.routes import ADMIN
from trionotify.server.certificates import Certificate
from trionotify.settings import Settings

__all__ = ["authority"]

ROOT = Path(__file__).parent.parent
HOWTO = ROOT / "docs" / "howto"
SECRET = "the secret of these tests"


def blocks(page: str, language: str) -> list[str]:
    """The blocks of a page in one language."""
    pattern = rf"^```{language}\n(.*?)^```$"
    return re.findall(pattern, (HOWTO / page).read_text(), re.DOTALL | re.MULTILINE)


def lines_until(process: subprocess.Popen[str], words: str) -> str:
    """The line that has these words, on stdout."""
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return line
    raise AssertionError(process.stderr and process.stderr.read())


def live(port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=120) as answer:
        body: bytes = answer.read()
        return body


# --- systemd ---


def values(unit: str, key: str) -> list[str]:
    """The values of a key in a unit's file."""
    return re.findall(rf"^{key}=(.*)$", (HOWTO / unit).read_text(), re.MULTILINE)


@pytest.mark.parametrize("changes", [{}, {"#ListenStream": "ListenStream", "#Socket": "Socket"}])
def test_the_units(changes: dict[str, str], tmp_path: Path) -> None:
    """systemd has no complaint, with the lines of a Unix socket either."""
    need(shutil.which("systemd-analyze"), "systemd is not installed")
    changes = {"/opt/trionotify/bin/python": sys.executable, **changes}
    units = ("trionotify.service", "trionotify.socket", "trionotify@.service")
    for name in units:
        text = (HOWTO / name).read_text()
        for old, new in changes.items():
            text = text.replace(old, new)
        (tmp_path / name).write_text(text)
    command = ["systemd-analyze", "verify", *(str(tmp_path / name) for name in units)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_units_watchdog() -> None:
    """It waits for long, and a trace of the fault stays. The server sees what it reads in /proc."""
    for unit in ("trionotify.service", "trionotify@.service"):
        (seconds,) = values(unit, "WatchdogSec")
        assert int(seconds) >= 30
        assert "PYTHONFAULTHANDLER=1" in values(unit, "Environment")
        assert values(unit, "ProcSubset") == []
        assert values(unit, "StartLimitIntervalSec") == ["0"]


def test_the_units_patience() -> None:
    """Is longer than the server's; a mistake in the options is not tried again."""
    for unit in ("trionotify.service", "trionotify@.service"):
        (seconds,) = values(unit, "TimeoutStopSec")
        defaults = Settings()
        assert int(seconds) >= defaults.drain_timeout + 2 * defaults.close_timeout
        (status,) = values(unit, "RestartPreventExitStatus")
        assert run("--nonsense").returncode == int(status)


def test_the_service_behind_its_socket(tmp_path: Path) -> None:
    """The first client is served, by the command of one unit at the address of the other."""
    need(shutil.which("systemd-socket-activate"), "systemd is not installed")
    (listen,) = values("trionotify.socket", "ListenStream")
    host, _, number = listen.partition(":")
    assert (host, int(number)) == ("127.0.0.1", 8765)
    port = free_port()
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "trionotify").mkdir()
    (start,) = values("trionotify.service", "ExecStart")
    start = start.replace("/opt/trionotify/bin/python", sys.executable)
    command = shlex.split(start.replace("%d", str(tmp_path)).replace("%S", str(tmp_path)))
    activate = ["systemd-socket-activate", "-l", f"{host}:{port}", *command]
    with subprocess.Popen(
        activate, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            assert "Listening on" in process.stderr.readline()
            assert live(port) == b"ok\n"
            assert lines_until(process, "listening on").endswith(f"http://127.0.0.1:{port}\n")
            url = ("--url", f"http://127.0.0.1:{port}")
            done = run("publish", *url, "--secret", str(tmp_path / "secret"), "x")
            assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "trionotify: 1 acknowledged")
            assert (tmp_path / "trionotify" / "log.db").exists()
            process.terminate()
            assert process.wait(timeout=120) == 0
        finally:
            process.kill()


# --- TLS ---


def test_what_wrong_files_say(authority: trustme.CA, tmp_path: Path) -> None:
    """Word for word what the page shows."""
    issue(authority, tmp_path)
    (tmp_path / "other").mkdir()
    issue(authority, tmp_path / "other")[1].rename(tmp_path / "other.pem")
    found = serialization.load_pem_private_key((tmp_path / "key.pem").read_bytes(), None)
    how = serialization.BestAvailableEncryption(b"secret")
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "locked.pem").write_bytes(found.private_bytes(pem, pkcs8, how))
    (tmp_path / "notes.txt").write_text("not in PEM")
    (transcript,) = blocks("tls.md", "console")
    turns = re.findall(r"^\$ python -m trionotify (.*)\n(.*)\n", transcript, re.MULTILINE)
    assert len(turns) == transcript.count("$ ") == 5
    for options, said in turns:
        done = subprocess.run(
            [sys.executable, "-m", "trionotify", *shlex.split(options)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=tmp_path,
        )
        assert (done.returncode, done.stdout, done.stderr) == (1, "", said + "\n")


def test_what_is_spoken(authority: trustme.CA, tmp_path: Path) -> None:
    """TLS 1.2 and 1.3, with ciphers that keep what was said a secret if the key is found out later."""
    context = Certificate(*issue(authority, tmp_path)).context
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.maximum_version == ssl.TLSVersion.MAXIMUM_SUPPORTED
    names = [cipher["name"] for cipher in context.get_ciphers()]
    assert names
    assert all(name.startswith(("TLS_", "ECDHE-", "DHE-")) for name in names)
    assert context.verify_mode == ssl.CERT_NONE


def test_the_hook_of_certbot(authority: trustme.CA, tmp_path: Path) -> None:
    """Puts the files where the server reads them, for its group alone; then those are shown."""
    (hook,) = [text for text in blocks("tls.md", "sh") if text.startswith("#!/bin/sh")]
    lineage, place, bin = tmp_path / "live", tmp_path / "etc", tmp_path / "bin"
    for path in (lineage, place, bin):
        path.mkdir()
    group = str(os.getgid())
    assert "-g ssl-cert" in hook
    assert "/etc/trionotify" in hook
    script = hook.replace("-g ssl-cert", f"-g {group}").replace("/etc/trionotify", str(place))

    def renew() -> None:
        cert, key = issue(authority, lineage)
        cert.rename(lineage / "fullchain.pem")
        key.rename(lineage / "privkey.pem")
        path = f"{bin}:{os.environ['PATH']}"
        environment = {**os.environ, "RENEWED_LINEAGE": str(lineage), "PATH": path}
        subprocess.run(["sh", "-c", script], env=environment, timeout=300, check=True)

    (bin / "systemctl").write_text("#!/bin/sh\n")
    (bin / "systemctl").chmod(0o755)
    renew()
    assert {path.name: path.stat().st_mode & 0o777 for path in place.iterdir()} == {
        "fullchain.pem": 0o640,
        "privkey.pem": 0o640,
    }
    files = ("--tls-cert", str(place / "fullchain.pem"), "--tls-key", str(place / "privkey.pem"))
    with running("--port=0", *files) as (process, url):
        port = int(url.rpartition(":")[2])
        first = shown(port, authority)
        # The unit's ExecReload, of this process.
        (reload,) = values("trionotify.service", "ExecReload")
        command = reload.replace("$MAINPID", str(process.pid))
        asked = '[ "$*" = "reload trionotify" ]'
        (bin / "systemctl").write_text(f"#!/bin/sh\n{asked} && {command}\n")
        renew()
        assert process.stderr is not None
        while "read these files again" not in process.stderr.readline():
            pass
        assert shown(port, authority) not in (first, None)


def test_a_services_user_reaches_the_certificate() -> None:
    """In the directory that the guide to systemd makes, the secret is still for root alone."""
    need(os.getuid() == 0, "only root can run a command as another user")
    user, group = "10001", "10002"
    (directory,) = re.findall(r"^install .*$", "".join(blocks("systemd.md", "sh")), re.MULTILINE)
    (hook,) = [text for text in blocks("tls.md", "sh") if text.startswith("#!/bin/sh")]
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        root.chmod(0o755)
        for name in ("fullchain.pem", "privkey.pem"):
            (root / name).write_text(name)
        copy = hook.replace("-g ssl-cert", f"-g {group}").replace("systemctl", ": systemctl")
        script = f"{directory}\n{copy}".replace("/etc/trionotify", str(root / "etc"))
        environment = {**os.environ, "RENEWED_LINEAGE": made}
        subprocess.run(["sh", "-c", script], env=environment, timeout=120, check=True)
        reader = ["setpriv", "--reuid", user, "--regid", user, "--groups", group, "cat"]
        for name, readable in (("fullchain.pem", True), ("privkey.pem", True), ("secret", False)):
            done = subprocess.run([*reader, root / "etc" / name], capture_output=True, check=False)
            assert (done.returncode == 0) is readable, done.stderr


# --- the container ---


@attrs.frozen
class Image:
    """The last stage of a Dockerfile."""

    steps: tuple[tuple[str, str], ...]

    def of(self, name: str) -> list[str]:
        return [rest for step, rest in self.steps if step == name]

    def words(self, name: str) -> list[str]:
        """The words of a step in the form that needs no shell."""
        (rest,) = self.of(name)
        found: list[str] = json.loads(rest[rest.index("[") :])
        return found


def dockerfile() -> Image:
    text = re.sub(r"^#.*\n", "", (HOWTO / "Dockerfile").read_text(), flags=re.MULTILINE)
    return Image(tuple(re.findall(r"^([A-Z]+) (.*)$", text, re.MULTILINE)))


KNOWN = {
    *("FROM", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL"),
    *("HEALTHCHECK", "ENTRYPOINT", "ENV"),
}
#: Its user doesn't exist here, and has to be able to run it.
PYTHON = "/usr/bin/python3"


def try_python() -> bool:
    check = "import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))"
    return (
        Path(PYTHON).exists()
        and subprocess.run([PYTHON, "-c", check], capture_output=True, check=False).returncode == 0
    )


@pytest.fixture(scope="module")
def built() -> Iterator[Path]:
    """The steps of the Dockerfile, below a directory in place of /."""
    need(os.getuid() == 0, "only root can give files to the image's user")
    need(try_python(), f"{PYTHON} isn't Python 3.11 or later with venv")
    image = dockerfile()
    assert {step for step, _ in image.steps} == KNOWN
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        root.chmod(0o755)
        at = root
        for step, rest in image.steps:
            if step == "WORKDIR":
                at = root / rest.lstrip("/")
                at.mkdir()
            elif step == "COPY" and "--from=" not in rest:
                *sources, target = rest.split()
                for source in sources:
                    path = ROOT / source
                    where = at / target if path.is_dir() else at / target / path.name
                    (shutil.copytree if path.is_dir() else shutil.copy)(path, where)
            elif step == "RUN":
                command = re.sub(r"(?<=\s)(?=/(venv|data))|^(?=/)|(?<=&& )(?=/)", str(root), rest)
                command = re.sub(r"^python ", f"{PYTHON} ", command)
                done = subprocess.run(
                    ["sh", "-euc", command], cwd=at, capture_output=True, text=True, check=False
                )
                assert done.returncode == 0, done.stderr
        (root / "run").mkdir()
        (root / "run" / "secrets").mkdir()
        (root / "run" / "secrets" / "trionotify").write_text(SECRET)
        yield root


def placed(words: list[str], root: Path, port: int) -> list[str]:
    """A command of the image, where its files are in this test, and at a free port."""
    places = re.compile(r"(?<![\w/])/(?=(?:venv|data|run)/)")
    return [places.sub(f"{root}/", word).replace("8765", str(port)) for word in words]


def as_user(image: Image) -> list[str]:
    """The user of the image, without a right more than that."""
    ((uid, gid),) = [user.split(":") for user in image.of("USER")]
    assert uid.isdigit()  # Kubernetes' runAsNonRoot looks at it
    assert int(uid) > 0
    return ["setpriv", "--reuid", uid, "--regid", gid, "--clear-groups", "--no-new-privs"]


@contextmanager
def container(root: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    """The image's command as process 1 of its own; the process outside, its number there, the port."""
    image, port = dockerfile(), free_port()
    entry = placed(image.words("ENTRYPOINT"), root, port)
    environment = dict(words.split("=", 1) for words in placed(image.of("ENV"), root, port))
    isolated = ("unshare", "--pid", "--fork", "--kill-child")
    tried = subprocess.run([*isolated, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"there are no namespaces here: {tried.stderr.strip()}")
    with subprocess.Popen(
        [*isolated, *as_user(image), *entry, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
        # What a Service of the name trionotify puts into the environment of its pods.
        env={"PATH": os.environ["PATH"], "TRIONOTIFY_PORT": "tcp://10.0.0.1:8765", **environment},
    ) as process:
        try:
            lines_until(process, f"listening on http://0.0.0.0:{port}")
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            yield process, int(children), port
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_image(number: signal.Signals, built: Path) -> None:
    """As process 1 and without rights it serves, is healthy, keeps its log, and ends in good order."""
    image = dockerfile()
    assert image.of("STOPSIGNAL") == ["SIGTERM"]
    with container(built) as (process, inside, port):
        status = Path(f"/proc/{inside}/status").read_text()
        assert re.search(r"^NSpid:\s+\d+\s+1$", status, re.MULTILINE)
        assert re.search(r"^Uid:\s+10001\s+10001\s", status, re.MULTILINE)
        healthy = placed(image.words("HEALTHCHECK"), built, port)
        assert subprocess.run([*as_user(image), *healthy], timeout=300, check=False).returncode == 0
        url = ("--url", f"http://127.0.0.1:{port}")
        secret = built / "run" / "secrets" / "trionotify"
        assert run("publish", *url, "--secret", str(secret), "x").returncode == 0
        os.kill(inside, number)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0
        assert f"{number.name}; a second signal ends the server at once" in err
        assert "drained in" in err
    assert (built / "data" / "log.db").stat().st_uid == 10001
    assert subprocess.run(healthy, capture_output=True, timeout=300, check=False).returncode == 1


def test_the_images_options(built: Path) -> None:
    """Arguments after the image's name win over those in the image."""
    with container(built, "--max-log-entries=7", "--log-format=json") as (process, inside, _):
        os.kill(inside, signal.SIGTERM)
        _, err = process.communicate(timeout=120)
        assert json.loads(err.splitlines()[0])["level"] == "info"


def yaml_of(page: str) -> list[Any]:
    return [yaml.safe_load(text) for text in blocks(page, "yaml")]


@pytest.mark.parametrize("page", ["container.md", "many-nodes.md"])
def test_the_pods(page: str) -> None:
    """They have what they mount, the image finds it there, and nothing else has to be mounted in it."""
    (found,) = [each for each in yaml_of(page) if "services" not in each]
    pod = found["spec"]["template"]["spec"] if "kind" in found else found
    image = dockerfile()
    (container,) = pod["containers"]
    places = {mount["name"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert places.keys() == volumes.keys()
    (item,) = volumes["secret"]["secret"]["items"]
    secret = f"{places['secret']['mountPath']}/{item['path']}"
    assert f"--secret={secret}" in image.words("ENTRYPOINT")
    # The token of a service account would go below /run/secrets, which is read-only.
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    if "log" in places:
        assert image.of("VOLUME") == [places["log"]["mountPath"]]
    assert [port["containerPort"] for port in container["ports"]] == [int(image.of("EXPOSE")[0])]
    for probe, path in (("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": int(image.of("EXPOSE")[0])}
        assert path in ADMIN
    for variable in container.get("env", ()):
        assert variable["name"].removeprefix("TRIONOTIFY_").lower() in {
            param.name for param in serve.params
        }
    assert (
        pod["terminationGracePeriodSeconds"] >= Settings().drain_timeout + 2 * Settings().close_timeout
    )


@pytest.mark.parametrize("page", ["container.md", "many-nodes.md"])
def test_the_compositions(page: str) -> None:
    """Each service has the secret where the image looks for it, its volumes, and time to drain."""
    (found,) = [each for each in yaml_of(page) if "services" in each]
    service = found["services"]["trionotify"]
    assert service["build"]["dockerfile"] == "docs/howto/Dockerfile"
    (secret,) = service["secrets"]
    assert secret in found["secrets"]
    assert f"--secret=/run/secrets/{secret}" in dockerfile().words("ENTRYPOINT")
    named = {
        volume.partition(":")[0]
        for each in found["services"].values()
        for volume in each.get("volumes", ())
    }
    assert named == found["volumes"].keys()
    patience = int(service["stop_grace_period"].removesuffix("s"))
    assert patience >= Settings().drain_timeout + 2 * Settings().close_timeout
    for name in service.get("environment", {}):
        assert name.removeprefix("TRIONOTIFY_").lower() in {param.name for param in serve.params}


def test_the_port_of_a_kubernetes_service() -> None:
    """Where the command line has none, the variable is taken for an option, and refused by name."""
    environment = {**os.environ, "TRIONOTIFY_PORT": "tcp://10.0.0.1:8765"}
    done = subprocess.run(
        [sys.executable, "-m", "trionotify"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(
        "trionotify: TRIONOTIFY_PORT: 'tcp://10.0.0.1:8765' is not a valid integer"
    )
    assert "enableServiceLinks: false" in done.stderr
